"""What the averages of the three strategies rest on: derivatives, momentum over several rounds, flat memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn

from fedrounds_common.arrays import Array, Arrays
from fedrounds_common.averaging import weighted_mean
from fedrounds_common.strategies.fedavg import FedAvg
from fedrounds_common.strategies.fedavgm import FedAvgM
from fedrounds_common.strategies.fedprox import FedProx
from fedrounds_common.strategy import Consensus, SiteUpdate, Strategy

STRATEGIES: list[Strategy] = [FedAvg(), FedAvgM(), FedProx()]


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


class Once:
    """Updates as a store gives them: each made when it is asked for, and only once."""

    def __init__(self, sites: Mapping[str, int], size: int = 4) -> None:
        self.sites, self.size = sites, size
        self.alive: list[weakref.ref[Array]] = []
        self.most_alive = 0
        self.times = 0

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[SiteUpdate]:
        self.times += 1
        for number, (site, cases) in enumerate(self.sites.items()):
            array = np.full(self.size, float(number), np.float32)
            self.alive.append(weakref.ref(array))
            yield SiteUpdate(site, {"w": array}, cases)
            del array
            self.most_alive = max(self.most_alive, sum(reference() is not None for reference in self.alive))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_updates_are_read_once_and_dropped_one_by_one(strategy: Strategy) -> None:
    updates = Once({f"s{number:02d}": 3 for number in range(20)})
    after = strategy.aggregate(strategy.begin({"w": np.zeros(4, np.float32)}), updates)
    # (0 + 1 + ... + 19) / 20 = 9.5
    np.testing.assert_array_equal(after.arrays["w"], np.full(4, 9.5, np.float32))
    assert updates.times == 1
    # the one that the loop's variable still holds while the next is made; never all twenty
    assert updates.most_alive <= 1


def test_the_order_of_updates_shows_in_the_last_bits_of_a_mean() -> None:
    # why a store hands them out by name: 1 + 2^53 - 2^53 is 0 or 1, as it comes
    values = {"a": 1.0, "b": 2.0**53, "c": -(2.0**53)}
    means = {
        float(weighted_mean([SiteUpdate(site, {"w": f32(values[site])}, 1) for site in order])["w"][0])
        for order in permutations(values)
    }
    assert len(means) > 1


def test_momentum_over_four_rounds_by_hand() -> None:
    # differences 4, 0, -2, 6; v = 4, 2, -1, 5.5; w = 1 + 4, + 2, - 1, + 5.5
    strategy, consensus = FedAvgM(momentum=0.5), FedAvgM(momentum=0.5).begin({"w": f32(1)})
    reached = []
    for step in (4.0, 0.0, -2.0, 6.0):
        consensus = strategy.aggregate(consensus, [SiteUpdate("a", {"w": f32(step)}, 7)])
        reached.append((float(consensus.kept["w"][0]), float(consensus.arrays["w"][0])))
    assert reached == [(4.0, 5.0), (2.0, 7.0), (-1.0, 6.0), (5.5, 11.5)]


def test_nesterov_over_two_rounds_is_torchs_sgd_with_the_difference_as_its_negative_gradient() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    sgd = torch.optim.SGD([weight], lr=0.5, momentum=0.5, nesterov=True)
    strategy = FedAvgM(momentum=0.5, rate=0.5, nesterov=True)
    consensus = strategy.begin({"w": f32(1)})
    for step in (4.0, -3.0):
        weight.grad = torch.tensor([-step])
        sgd.step()
        consensus = strategy.aggregate(consensus, [SiteUpdate("a", {"w": f32(step)}, 1)])
        np.testing.assert_array_equal(consensus.arrays["w"], weight.detach().numpy())


@pytest.mark.parametrize("mu", [0.0, 0.01, 3.0])
def test_fedprox_is_the_derivative_of_its_penalty(mu: float) -> None:
    generator = torch.Generator().manual_seed(1)
    start = {name: torch.randn(shape, generator=generator) for name, shape in {"w": (3, 2), "b": (2,)}.items()}
    weights = {name: torch.randn(w.shape, generator=generator, requires_grad=True) for name, w in start.items()}
    loss = sum((w**3).sum() for w in weights.values())
    penalty = mu / 2 * sum(((weights[name] - start[name]) ** 2).sum() for name in start)
    wanted = torch.autograd.grad(loss + penalty, list(weights.values()), retain_graph=True)
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    FedProx(mu=mu).correct(gradients, {name: w.detach() for name, w in weights.items()}, start, {})
    for found, should in zip(gradients.values(), wanted, strict=True):
        torch.testing.assert_close(found, should)


def test_fedprox_pulls_nothing_that_has_no_gradient() -> None:
    # a frozen layer has none, and the consensus also holds buffers
    gradients = {"w": torch.zeros(1)}
    weights = {"w": torch.ones(1), "frozen": torch.ones(1)}
    FedProx(mu=1.0).correct(gradients, weights, {**weights, "w": torch.zeros(1), "running_mean": torch.ones(1)}, {})
    assert list(gradients) == ["w"]
    assert gradients["w"].tolist() == [1.0]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_integer_buffers_go_to_the_nearest_whole_number_of_their_mean(strategy: Strategy) -> None:
    # batch counters: 100 + (3 * 30 + 8 * 10) / 40 = 104.25
    start: Arrays = {"w": f32(0), "num_batches_tracked": np.array(100, np.int64)}
    sites: Sequence[SiteUpdate] = [
        SiteUpdate("a", {"w": f32(0), "num_batches_tracked": np.array(3, np.int64)}, 30),
        SiteUpdate("b", {"w": f32(0), "num_batches_tracked": np.array(8, np.int64)}, 10),
    ]
    after = strategy.aggregate(strategy.begin(start), sites)
    assert int(after.arrays["num_batches_tracked"]) == 104
    assert after.arrays["num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_a_weight_without_axes_is_averaged_as_any_other(strategy: Strategy) -> None:
    # a learned temperature: 1 + (2 * 30 + 6 * 10) / 40 = 4
    sites = [SiteUpdate("a", {"t": np.float32(2) + f32(0)[0]}, 30), SiteUpdate("b", {"t": np.array(6, np.float32)}, 10)]
    after = strategy.aggregate(strategy.begin({"t": np.array(1, np.float32)}), sites)
    assert float(after.arrays["t"]) == 4.0
    assert after.arrays["t"].shape == ()


def test_a_consensus_keeps_the_order_of_its_model() -> None:
    start = {"z": f32(0), "a": f32(0), "m": f32(0)}
    update = SiteUpdate("a", {"a": f32(1), "m": f32(1), "z": f32(1)}, 1)
    for strategy in STRATEGIES:
        after = strategy.aggregate(strategy.begin(start), [update])
        assert list(after.arrays) == ["z", "a", "m"]
        assert isinstance(after, Consensus)
