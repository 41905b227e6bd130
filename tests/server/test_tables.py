"""`metrics.csv` is written whole, sorted and exactly, and read with the line of any fault."""

from __future__ import annotations

import doctest
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrounds_common.errors import RunFileError
from fedrounds_common.task import Metric
from fedrounds_server import tables
from fedrounds_server.tables import (
    COLUMNS,
    MetricRow,
    cohort_to_show,
    final_rows,
    mean_of,
    metric_rows,
    read_metrics,
    regions_of,
    shown_bytes,
    shown_difference,
    shown_interval,
    shown_seconds,
    shown_spread,
    write_metrics,
)

NAN = math.nan
ROW = MetricRow(3, "consensus", "all", "s01", "held-out", "WT", "dice", 0.1 + 0.2, 0.25, 0.35, 10, 1, 2, 3)
FLOATS = st.one_of(st.just(NAN), st.floats(allow_nan=False, allow_infinity=False))


def same(one: MetricRow, other: MetricRow) -> bool:
    """Equal to the bit; nan equals nan here."""
    return all(
        a == b or (a != a and b != b)
        for a, b in zip(*(map(row.__getattribute__, COLUMNS) for row in (one, other)), strict=True)
    )


def test_the_columns_are_those_of_the_architecture() -> None:
    agreed = "round,model,trained_at,site,cohort,region,metric,value,low,high,n,empty,missed,spurious"
    assert ",".join(COLUMNS) == agreed


@given(value=FLOATS, low=FLOATS, high=FLOATS, n=st.integers(0, 10**6))
def test_every_float_comes_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, value: float, low: float, high: float, n: int
) -> None:
    file = tmp_path_factory.mktemp("run") / "metrics.csv"
    row = replace(ROW, value=value, low=low, high=high, n=n)
    write_metrics(file, [row])
    [back] = read_metrics(file)
    assert same(back, row)


def test_what_is_not_a_number_is_an_empty_field(tmp_path: Path) -> None:
    write_metrics(tmp_path / "m.csv", [replace(ROW, value=NAN, low=NAN, high=NAN)])
    assert (tmp_path / "m.csv").read_text().splitlines()[1] == "3,consensus,all,s01,held-out,WT,dice,,,,10,1,2,3"


def test_the_order_in_which_rows_come_leaves_no_trace(tmp_path: Path) -> None:
    rows = [replace(ROW, site=site, round=round) for site in ("s02", "all", "s01") for round in (2, 1)]
    write_metrics(tmp_path / "a.csv", rows)
    write_metrics(tmp_path / "b.csv", rows[::-1])
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert [(row.round, row.site) for row in read_metrics(tmp_path / "a.csv")] == [
        (1, "all"), (1, "s01"), (1, "s02"), (2, "all"), (2, "s01"), (2, "s02"),
    ]  # fmt: skip


def test_two_values_for_one_thing_are_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    write_metrics(file, [ROW])
    before = file.read_bytes()
    with pytest.raises(RunFileError, match="FR-F24 .*two lines for 3/consensus/all/s01/held-out/WT/dice"):
        write_metrics(file, [ROW, replace(ROW, value=0.9)])
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match=r"FR-F21 .*there is no metrics\.csv"):
        read_metrics(tmp_path / "metrics.csv")


def test_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("round,model,dice\n1,consensus,0.5\n")
    with pytest.raises(RunFileError, match="FR-F22 .*columns round,model,dice; round,model,trained_at"):
        read_metrics(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("found", "put", "says"),
    [("0.25", "0,25", "15 fields; 14"), ("0.35", "high", "could not convert"), (",10,", ",ten,", "invalid literal")],
)
def test_a_line_that_cannot_be_read_is_named_by_its_number(tmp_path: Path, found: str, put: str, says: str) -> None:
    file = tmp_path / "m.csv"
    write_metrics(file, [ROW, replace(ROW, round=4)])
    lines = file.read_text().splitlines()
    lines[2] = lines[2].replace(found, put)
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunFileError, match=f"FR-F23 .*line 3: {says}"):
        read_metrics(file)


def test_a_tasks_table_becomes_lines_with_the_same_numbers() -> None:
    metric = Metric("ET", "hd95", 4.5, 3.5, 5.5, n=7, empty=1, missed=2, spurious=3)
    [row] = metric_rows([metric], round=5, model="pooled", trained_at="all", site="s02", cohort="train")
    assert row == MetricRow(5, "pooled", "all", "s02", "train", "ET", "hd95", 4.5, 3.5, 5.5, 7, 1, 2, 3)


def test_the_last_round_counts_and_not_the_best() -> None:
    best, last = replace(ROW, round=3, value=0.9), replace(ROW, round=4, value=0.7)
    initial = replace(ROW, model="initial", round=0)
    assert final_rows([best, last, initial]) == (last, initial)


def test_each_sites_own_model_has_its_own_last_round() -> None:
    one = replace(ROW, model="local-only", trained_at="s01", round=9)
    other = replace(ROW, model="local-only", trained_at="s02", round=7)
    assert final_rows([one, other, replace(one, round=8)]) == (one, other)


def test_held_out_hospitals_are_shown_before_validation_cases() -> None:
    local = replace(ROW, cohort="local-val")
    assert cohort_to_show([local, ROW]) == "held-out"
    assert cohort_to_show([local, replace(ROW, cohort="train")]) == "local-val"
    assert cohort_to_show([]) == ""


def test_the_mean_over_one_region_is_not_shown_beside_it() -> None:
    mean = replace(ROW, region="mean")
    assert regions_of([ROW, mean]) == ("WT",)
    assert regions_of([ROW, mean, replace(ROW, region="ET")]) == ("mean", "ET", "WT")


def test_numbers_are_printed_as_the_page_needs_them() -> None:
    assert shown_interval(0.8719, 0.8549, 0.8901) == "0.87 [0.85, 0.89]"
    assert shown_interval(0.8719, NAN, NAN) == "0.87"
    assert shown_interval(NAN, NAN, NAN) == "–"
    assert shown_difference(-0.0312, -0.05, 0.011) == "−0.031 [−0.050, +0.011]"
    assert shown_difference(NAN, NAN, NAN) == "–"
    assert shown_spread(0.8712, 0.0041) == "0.871 ± 0.004"
    assert shown_spread(0.8712, NAN) == "0.871"
    assert [shown_bytes(count) for count in (0, 1000, 999_949, 1.5e13)] == ["0 B", "1.0 kB", "999.9 kB", "15.0 TB"]
    assert [shown_seconds(s) for s in (12.14, 372, 7380)] == ["12.1 s", "6 min 12 s", "2 h 03 min"]


def test_the_examples_in_the_module_hold() -> None:
    result = doctest.testmod(tables)
    assert result.attempted >= 5
    assert result.failed == 0


def test_hospitals_weigh_the_same_unless_cases_are_asked_for() -> None:
    def row(site: str, value: float, n: int) -> MetricRow:
        return MetricRow(1, "consensus", "all", site, "held-out", "mean", "dice", value, NAN, NAN, n, 0, 0, 0)

    # over cases (3 * 0.9 + 1 * 0.5) / 4 = 0.8, over hospitals (0.9 + 0.5) / 2 = 0.7; c could average nothing
    rows = [row("all", 0.8, 4), row("a", 0.9, 3), row("b", 0.5, 1), row("c", NAN, 0)]
    assert mean_of(rows) == pytest.approx(0.7)
    assert mean_of(rows, "cases") == 0.8
    assert math.isnan(mean_of([]))
