"""The words, digits and directions of measures are the task's own, read from the run's record."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedrounds_common.shelves import TASKS
from fedrounds_common.task import Measure
from fedrounds_server.measures import Measures, counts_of
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.page import page
from fedrounds_server.report.results import comparisons, models_table
from fedrounds_server.report.sites import hospital_tables
from fedrounds_server.tables import MetricRow, read_metrics, write_metrics

Write = Callable[..., Path]
OURS = Measures(
    {"tre": Measure("TRE (mm)", lower_is_better=True, digits=1, brief=True), "folds": Measure("Folds (%)", True, 3)},
    ("no landmark", "lost", "invented"),
    parts=("place", "places"),
)


def test_what_a_record_holds_is_read_back_whatever_the_task_is_called() -> None:
    assert Measures.read(json.loads(json.dumps(OURS.as_dict())), "nobody's") == OURS


def test_a_record_without_measures_has_those_of_the_built_in_task() -> None:
    task, _ = TASKS.build({"name": "segmentation"}, "task")
    assert task is not None
    assert Measures.read({}, "segmentation") == Measures.of(task)
    assert Measures.read({}, "segmentation").word("hd95") == "HD95 (mm)"


def test_a_measure_that_nobody_described_is_called_by_its_name() -> None:
    assert Measures.read({}, "nobody's") == Measures()
    assert Measures()["flow"] == Measure("flow")


@pytest.mark.parametrize(
    "written", [{"measures": [3]}, {"measures": [], "counts": "x", "parts": ["one"]}, {"measures": [{"name": "a"}]}]
)
def test_a_record_written_by_somebody_else_breaks_nothing(written: dict[str, object]) -> None:
    assert Measures.read(written, "nobody's") == Measures()


def test_the_primary_measure_stands_first_in_short_tables_and_the_brief_ones_beside_it() -> None:
    assert OURS.brief("folds") == ("folds", "tre")
    assert OURS.brief("tre") == ("tre",)
    assert Measures({"a": Measure("A"), "b": Measure("B")}).brief("b") == ("b", "a")
    assert OURS.order(["other", "folds", "tre"]) == ["tre", "folds", "other"]


def test_counts_have_the_tasks_words_and_no_column_where_nothing_is_counted() -> None:
    row = MetricRow(1, "consensus", "all", "s01", "held-out", "mean", "tre", 2.0, 1.0, 3.0, 4, 0, 0, 0)
    assert counts_of(OURS, [row]).columns() == ()
    assert counts_of(OURS, [row]).cells(row) == ()
    counted = counts_of(OURS, [row, replace(row, missed=2)])
    assert counted.columns() == ("No landmark", "Lost", "Invented")
    assert counted.cells(row) == ("0", "0", "0")


def as_millimetres(path: Path) -> Path:
    """The fake run, as if its Dice were millimetres from the landmark."""
    record = json.loads((path / "record.json").read_text("utf-8"))
    (path / "record.json").write_text(json.dumps({**record, **OURS.as_dict()}), "utf-8")
    study = (path / "study.resolved.toml").read_text("utf-8")
    (path / "study.resolved.toml").write_text(study.replace('primary = "dice"', 'primary = "tre"'), "utf-8")
    write_metrics(path / "metrics.csv", [replace(row, metric="tre") for row in read_metrics(path / "metrics.csv")])
    return path


def test_a_report_speaks_of_the_tasks_measure_and_turns_better_and_worse_around(fake_run: Write) -> None:
    plain = {one.other.label: one for one in comparisons(read_run(fake_run(), False)) if one.other.region == "mean"}
    run = read_run(as_millimetres(fake_run("0002-mm")), False)
    turned = {one.other.label: one for one in comparisons(run) if one.other.region == "mean"}
    # the same numbers: what was 0.78 against 0.35 of Dice is now 0.78 mm against 0.35 mm
    assert plain["floor"].difference == turned["floor"].difference
    assert plain["floor"].better + turned["floor"].better == plain["floor"].other.hospitals
    models = models_table(run)
    assert models is not None
    assert models.caption.startswith("Mean TRE (mm) at ")
    assert models.columns[-1] == "No landmark / lost / invented"
    text = page(run, ())
    assert "Dice" not in text
    assert "No landmark" in text
    assert "Mean of places" in text
    assert "regions" not in text
    # the largest distance is the worst hospital
    first = hospital_tables(run)[-1].rows[0]
    values = [float(row[2].split(" ")[0]) for row in hospital_tables(run)[-1].rows]
    assert values == sorted(values, reverse=True)
    assert "worst" in first[-1]
    assert first[2].count(".") == 3, "one decimal for each of value, low and high"


def test_no_hospital_is_called_the_worst_by_few_cases_and_those_stand_last(fake_run: Write) -> None:
    path = fake_run()
    study = (path / "study.resolved.toml").read_text("utf-8")
    (path / "study.resolved.toml").write_text(f'{study}[task]\nname = "classification"\n', "utf-8")
    run = read_run(path, False)
    # 4, 7, 10 or 13 cases a hospital; of "mean" a classification asks for ten
    local = hospital_tables(run)[-1]
    ranked = [int(row[1]) >= 10 for row in local.rows]
    assert ranked == sorted(ranked, reverse=True)
    assert 0 < sum(ranked) < len(ranked)
    assert all(("not ranked" in row[-1]) == (int(row[1]) < 10) for row in local.rows)
    assert "worst" in local.rows[0][-1]
