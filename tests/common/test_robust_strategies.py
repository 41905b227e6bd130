"""Median and trimmed mean, by sums that can be done by hand; and what some lying sites can move."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrounds_common.arrays import Array, digest
from fedrounds_common.columns import NUMBERS, by_columns
from fedrounds_common.errors import RoundError
from fedrounds_common.strategies.median import Median
from fedrounds_common.strategies.trimmed_mean import TrimmedMean
from fedrounds_common.strategy import Consensus, SiteUpdate, Strategy


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def sites(*values: Array) -> list[SiteUpdate]:
    return [SiteUpdate(f"s{number:02d}", {"w": value}, 1 + number) for number, value in enumerate(values)]


def moved_by(strategy: Strategy, updates: Sequence[SiteUpdate]) -> Array:
    return strategy.aggregate(Consensus({"w": np.zeros_like(updates[0].arrays["w"])}), updates).arrays["w"]


def test_of_three_sites_the_middle_one_counts_weight_by_weight() -> None:
    # 1 5 2 → 2; 7 −1 100 → 7
    np.testing.assert_array_equal(moved_by(Median(), sites(f32(1, 7), f32(5, -1), f32(2, 100))), [2, 7])


def test_of_four_sites_the_mean_of_the_middle_two_counts() -> None:
    # 0 1 3 1000 → (1 + 3) / 2
    np.testing.assert_array_equal(moved_by(Median(), sites(f32(1000), f32(0), f32(3), f32(1))), [2])


def test_the_trimmed_mean_drops_a_share_at_either_end_rounded_down() -> None:
    five = sites(f32(-1000), f32(1), f32(2), f32(6), f32(1e9))
    # 0.2 of 5 is one at either end: (1 + 2 + 6) / 3
    np.testing.assert_array_equal(moved_by(TrimmedMean(share=0.2), five), [3])
    # 0.19 of 5 is none, and of the four others in the middle nothing is dropped: (1 + 2 + 6 − 1000) / 4
    np.testing.assert_array_equal(moved_by(TrimmedMean(share=0.19), five[:4]), [-247.75])
    # 0.29 · 100 is 28.999… in binary, and means 29: 0 … 28 and 71 … 99 go, 29 … 70 stay
    hundred = sites(*(f32(number if number < 99 else 1e6) for number in range(100)))
    np.testing.assert_array_equal(moved_by(TrimmedMean(share=0.29), hundred), [49.5])


@pytest.mark.parametrize("strategy", [Median(), TrimmedMean(share=0.3)])
def test_the_order_of_the_sites_changes_no_bit(strategy: Strategy) -> None:
    draws = np.random.default_rng(5)
    values = [draws.normal(size=7).astype(np.float32) for _ in range(5)]
    assert len({digest({"w": moved_by(strategy, sites(*order))}) for order in permutations(values)}) == 1


@settings(max_examples=60, deadline=None)
@given(
    honest=st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=9),
    lies=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), max_size=3),
)
def test_fewer_liars_than_honest_sites_cannot_lead_the_median_out_of_what_honest_sites_sent(
    honest: list[float], lies: list[float]
) -> None:
    found = float(moved_by(Median(), sites(*(f32(value) for value in (*lies, *honest))))[0])
    assert min(honest) <= found <= max(honest)


def test_integer_buffers_go_to_the_nearest_whole_number() -> None:
    counts = [SiteUpdate("a", {"n": np.array(3, np.int64)}, 1), SiteUpdate("b", {"n": np.array(8, np.int64)}, 1)]
    # 100 + (3 + 8) / 2 = 105.5, and 106 is even
    assert Median().aggregate(Consensus({"n": np.array(100, np.int64)}), counts).arrays["n"] == 106


@pytest.mark.parametrize("strategy", [Median(), TrimmedMean()])
def test_of_no_site_there_is_no_consensus(strategy: Strategy) -> None:
    with pytest.raises(RoundError, match="FR-R22 no updates"):
        strategy.aggregate(Consensus({"w": f32(1)}), [])


def test_both_read_each_update_and_so_cannot_stand_beside_secure_sums() -> None:
    assert {Median.reads, TrimmedMean.reads} == {"each"}
    assert (Median().folds(), TrimmedMean().folds()) == (None, None)


def test_however_many_sites_there_are_a_bounded_number_of_values_is_looked_at_together() -> None:
    widths: list[tuple[int, int]] = []

    def first(values: Array) -> Array:
        widths.append(values.shape)
        return values[0]

    updates = sites(*(np.full(3 * NUMBERS // 8, number, np.float32) for number in range(16)))
    by_columns(updates, first)["w"]
    # 16 sites: a 16th of the bound at a time, so 6 times a 16th for 3/8 of it
    assert widths == [(16, NUMBERS // 16)] * 6
