"""The floor's lines are made as every other model's: patients resampled, empty masks counted."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from pathlib import Path

import numpy as np
import pytest

from fedrounds import floor
from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.case import CaseRef
from fedrounds_common.metrics import summary
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.task import CaseScore
from fedrounds_common.untrained import Judged, Rule, as_scores, best_of

MINE = Path(__file__).parents[1] / "data" / "cubes"
SCORED, BOTH_EMPTY, MISSED, SPURIOUS = range(4)

# two visits of p1 and one of p2; two rules; regions ET and WT
DICE = np.array([[[0.2, 0.4], [0.9, 0.1]], [[1.0, 0.8], [1.0, 0.1]], [[0.0, 0.6], [0.0, 0.1]]])
STATES = np.array(
    [[[SCORED, SCORED], [SCORED, SCORED]], [[BOTH_EMPTY, SCORED], [BOTH_EMPTY, SCORED]], [[MISSED, SCORED], [SPURIOUS, SCORED]]],
    np.float64,
)  # fmt: skip
REFS = tuple(CaseRef(*name) for name in (("p1-a", "p1"), ("p1-b", "p1"), ("p2-a", "p2")))
RULES = (Rule("otsu", "t1", "bright", False), Rule("k-means", "t1", "cluster 1 of 4", True))
FOUND = Judged(REFS, RULES, DICE, STATES)
FORM = CaseForm(labels={"enhancing": 1, "oedema": 2}, regions={"ET": ("enhancing",), "WT": ("enhancing", "oedema")})
REGIONS = ["ET", "WT"]


def chosen(empty: str) -> tuple[list[CaseScore], dict[str, str]]:
    return best_of(as_scores(FOUND, FORM, empty), REGIONS)


def test_each_region_takes_the_rule_of_the_highest_mean_in_it() -> None:
    scores, rules = chosen("one")
    assert rules == {"ET": str(RULES[1]), "WT": str(RULES[0])}
    assert [score.values["ET"]["dice"] for score in scores] == [0.9, 1.0, 0.0]
    assert [score.values["WT"]["dice"] for score in scores] == [0.4, 0.8, 0.6]
    assert [score.values["mean"]["dice"] for score in scores] == pytest.approx([0.65, 0.9, 0.3])


def test_two_visits_are_one_patient_and_empty_masks_are_counted() -> None:
    scores, _ = chosen("one")
    total = summary.tally(scores, REGIONS, 20, 7)
    assert total["patients"][:, 0].tolist() == [2, 2, 2]
    rows = {(row.region, row.metric): row for row in summary.table(total, REGIONS)}
    assert (rows["ET", "dice"].empty, rows["ET", "dice"].missed, rows["ET", "dice"].spurious) == (1, 0, 1)
    one_patient = summary.table(summary.tally(scores[:2], REGIONS, 20, 7), REGIONS)
    assert all(isnan(row.low) for row in one_patient)


def test_two_empty_masks_are_left_out_where_the_study_skips_them() -> None:
    scores, _ = chosen("skip")
    assert isnan(scores[1].values["ET"]["dice"])
    assert scores[1].values["mean"]["dice"] == 0.8
    assert summary.tally(scores, REGIONS, 0, 7)["count"][:, 0].tolist() == [2, 3, 3]


def test_what_a_worker_found_comes_back_as_it_was() -> None:
    scores = as_scores(FOUND, FORM, "skip")
    back = floor.unpacked(floor.packed(scores))
    assert repr(back) == repr(scores)  # nan is not equal to itself, and is printed alike
    more = CaseScore("c", "p", {"": {"auc": 0.5}}, {"a": "scored"}, {"p": np.array([0.25, 0.75])})
    one = floor.unpacked(floor.packed({"rule": [more]}))["rule"][0]
    assert (one.values, one.state) == (more.values, more.state)
    np.testing.assert_array_equal(one.arrays["p"], more.arrays["p"])
    assert floor.unpacked(floor.packed({})) == {}


def test_the_floor_of_a_run_has_the_patients_of_its_consensus(tmp_path: Path, cubes: Callable[..., Path]) -> None:
    # every two cases of the reader are one patient's: below two patients a line has no interval
    own = tmp_path / "own" / "readers"
    own.mkdir(parents=True)
    text = (MINE / "readers" / "cubes.py").read_text("utf-8")
    alike = 'CaseRef(f"{site}{number}", f"{site}{number}", site)'
    assert alike in text
    (own / "cubes.py").write_text(text.replace(alike, 'CaseRef(f"{site}{number}", f"{site}-one", site)'), "utf-8")
    found = simulate(
        cubes(tmp_path, rounds=1), plugins=[tmp_path / "own"], runs=tmp_path / "runs",
        overrides=['simulation.baselines=["floor"]', 'cohort.held_out=["D"]'],
    )  # fmt: skip
    assert isinstance(found, Run)
    floor, ours = (
        [
            row
            for row in found.metrics
            if (row.model, row.cohort, row.site, row.metric) == (name, "held-out", "D", "dice")
        ]
        for name in ("floor", "consensus")
    )
    assert [(row.region, row.n) for row in floor] == [(row.region, row.n) for row in ours]
    assert all(isnan(row.low) and isnan(row.high) for row in [*floor, *ours])
