"""The table of `make attacks` names tests that are there, and says of each row what became of them."""

from __future__ import annotations

from itertools import groupby

import attacks
import pytest
from attacks import ROWS, Results, Row, verdict


def test_every_row_names_tests_that_are_there() -> None:
    where = attacks.paths()
    named = {tuple(test.split("::")) for row in ROWS for test in row.tests}
    assert len(named) > 30
    missing = [each for each in named if f"def {each[1]}(" not in where[each[0]].read_text("utf-8")]
    assert missing == []


def test_tests_of_one_file_follow_each_other_so_that_its_federation_is_built_once() -> None:
    files = [node.partition("::")[0] for node in attacks.nodes(live=True)]
    assert [file for file, _ in groupby(files)] == list(dict.fromkeys(files))
    assert len(files) == len({test for row in ROWS for test in row.tests})


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ({"a.py::x": {"passed"}, "b.py::y": {"passed"}}, ("held", "2 tests; 3 MB")),
        ({"a.py::x": {"passed"}, "b.py::y": {"passed", "failed"}}, ("FAILED", "b.py::y")),
        ({"a.py::x": {"passed"}}, ("partly", "1 tests; 3 MB; 1 not run")),
        ({"a.py::x": {"skipped"}}, ("not run", "0 tests; 3 MB; 2 not run")),
    ],
)
def test_a_row_holds_only_where_every_test_of_it_passed(outcomes: dict[str, set[str]], said: tuple[str, str]) -> None:
    results = Results()
    results.outcomes |= outcomes
    results.counts |= dict.fromkeys(outcomes, 1)
    results.measured["a.py::x"] = "3 MB"
    assert verdict(Row("attack", "refused", ["a.py::x", "b.py::y"]), results) == said
