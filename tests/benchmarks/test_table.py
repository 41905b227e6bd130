"""The page of benchmarks holds what the programs wrote, and nothing by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pairs import Estimate, Measure, Row, Side, Wanted, measure, row_of, write
from table import BEGIN, END, PAGE, TITLES, filled

REPO = Path(__file__).parents[2]


def test_a_row_comes_back_as_it_was_written(tmp_path: Path) -> None:
    row = Row(
        "OVH", "ours", "bare", {"seconds": Measure(Estimate(1.0, 0.9, 1.1), Estimate(2.0, None, None), Estimate(0.5, 0.4, 0.6), (0.9, 1.1))},
        (Wanted("seconds", most=1.05),), {"ours": [{"seconds": 1.0}]}, {"ours": ["the report"]}, "", "a note",
    )  # fmt: skip
    file = write("overhead", [row], {"sites": 8}, tmp_path, ("seconds",))
    assert row_of(json.loads(file.read_text("utf-8"))["rows"][0]) == Row(
        **{**vars(row), "off": {"ours": ["the report"]}}
    )


def test_the_page_is_filled_between_its_marks_in_the_order_of_the_titles(tmp_path: Path) -> None:
    side = Side("ours", (sys.executable, "-c", "print('{}')"))
    for name in ("zebra", "start", "overhead"):
        write(name, [measure("ROW", side, 1)], {"sites": 8}, tmp_path, ("wall",))
    page = filled(f"above\n{BEGIN}\nold 1.23\n{END}\nbelow", tmp_path)
    assert page.startswith("above\n")
    assert page.endswith("\nbelow")
    assert "old" not in page
    places = [page.index(title) for title in (TITLES["overhead"], TITLES["start"], "### zebra")]
    assert places == sorted(places)
    assert filled(page, tmp_path) == page


def test_what_was_not_measured_is_named(tmp_path: Path) -> None:
    assert "Not measured yet: OVH, AGG, ROUND, K1000, START, " in filled(f"{BEGIN}{END}", tmp_path)
    side = Side("ours", (sys.executable, "-c", "print('{}')"))
    write("start", [measure("ROW", side, 1)], {"sites": 8}, tmp_path, ("wall",))
    assert "Not measured yet: OVH, AGG, ROUND, K1000, BYTES, " in filled(f"{BEGIN}{END}", tmp_path)


def test_the_page_has_its_marks_and_names_every_program_that_make_bench_runs() -> None:
    text = PAGE.read_text("utf-8")
    assert text.index(BEGIN) < text.index(END)
    makefile = (REPO / "Makefile").read_text("utf-8")
    (line,) = [line for line in makefile.splitlines() if line.startswith("BENCHMARKS ?=")]
    for name in line.partition("?=")[2].split():
        assert (REPO / "benchmarks" / f"{name}.py").is_file()
        assert f"`{name}.py`" in text
