"""Averaging and the three strategies, by sums that can be done by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrounds_common.arrays import Array
from fedrounds_common.averaging import Weights, moved, weight_of, weighted_mean
from fedrounds_common.errors import RoundError
from fedrounds_common.strategies.fedavg import FedAvg
from fedrounds_common.strategies.fedavgm import FedAvgM
from fedrounds_common.strategies.fedprox import FedProx
from fedrounds_common.strategy import Consensus, SiteUpdate, Strategy, Trained

STRATEGIES = [FedAvg(), FedAvgM(), FedAvgM(nesterov=True, momentum=0.9, rate=0.7), FedProx()]


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def updates(*sites: tuple[Mapping[str, Array], int]) -> list[SiteUpdate]:
    return [SiteUpdate(f"s{number:02d}", arrays, cases) for number, (arrays, cases) in enumerate(sites)]


def one(value: float, cases: int = 10) -> list[SiteUpdate]:
    return updates(({"w": f32(value)}, cases))


def test_two_sites_weigh_in_by_their_cases() -> None:
    # (1 * 30 + 5 * 10) / 40 = 2
    mean = weighted_mean(updates(({"w": f32(1)}, 30), ({"w": f32(5)}, 10)))
    np.testing.assert_array_equal(mean["w"], [2.0])
    assert mean["w"].dtype == np.float64


def test_equal_sites_count_alike_and_root_lies_between() -> None:
    two = updates(({"w": f32(1)}, 81), ({"w": f32(5)}, 1))
    # cases (1 * 81 + 5 * 1) / 82; root (1 * 9 + 5 * 1) / 10 = 1.4; equal (1 + 5) / 2 = 3
    np.testing.assert_allclose(weighted_mean(two, "cases")["w"], [86 / 82], rtol=1e-12)
    np.testing.assert_allclose(weighted_mean(two, "root")["w"], [1.4], rtol=1e-12)
    np.testing.assert_array_equal(weighted_mean(two, "equal")["w"], [3.0])


@pytest.mark.parametrize(("weights", "weight"), [("cases", 16.0), ("equal", 1.0), ("root", 4.0)])
def test_what_a_site_of_sixteen_cases_weighs(weights: Weights, weight: float) -> None:
    assert weight_of(16, weights) == weight


def test_each_tensor_is_averaged_under_its_own_name() -> None:
    mean = weighted_mean(updates(({"a": f32(1), "b": f32(10)}, 1), ({"b": f32(30), "a": f32(3)}, 1)))
    assert {name: float(array[0]) for name, array in mean.items()} == {"a": 2.0, "b": 20.0}


def test_the_mean_is_taken_in_float64() -> None:
    # in float32, 2**24 + 1 is 2**24: the second site would vanish
    mean = weighted_mean(updates(({"w": f32(2**24)}, 1), ({"w": f32(1)}, 1)), "equal")
    np.testing.assert_array_equal(mean["w"], [(2**24 + 1) / 2])


def test_a_sites_own_arrays_are_not_changed() -> None:
    array = f32(1, 2)
    weighted_mean(updates(({"w": array}, 3), ({"w": f32(4, 5)}, 5)))
    np.testing.assert_array_equal(array, [1, 2])


@pytest.mark.parametrize("cases", [[], [0], [0, 0]])
def test_sites_that_weigh_nothing_make_no_mean(cases: Sequence[int]) -> None:
    with pytest.raises(RoundError, match=f"FR-R20 all {len(cases)} sites weigh 0"):
        weighted_mean(updates(*[({"w": f32(1)}, count) for count in cases]))


def test_a_site_without_cases_beside_others_does_not_pull() -> None:
    mean = weighted_mean(updates(({"w": f32(7)}, 4), ({"w": f32(1000)}, 0)))
    np.testing.assert_array_equal(mean["w"], [7.0])


def test_the_consensus_moves_by_the_step_in_its_own_dtypes() -> None:
    start = {"w": f32(1, 2), "n": np.array(5, np.int64)}
    there = moved(start, {"w": np.array([0.5, -0.5]), "n": np.array(1.6)})
    np.testing.assert_array_equal(there["w"], [1.5, 1.5])
    # 5 + 1.6 = 6.6: an integer buffer goes to the nearest, 7
    assert there["n"] == 7
    assert (there["w"].dtype, there["n"].dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(start["w"], [1, 2])


def test_fedavg_moves_by_the_weighted_mean_and_keeps_nothing() -> None:
    after = FedAvg().aggregate(Consensus({"w": f32(10)}), updates(({"w": f32(1)}, 30), ({"w": f32(5)}, 10)))
    np.testing.assert_array_equal(after.arrays["w"], [12.0])
    assert (after.kept, after.shared) == ({}, {})


@pytest.mark.parametrize("strategy", [FedAvg, FedAvgM, FedProx])
def test_every_strategy_weighs_as_its_field_says(strategy: type[FedAvg | FedAvgM | FedProx]) -> None:
    two = updates(({"w": f32(1)}, 81), ({"w": f32(5)}, 1))
    chosen = strategy(weights="equal")
    after = chosen.aggregate(chosen.begin({"w": f32(0)}), two)
    np.testing.assert_array_equal(after.arrays["w"], [3.0])


def test_momentum_carries_half_of_the_last_step_into_the_next() -> None:
    strategy = FedAvgM(momentum=0.5)
    first = strategy.aggregate(strategy.begin({"w": f32(0)}), one(4))
    # v = 4; w = 0 + 4
    np.testing.assert_array_equal(first.arrays["w"], [4.0])
    second = strategy.aggregate(first, one(2))
    # v = 0.5 * 4 + 2 = 4; w = 4 + 4
    np.testing.assert_array_equal(second.kept["w"], [4.0])
    np.testing.assert_array_equal(second.arrays["w"], [8.0])


def test_nesterov_looks_one_step_ahead() -> None:
    strategy = FedAvgM(momentum=0.5, nesterov=True)
    first = strategy.aggregate(strategy.begin({"w": f32(0)}), one(4))
    # v = 4; step = 0.5 * 4 + 4 = 6
    np.testing.assert_array_equal(first.arrays["w"], [6.0])
    np.testing.assert_array_equal(first.kept["w"], [4.0])


def test_the_rate_scales_the_step_and_not_the_velocity() -> None:
    strategy = FedAvgM(momentum=0.5, rate=0.25)
    after = strategy.aggregate(strategy.begin({"w": f32(1)}), one(4))
    np.testing.assert_array_equal(after.arrays["w"], [2.0])
    np.testing.assert_array_equal(after.kept["w"], [4.0])


def test_integer_buffers_take_no_momentum() -> None:
    strategy = FedAvgM(momentum=0.9, rate=0.1)
    begun = strategy.begin({"w": f32(0), "n": np.array([3], np.int64)})
    assert set(begun.kept) == {"w"}
    np.testing.assert_array_equal(begun.kept["w"], [0.0])
    after = strategy.aggregate(begun, updates(({"w": f32(1), "n": np.array([2], np.int64)}, 5)))
    # the whole difference, 3 + 2, neither times 0.1 nor with a velocity
    np.testing.assert_array_equal(after.arrays["n"], [5])
    assert set(after.kept) == {"w"}
    assert after.kept["w"].dtype == np.float32


def test_without_momentum_fedavgm_is_fedavg() -> None:
    start, sites = {"w": f32(1, 2)}, updates(({"w": f32(1, 3)}, 7), ({"w": f32(-2, 5)}, 2))
    plain, still = FedAvg(), FedAvgM(momentum=0.0)
    np.testing.assert_array_equal(
        still.aggregate(still.begin(start), sites).arrays["w"], plain.aggregate(plain.begin(start), sites).arrays["w"]
    )


def test_fedprox_pulls_each_gradient_back_to_the_consensus() -> None:
    gradients = {"w": torch.tensor([1.0, 1.0])}
    weights, consensus = {"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([1.0, 4.0])}
    FedProx(mu=0.5).correct(gradients, weights, consensus, {})
    # 1 + 0.5 * (3 - 1) = 2; 1 + 0.5 * (0 - 4) = -1
    assert gradients["w"].tolist() == [2.0, -1.0]
    assert weights["w"].tolist() == [3.0, 0.0]


def test_fedprox_leaves_a_gradient_alone_at_the_consensus() -> None:
    gradients, weights = {"w": torch.tensor([0.3])}, {"w": torch.tensor([2.0])}
    FedProx(mu=10.0).correct(gradients, weights, {"w": torch.tensor([2.0])}, {})
    assert gradients["w"].tolist() == pytest.approx([0.3])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: repr(strategy))
def test_if_every_site_returns_what_it_received_the_consensus_stays(strategy: Strategy) -> None:
    start = {"w": f32(0.1, -2.5), "n": np.array([4], np.int64)}
    begun = strategy.begin(start)
    received = strategy.receive(begun, {})
    leaving, _ = strategy.send(Trained(received, received, cases=3, steps=1), begun, {})
    after = strategy.aggregate(begun, updates((leaving, 3), (leaving, 9)))
    for name, array in start.items():
        np.testing.assert_array_equal(after.arrays[name], array)
        assert after.arrays[name].dtype == array.dtype


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: repr(strategy))
def test_what_leaves_is_the_difference_and_what_stays_is_untouched(strategy: Strategy) -> None:
    start, trained, kept = {"w": f32(1, 2)}, {"w": f32(1.5, 0)}, {"own": f32(9)}
    leaving, stays = strategy.send(Trained(start, trained, cases=3, steps=1), strategy.begin(start), kept)
    np.testing.assert_array_equal(leaving["w"], [0.5, -2.0])
    assert stays == kept


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(1, 500)), min_size=1, max_size=8),
    weights=st.sampled_from(["cases", "equal", "root"]),
)
def test_a_mean_lies_among_its_sites(values: list[tuple[float, int]], weights: Weights) -> None:
    mean = weighted_mean(updates(*[({"w": f32(value)}, cases) for value, cases in values]), weights)
    low, high = min(value for value, _ in values), max(value for value, _ in values)
    assert low - 1e-6 <= float(mean["w"][0]) <= high + 1e-6
