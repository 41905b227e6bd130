"""Areas from histograms: equal to pair counting of the binned scores, and as near to the exact ones as they say."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from numpy.typing import NDArray

from fedrounds_common.case import F64
from fedrounds_common.metrics import curves


def auc_by_pairs(scores: NDArray[np.generic], truth: F64) -> float:
    """Every positive beside every negative, in whole numbers."""
    positive, negative = scores[truth == 1], scores[truth == 0]
    higher = sum(int((p > negative).sum()) * 2 + int((p == negative).sum()) for p in positive)
    return float(Fraction(higher, 2 * len(positive) * len(negative)))


def ap_by_thresholds(scores: NDArray[np.generic], truth: F64) -> float:
    total, before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        named = scores >= threshold
        recall = truth[named].sum() / truth.sum()
        total += (recall - before) * truth[named].mean()
        before = recall
    return total


def drawn(seed: int, cases: int = 300, sharp: float = 3.0) -> tuple[F64, F64]:
    draws = np.random.default_rng(seed)
    truth = (draws.random(cases) < 0.3).astype(np.float64)
    truth[:2] = 0, 1
    odds = draws.normal(sharp * (truth - 0.5), 2)
    return 1 / (1 + np.exp(-odds)), truth


@pytest.mark.parametrize("bins", [10, 200, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_areas_are_those_of_the_binned_scores(seed: int, bins: int) -> None:
    p, truth = drawn(seed)
    counts = curves.histogram(p, truth, bins)
    binned = curves.places(p, bins)
    assert counts.sum() == len(p)
    assert curves.auc(counts) == pytest.approx(auc_by_pairs(binned, truth), abs=1e-12)
    assert curves.ap(counts) == pytest.approx(ap_by_thresholds(binned, truth), abs=1e-12)


@pytest.mark.parametrize("bins", [10, 50, 1000, 10_000])
@pytest.mark.parametrize("seed", range(10))
def test_the_exact_areas_lie_within_the_bounds(seed: int, bins: int) -> None:
    p, truth = drawn(seed)
    counts = curves.histogram(p, truth, bins)
    slack = 1e-12
    assert abs(curves.auc(counts) - auc_by_pairs(p, truth)) <= curves.auc_bound(counts) + slack
    assert abs(curves.ap(counts) - ap_by_thresholds(p, truth)) <= curves.ap_bound(counts) + slack


def test_the_bound_is_reached_by_scores_that_one_bin_hides() -> None:
    counts = np.zeros((2, 10))
    counts[:, 4] = 3, 2
    assert (curves.auc(counts), curves.auc_bound(counts)) == (0.5, 0.5)
    # at best 1, at worst (1/4 + 2/5) / 2
    assert curves.ap_bound(counts) == pytest.approx(max(1 - 0.4, 0.4 - 0.325))


def test_ten_thousand_bins_are_within_a_thousandth_even_where_scores_are_pushed_against_one() -> None:
    draws = np.random.default_rng(1)
    truth = (draws.random(5000) < 0.5).astype(np.float64)
    p = 1 / (1 + np.exp(-draws.normal(12 + 6 * (truth - 0.5), 3)))  # equal steps of probability would hold all in one
    counts = curves.histogram(p, truth, 10_000)
    assert curves.auc_bound(counts) < 1e-3
    assert abs(curves.auc(counts) - auc_by_pairs(p, truth)) < 1e-3


@given(some.lists(some.floats(0, 1), min_size=2, max_size=40))
def test_no_order_of_two_scores_is_turned_round(scores: list[float]) -> None:
    p = np.sort(np.array(scores))
    places = curves.places(p, 10_000)
    assert (np.diff(places) >= 0).all()
    assert places.min() >= 0
    assert places.max() < 10_000


def test_scores_of_exactly_0_and_1_are_in_the_outermost_bins() -> None:
    assert curves.places(np.array([0.0, 0.5, 1.0]), 10).tolist() == [0, 5, 9]


def test_without_both_kinds_there_is_no_area() -> None:
    counts = curves.histogram(np.array([0.2, 0.9]), np.zeros(2), 100)
    assert all(math.isnan(value) for value in (curves.auc(counts), curves.auc_bound(counts), curves.ap(counts)))
    assert all(map(math.isnan, (*curves.auc_interval(counts), *curves.ap_interval(counts))))


def test_delongs_error_is_that_of_the_placements() -> None:
    p, truth = drawn(4, cases=60)
    counts = curves.histogram(p, truth, 10_000)
    positive, negative = (np.sort(curves.places(p, 10_000)[truth == kind]) for kind in (1, 0))
    table = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    expected = table.mean(1).var(ddof=1) / len(positive) + table.mean(0).var(ddof=1) / len(negative)
    assert curves.auc_error(counts) == pytest.approx(math.sqrt(expected), rel=1e-12)


def test_the_intervals_of_both_areas_hold_the_truth_as_often_as_they_say() -> None:
    def population(seed: int, cases: int) -> tuple[F64, F64]:
        draws = np.random.default_rng(seed)
        truth = np.zeros(cases)
        truth[: cases // 3] = 1
        return 1 / (1 + np.exp(-draws.normal(truth * 1.5, 1))), truth

    p, truth = population(0, 60_000)
    whole = curves.histogram(p, truth, 10_000)
    held = np.zeros(2)
    for seed in range(1, 401):
        counts = curves.histogram(*population(seed, 120), 10_000)
        for place, (interval, area) in enumerate(((curves.auc_interval, curves.auc), (curves.ap_interval, curves.ap))):
            low, high = interval(counts)
            held[place] += low <= area(whole) <= high
    assert (held / 400 > 0.91).all(), held / 400
    assert held[0] / 400 < 0.985


def test_a_perfect_area_has_an_interval_that_more_cases_make_narrower() -> None:
    lows = []
    for cases in (5, 20, 100):
        counts = np.zeros((2, 10))
        counts[0, 1] = counts[1, 8] = cases
        low, high = curves.auc_interval(counts)
        assert high == 1
        lows.append(low)
    assert 0.5 < lows[0] < lows[1] < lows[2] < 1
    # 20 and 20: Newcombe's method 5 by hand: the area whose reach ends at 1
    area = lows[1]
    variance = area * (1 - area) * (1 + 19 * (1 - area) / (2 - area) + 19 * area / (1 + area)) / 400
    assert area + curves.Z * math.sqrt(variance) == pytest.approx(1, abs=1e-9)
