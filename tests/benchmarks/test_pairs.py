"""The benchmarks' harness: its statistics by hand, and what it sees of processes."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pairs import (
    Estimate,
    Row,
    Side,
    SideFailed,
    Wanted,
    compare,
    estimate_of,
    interval_of,
    measure,
    measures_of,
    ratio,
    run_side,
    spread_of,
    write,
)  # fmt: skip


def python(text: str) -> tuple[str, ...]:
    return sys.executable, "-c", text


def test_of_ten_values_the_interval_goes_from_the_second_to_the_ninth() -> None:
    # P(at most one of ten below the median) = 11/1024, twice that is 2.1 %; at most two: 56/1024, 10.9 %
    assert interval_of([float(value) for value in range(10, 0, -1)]) == (2.0, 9.0)


def test_six_values_are_the_fewest_that_have_an_interval_at_95_percent() -> None:
    # all six on one side of the median: 2/64 = 3.1 %; all five: 2/32 = 6.3 %
    assert interval_of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == (1.0, 6.0)
    assert interval_of([1.0, 2.0, 3.0, 4.0, 5.0]) is None


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(2000):
        low, high = interval_of(list(rng.exponential(size=10))) or (0.0, 0.0)
        held += low <= math.log(2) <= high  # the median of an exponential
    # 97.9 % of 2,000, four standard errors (0.3 points each) around
    assert 0.966 < held / 2000 < 0.992


def test_ratios_are_taken_pair_by_pair_and_not_of_the_medians() -> None:
    # medians 2 and 20 would give 0.1; the pairs' ratios are 0.5, 0.1, 0.01
    found = measures_of([{"wall": 1.0}, {"wall": 2.0}, {"wall": 3.0}], [{"wall": 2.0}, {"wall": 20.0}, {"wall": 300.0}])
    assert found["wall"].ratio == Estimate(0.1, None, None)
    assert found["wall"].spread == (1.5, 2.0)  # 2/1 and 3/2


def test_what_one_run_lacks_is_no_measure() -> None:
    found = measures_of([{"wall": 1.0, "odd": 1, "text": "a", "right": True}, {"wall": 2.0}], [{"wall": 1.0}] * 2)
    assert list(found) == ["wall"]


def test_a_bound_is_met_when_the_whole_interval_meets_it() -> None:
    inside, across = Estimate(1.02, 1.01, 1.04), Estimate(1.02, 1.01, 1.06)
    assert inside.meets(Wanted("wall", most=1.05)) is True
    assert across.meets(Wanted("wall", most=1.05)) is False
    assert Estimate(7.0, 5.1, 9.0).meets(Wanted("rate", least=5.0)) is True
    assert Estimate(7.0, 4.9, 9.0).meets(Wanted("rate", least=5.0)) is False
    assert Estimate(1.0, None, None).meets(Wanted("wall", most=1.05)) is None


def test_a_bound_on_ours_alone_looks_at_ours() -> None:
    values = [2.0] * 6
    row = Row("START", "ours", "theirs", measures_of([{"wall": value} for value in values], [{"wall": 9.0}] * 6))
    assert row.met(Wanted("wall", most=2.5, alone=True)) is True
    assert row.met(Wanted("wall", most=0.2)) is False  # 2/9 = 0.22


def test_no_work_against_no_work_has_no_ratio() -> None:
    assert math.isnan(ratio(0.0, 0.0))
    assert ratio(1.0, 0.0) == math.inf
    assert spread_of([1.0]) is None
    assert estimate_of([3.0]).median == 3.0


def test_a_run_is_charged_for_its_grandchildren() -> None:
    work = "sum(range(3_000_000)); x = bytearray(60 * 2**20)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}]); print('{{}}')"
    plain = run_side(Side("plain", python("print('{}')")))
    found = run_side(Side("nested", python(nested)))
    assert found["cpu"] > plain["cpu"]
    assert found["peak_mib"] > plain["peak_mib"] + 50  # the kernel keeps the largest of a single process
    assert found["left"] == 0


def test_a_process_that_left_its_parent_is_seen_and_ended() -> None:
    # a daemon, as Ray starts them: a session of its own, and its parent gone
    daemon = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); print('{}')"
    assert run_side(Side("daemon", python(daemon)))["left"] == 1


def test_both_sides_have_one_passive_thread_and_report_nothing() -> None:
    text = "import json, os; print(json.dumps({k: os.environ[k] for k in ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY', 'RAY_USAGE_STATS_ENABLED')}))"
    found = run_side(Side("asks", python(text)))
    assert (found["OMP_NUM_THREADS"], found["OMP_WAIT_POLICY"], found["RAY_USAGE_STATS_ENABLED"]) == (
        "1",
        "PASSIVE",
        "0",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [("import sys; sys.exit('no GPU here')", "no GPU here"), ("print('hello')", "no JSON: hello"), ("", "no JSON")],
)
def test_a_side_that_fails_says_with_which_last_words(text: str, why: str) -> None:
    with pytest.raises(SideFailed, match=why):
        run_side(Side("bad", python(text)))


def test_a_side_that_does_not_end_is_ended() -> None:
    with pytest.raises(SideFailed, match="had not ended after 0 s"):
        run_side(Side("endless", python("import time; time.sleep(600)"), timeout_s=0.4))


def test_pairs_run_a_b_b_a_after_one_run_of_each_that_is_thrown_away(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def side(name: str, seconds: float) -> Side:
        return Side(name, python(f"open({str(log)!r}, 'a').write({name!r}); print('{{\"seconds\": {seconds}}}')"))

    row = compare("ROW", side("A", 1.0), side("B", 4.0), pairs=4, wanted=[Wanted("seconds", most=0.5)])
    assert log.read_text() == "BAABBAABBA"
    assert row.measures["seconds"].ratio == Estimate(0.25, None, None)
    assert len(row.runs["A"]) == len(row.runs["B"]) == 4
    assert row.met(row.wanted[0]) is None  # four pairs have no interval


def test_sides_that_disagree_are_not_compared() -> None:
    def same(mine: Any, theirs: Any) -> None:
        assert mine["digest"] == theirs["digest"], "another result"

    sides = [Side(name, python(f'print(\'{{"digest": "{name}"}}\')')) for name in "AB"]
    with pytest.raises(AssertionError, match="another result"):
        compare("ROW", *sides, pairs=1, check=same)


def test_a_peer_that_cannot_be_run_is_printed_and_not_left_out(tmp_path: Path) -> None:
    ours, absent = Side("ours", python("print('{}')")), Side("peer", fault="pip: no such version")
    row = compare("ROW", ours, absent, pairs=1)
    assert row.measures["wall"].ratio is None
    write("absent", [row], {}, tmp_path)
    assert "not run: pip: no such version" in (tmp_path / "absent.md").read_text("utf-8")


def test_ours_that_cannot_be_run_is_an_error() -> None:
    with pytest.raises(SideFailed, match="broken"):
        compare("ROW", Side("ours", fault="broken"), Side("peer", python("print('{}')")), pairs=1)


def test_what_is_written_holds_every_run_and_names_what_was_off(tmp_path: Path) -> None:
    side = Side("ours", python('print(\'{"digest": "ab"}\')'), off=("the report",))
    file = write("alone", [measure("ROW", side, 2, [Wanted("wall", most=60.0, alone=True)])], {"sites": 8}, tmp_path)
    found = json.loads(file.read_text("utf-8"))
    assert [run["digest"] for run in found["rows"][0]["runs"]["ours"]] == ["ab", "ab"]
    assert found["rows"][0]["met"] == {"wall ≤ 60": None}
    assert found["settings"] == {"sites": 8}
    assert found["machine"]["cores"] >= 1
    assert "torch" in found["versions"]
    assert "ours without the report" in file.with_suffix(".md").read_text("utf-8")
