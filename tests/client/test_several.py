"""Several patients at once: the same clipped sum as one at a time, or one at a time where a network does not allow it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

from fedrounds_client import several as quicker
from fedrounds_client.private import Lost, PatientSteps
from fedrounds_client.several import Found, Pace, Several, Way
from fedrounds_common import rng
from fedrounds_common.errors import RoundError
from fedrounds_common.privacy import NoisySteps
from fedrounds_common.shelves import NETWORKS
from fedrounds_common.task import Batch

BARE = NoisySteps(rate=1.0, clip=0.05, multiplier=0.0, batch=1)


def squares(network: nn.Module, batch: Batch) -> Tensor:
    return network(batch.image).flatten(1).float().square().mean(1)  # type: ignore[no-any-return]


def exact(network: nn.Module, batch: Batch) -> Tensor:
    """As `squares`, of which nothing is rounded to float32: for sums that are held against each other in float64."""
    return network(batch.image).flatten(1).square().mean(1)  # type: ignore[no-any-return]


def patients(count: int, *shape: int, examples: int = 1, seed: int = 0) -> list[Batch]:
    images = torch.randn((count, examples, *shape), generator=rng.torch_generator(seed, "test"))
    return [Batch(image, torch.zeros(examples, 1)) for image in images]


def looked_at(network: nn.Module, batches: Sequence[Batch], losses: Any = squares) -> Several:
    first = batches[0]
    quicker.pace.cache_clear()
    with rng.seeded(1):
        return Several.of(
            network,
            losses,
            dict(network.named_parameters()),
            Batch(first.image[:1], first.target[:1]),
            len(first.image),
        )


@final
class Always(Pace):  # type: ignore[misc]  # final: nobody else is to
    """Takes one way whatever the clock says."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way, self.taken = way, list[Way]()

    def quickest(self, ways: Sequence[Way], count: int) -> Way:
        return self.way if self.way in ways else "alone"

    def note(self, way: Way, count: int, seconds: float) -> None:
        self.taken.append(way)


def summed(
    network: nn.Module, batches: Sequence[Batch], several: Several | None = None, losses: Any = squares, **changes: Any
) -> tuple[Tensor, Lost]:
    """The patients' clipped sum as one vector."""
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    steps = PatientSteps(replace(BARE, **changes), [])

    def backward(batch: Batch) -> None:
        loss = losses(network, batch).mean()
        if not torch.isfinite(loss):
            raise RoundError("FR-R30", "not finite")
        loss.backward()

    steps.gradients(named, batches, backward, several)
    return torch.cat([each.grad.double().ravel() for each in named.values() if each.grad is not None]), steps.lost


def of_at_most(several: Several, most: int) -> Several:
    return replace(several, found=replace(several.found, most=most))


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


# settings that keep a test small, and examples of these sizes; a network without an entry is built as it comes
SMALL: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "tiny_cnn": ({"channels": [8, 16]}, (28, 28)),
    "tiny_unet": ({"channels": [8, 16]}, (16, 16, 16)),
    "unet": ({}, (32, 32)), "basicunet": ({"channels": (8, 8, 16, 16, 32, 8)}, (32, 32)),
    "attention_unet": ({}, (32, 32)), "dynunet": ({"channels": (8, 16, 16), "strides": (1, 2, 2)}, (16, 16, 16)),
    "segresnet": ({"width": 8}, (32, 32)), "fets_resunet": ({"base": 4, "dropout": 0.0}, (32, 32, 32)),
    "densenet": ({"growth": 8}, (32, 32)), "resnet": ({"depth": 10}, (32, 32)), "vgg": ({"depth": 11}, (64, 64)),
    "mobilenet": ({"width": 0.25}, (32, 32)),
    "vit": (
        {"token": [7, 7], "width": 24, "mlp": 32, "heads": 3, "layers": 2, "size": [28, 28], "pool": "mean"}, (28, 28),
    ),
}  # fmt: skip
FAST = {"tiny_cnn", "tiny_unet", "unet"}


def built(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    fields, size = SMALL[name]
    with rng.seeded(1):
        network = NETWORKS.load({"name": name, **fields}).build(len(size), 1, 2)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            layer.p = 0.0
    return network.train(), (1, *size)


@pytest.mark.parametrize(
    "name", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in SMALL]
)
def test_at_once_makes_the_same_clipped_sum_as_one_at_a_time(name: str) -> None:
    network, shape = built(name)
    batches = patients(3, *shape)
    found = looked_at(network, batches)
    assert (found.found.why, found.most > 2) == ("", True)
    # in float64: of networks whose values grow by thousands, float32 alone leaves less than five digits to compare
    network, batches = network.double(), [Batch(each.image.double(), each.target.double()) for each in batches]
    wanted, _ = summed(network, batches, losses=exact)
    pace = Always("together")
    several = replace(found, whole=quicker.Whole(network, exact), pace=pace)
    at_once, lost = summed(network, batches, several, exact)
    assert pace.taken == ["together"]
    assert not lost
    assert far(at_once, wanted) <= 1e-5


@pytest.mark.parametrize("name", ["tiny_cnn", "tiny_unet"])
@pytest.mark.parametrize("clip", [1e-3, 1e9])
def test_it_is_the_same_in_float32_too_whether_all_are_cut_or_none(name: str, clip: float) -> None:
    network, shape = built(name)
    batches = patients(5, *shape)
    wanted, _ = summed(network, batches, clip=clip)
    ways: tuple[Way, ...] = ("together", "twice") if len(shape) == 4 else ("together",)
    for way in ways:
        pace = Always(way)
        found, _ = summed(network, batches, replace(looked_at(network, batches), pace=pace), clip=clip)
        assert pace.taken == [way]
        assert far(found, wanted) <= 1e-5


def test_several_images_of_a_patient_stay_one_unit() -> None:
    network, shape = built("tiny_cnn")
    batches = patients(4, *shape, examples=3)
    several = replace(looked_at(network, batches), pace=Always("together"))
    found, wanted = (summed(network, batches, each)[0] for each in (several, None))
    assert far(found, wanted) <= 1e-5
    one, _ = summed(network, batches[:2], several, clip=1e-4)
    assert float(one.norm()) <= 2e-4


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("way", ["together", "twice"])
def test_a_patient_that_is_not_finite_adds_nothing_and_is_counted_as_when_taken_alone(bad: float, way: Way) -> None:
    network, shape = built("tiny_unet")
    good = patients(3, *shape)
    broken = Batch(torch.full_like(good[0].image, bad), good[0].target)
    if bad == 1e30:  # an instance norm would make it harmless
        network, good = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Conv3d(2, 1, 1)), patients(3, 1, 8, 8, 8)
        broken = Batch(torch.full_like(good[0].image, bad), good[0].target)
    several = replace(looked_at(network, good), pace=Always(way))
    found, lost = summed(network, [good[0], broken, *good[1:]], several)
    wanted, none = summed(network, good)
    assert far(found, wanted) <= 1e-5
    assert (lost, none) == (Lost(0, 1), Lost())


def test_patients_whose_images_differ_in_shape_go_apart() -> None:
    network, _ = built("tiny_cnn")
    batches = [*patients(3, 1, 28, 28), *patients(2, 1, 32, 24), *patients(1, 1, 20, 20)]
    several = replace(looked_at(network, batches), pace=Always("together"))
    assert [len(each) for each in several.chunks(batches)] == [3, 2, 1]
    assert far(summed(network, batches, several)[0], summed(network, batches)[0]) <= 1e-5


def test_chunks_are_of_a_like_size_and_never_larger_than_memory_allows() -> None:
    network, shape = built("tiny_cnn")
    several = looked_at(network, patients(1, *shape))
    assert [len(each) for each in of_at_most(several, 4).chunks(patients(9, *shape))] == [3, 3, 3]
    assert [len(each) for each in of_at_most(several, 1).chunks(patients(3, *shape))] == [1, 1, 1]
    assert several.chunks([]) == []


def test_little_memory_means_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network, shape = built("tiny_unet")
    whole = looked_at(network, patients(1, *shape))
    assert whole.found.copies
    monkeypatch.setattr(quicker, "BUDGET", 1000)
    short = looked_at(network, patients(1, *shape))
    assert short.found == Found(1, False, "memory")


# ---------------------------------------------------------------- what does not go


@final
class Decides(nn.Module):
    """A value decides what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) if float(x.detach().sum()) > -1e9 else x


@final
class Half(torch.autograd.Function):
    """Says half of the gradient, and only to those that take patients at once."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(*_: Any) -> None:
        return

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def vmap(_: Any, dims: Any, x: Tensor) -> tuple[Tensor, int]:
        return x * 0.5, dims[0]


@final
class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(Half.apply(self.first(x)))  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize(
    ("network", "why"),
    [(Decides, "RuntimeError: .*"), (Wrong, r"first\.weight: its gradient is not that of one patient at a time")],
)
def test_a_network_that_cannot_be_taken_at_once_is_taken_one_at_a_time(
    network: Callable[[], nn.Module], why: str
) -> None:
    with rng.seeded(1):
        made = network()
    batches = patients(4, 3)
    several = looked_at(made, batches)
    assert several.most == 1
    assert re.fullmatch(why, several.found.why)
    torch.testing.assert_close(summed(made, batches, several)[0], summed(made, batches)[0], rtol=0, atol=0)


def test_why_they_go_one_at_a_time_is_said_where_it_is_found_and_not_again() -> None:
    quicker.pace.cache_clear()
    network, probe = Decides(), Batch(torch.zeros(1, 3), torch.zeros(1, 1))
    named = dict(network.named_parameters())
    looks = [Several.of(network, squares, named, probe, 1) for _ in range(2)]
    assert [each.new for each in looks] == [True, False]
    assert looks[0].found == looks[1].found
    assert looks[0].found.why


def test_dropout_drops_something_else_of_each_patient() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1, bias=False))
    batches = [Batch(torch.ones(1, 64), torch.zeros(1, 1)) for _ in range(8)]
    several = looked_at(network, batches)
    assert several.found.why == ""
    found = several.together(dict(network.named_parameters()), batches)
    assert found is not None
    dropped = {tuple((row == 0).tolist()) for row in found["1.weight"].flatten(1)}
    assert len(dropped) == 8


# ---------------------------------------------------------------- which way


def test_each_way_is_tried_twice_and_then_the_quickest_is_taken() -> None:
    pace, ways, seconds = Pace(), ("alone", "together"), {"alone": 3.0, "together": 2.0}
    taken = []
    for _ in range(6):
        way = pace.quickest(ways, 4)  # type: ignore[arg-type]
        taken.append(way)
        pace.note(way, 4, seconds[way])
    assert taken == ["alone", "alone", "together", "together", "together", "together"]
    # of two patients at once nothing is known yet; of one at a time it is
    assert pace.quickest(("alone", "together"), 2) == "together"


def test_a_network_is_looked_at_once_and_another_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def unlike(*_: Any) -> str:
        looks.append(1)
        return ""

    monkeypatch.setattr(quicker, "_unlike", unlike)
    quicker.pace.cache_clear()
    for network in (nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 2), nn.Linear(3, 1).eval()):
        named = dict(network.named_parameters())
        Several.of(network, squares, named, Batch(torch.zeros(1, 3), torch.zeros(1, 1)), 1)
    assert len(looks) == 3


def test_the_look_leaves_the_network_as_it_was() -> None:
    network, shape = built("tiny_unet")
    network.get_submodule("stem").eval()
    before = {name: (tensor.clone(), tensor.dtype) for name, tensor in network.state_dict().items()}
    looked_at(network, patients(1, *shape))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.dtype == before[name][1]
    assert not network.get_submodule("stem").training
    assert network.training
    assert all(each.grad is None for each in network.parameters())
