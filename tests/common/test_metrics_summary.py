"""Tallies add, tables count, intervals hold the truth as often as they say."""

from __future__ import annotations

from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrounds_common import rng
from fedrounds_common.metrics import summary
from fedrounds_common.metrics.rules import METRICS, STATES
from fedrounds_common.task import CaseScore, add_tallies

REGIONS = ("ET", "WT")
DICE = METRICS.index("dice")


def score(patient: str, et: float, wt: float, *, state: str = "scored", case: str = "") -> CaseScore:
    """A case whose every metric is its Dice; the regions' mean is given with it."""
    defined = [value for value in (et, wt) if not isnan(value)]
    values = {"ET": et, "WT": wt, "mean": sum(defined) / len(defined) if defined else nan}
    spread = {region: dict.fromkeys(METRICS, value) for region, value in values.items()}
    return CaseScore(case or patient, patient, spread, {"ET": state, "WT": "scored"})


SCORES = [
    score("p1", 0.8, 0.9),
    score("p2", nan, 0.7, state="both-empty"),
    score("p3", 0.0, 0.5, state="missed"),
    score("p3", 0.4, 0.6, state="spurious", case="p3-later"),
]


def tally(scores: list[CaseScore], resamples: int = 50, seed: int = 7) -> dict[str, np.ndarray]:
    return summary.tally(scores, REGIONS, resamples, seed)


def test_sums_and_counts_by_hand() -> None:
    total = tally(SCORES)
    assert total["cases"] == [4]
    # ET: 0.8 + 0 + 0.4 of 3 cases and 2 patients; WT: 0.9 + 0.7 + 0.5 + 0.6 of 4 and 3; mean: .85 + .7 + .25 + .5
    np.testing.assert_allclose(total["sum"][:, DICE], [1.2, 2.7, 2.3])
    np.testing.assert_array_equal(total["count"][:, DICE], [3, 4, 4])
    np.testing.assert_array_equal(total["patients"][:, DICE], [2, 3, 3])
    # scored, both-empty, missed, spurious; the last row is the sum over regions
    np.testing.assert_array_equal(total["state"], [[1, 1, 1, 1], [4, 0, 0, 0], [5, 1, 1, 1]])


def test_sums_and_counts_leave_with_these_shapes_and_types_and_nothing_else() -> None:
    for scores in (SCORES, []):
        total = tally(scores)
        assert {name: array.shape for name, array in total.items()} == {
            "cases": (1,),
            "sum": (3, 5),
            "count": (3, 5),
            "patients": (3, 5),
            "state": (3, 4),
            "replicate_sum": (50, 3, 5),
            "replicate_count": (50, 3, 5),
        }
        assert all(array.dtype == np.float64 for array in total.values())
        assert all(np.isfinite(array).all() for array in total.values())


def test_each_metric_has_a_column_of_its_own() -> None:
    values = {metric: float(place) for place, metric in enumerate(METRICS)}
    case = CaseScore("a", "a", {"ET": values, "WT": values, "mean": values}, {"ET": "scored", "WT": "scored"})
    np.testing.assert_array_equal(tally([case])["sum"], [[0, 1, 2, 3, 4]] * 3)


def test_a_patients_cases_come_and_go_together_with_the_weight_its_labels_give() -> None:
    total = tally(SCORES, resamples=30, seed=5)
    weight = {name: rng.generator(5, "bootstrap", name).poisson(1.0, 30) for name in ("p1", "p2", "p3")}
    wt = weight["p1"] * 0.9 + weight["p2"] * 0.7 + weight["p3"] * (0.5 + 0.6)
    np.testing.assert_allclose(total["replicate_sum"][:, 1, DICE], wt)
    np.testing.assert_allclose(total["replicate_count"][:, 1, DICE], weight["p1"] + weight["p2"] + 2 * weight["p3"])
    np.testing.assert_allclose(total["replicate_count"][:, 0, DICE], weight["p1"] + 2 * weight["p3"])


def test_another_model_meets_the_same_resampled_patients() -> None:
    other = [score(case.patient, 0.1, 0.2, case=case.case) for case in reversed(SCORES)]
    np.testing.assert_array_equal(tally(SCORES)["replicate_count"][:, 1], tally(other)["replicate_count"][:, 1])


def test_another_seed_gives_other_resamples() -> None:
    assert not np.array_equal(tally(SCORES, seed=1)["replicate_sum"], tally(SCORES, seed=2)["replicate_sum"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1), st.floats(0, 1)), max_size=8), st.integers(0, 8))
def test_the_tallies_of_two_sites_add_to_that_of_both(rows: list[tuple[int, float, float]], cut: int) -> None:
    first = [score(f"a{patient}", et, wt, case=f"a{i}") for i, (patient, et, wt) in enumerate(rows[:cut])]
    second = [score(f"b{patient}", et, wt, case=f"b{i}") for i, (patient, et, wt) in enumerate(rows[cut:])]
    added, together = add_tallies([tally(first), tally(second)]), tally(first + second)
    assert added.keys() == together.keys()
    for name in together:
        np.testing.assert_allclose(added[name], together[name], rtol=0, atol=1e-12)


# ---------------------------------------------------------------- the table


def test_the_table_by_hand() -> None:
    rows = summary.table(tally(SCORES), REGIONS)
    assert [(row.region, row.metric) for row in rows] == [
        (region, metric) for region in ("ET", "WT", "mean") for metric in METRICS
    ]
    et, wt, mean = rows[0], rows[5], rows[10]
    assert (et.n, et.empty, et.missed, et.spurious) == (3, 1, 1, 1)
    assert et.value == pytest.approx(0.4)
    assert (wt.n, wt.empty, wt.missed, wt.spurious) == (4, 0, 0, 0)
    assert wt.value == pytest.approx(0.675)
    assert (mean.n, mean.empty, mean.missed, mean.spurious) == (4, 1, 1, 1)
    assert mean.value == pytest.approx(0.575)
    assert wt.low < wt.value < wt.high


def test_a_table_of_nothing_is_nan_with_n_0() -> None:
    for row in summary.table(tally([]), REGIONS):
        assert isnan(row.value)
        assert isnan(row.low)
        assert isnan(row.high)
        assert (row.n, row.empty, row.missed, row.spurious) == (0, 0, 0, 0)


def test_one_patient_has_no_interval_however_many_cases() -> None:
    row = summary.table(tally([score("p", 0.5, 0.5), score("p", 0.7, 0.7, case="later")]), REGIONS)[0]
    assert row.n == 2
    assert row.value == pytest.approx(0.6)
    assert isnan(row.low)
    assert isnan(row.high)


def test_two_patients_have_one() -> None:
    row = summary.table(tally([score("p", 0.5, 0.5), score("q", 0.7, 0.7)]), REGIONS)[0]
    assert row.low == pytest.approx(0.5)
    assert row.high == pytest.approx(0.7)


def test_no_resamples_no_interval() -> None:
    row = summary.table(tally(SCORES, resamples=0), REGIONS)[5]
    assert row.value == pytest.approx(0.675)
    assert isnan(row.low)
    assert isnan(row.high)


def test_the_interval_is_of_the_replicates_in_which_somebody_counts() -> None:
    total = tally(SCORES[:2], resamples=200, seed=3)
    sums, counts = total["replicate_sum"][:, 1, DICE], total["replicate_count"][:, 1, DICE]
    assert (counts == 0).any()  # two patients: about one replicate in seven is empty
    means = summary.replicate_means(total, 1, DICE)
    np.testing.assert_allclose(means, sums[counts > 0] / counts[counts > 0])
    np.testing.assert_allclose(summary.interval(total, 1, DICE), np.percentile(means, [2.5, 97.5]))


def test_the_interval_is_as_wide_as_the_standard_error_says() -> None:
    values = rng.generator(0, "test").normal(0.7, 0.1, 100).clip(0, 1)
    total = tally([score(f"p{i}", value, nan) for i, value in enumerate(values)], resamples=2000)
    low, high = summary.interval(total, 0, DICE)
    error = values.std() / 10
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_states_are_those_of_the_written_rule() -> None:
    assert STATES == ("scored", "both-empty", "missed", "spurious")
