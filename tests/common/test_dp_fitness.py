"""Which networks noise can protect patients in: found by running them, and every network of ours is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrounds_common import rng
from fedrounds_common.dp.fitness import check_fit
from fedrounds_common.errors import UsageError
from fedrounds_common.shelves import NETWORKS
from fedrounds_common.task import Batch, Task

# settings that keep a test small; a network without an entry is built as it comes
SMALL: dict[str, dict[str, Any]] = {
    "basicunet": {"channels": (8, 8, 16, 16, 32, 8)}, "dynunet": {"channels": (8, 16, 16), "strides": (1, 2, 2)},
    "fets_resunet": {"base": 4}, "segresnet": {"width": 8}, "swinunetr": {"width": 12, "window": 3},
    "unetr": {"patch": (32, 32, 32), "width": 4, "hidden": 32, "mlp": 32, "heads": 4},
    "tiny_cnn": {"channels": [8, 16]}, "alexnet": {"stem": "small"}, "vgg": {"depth": 11},
    "mobilenet": {"width": 0.25}, "resnet": {"depth": 10}, "densenet": {"growth": 8},
    "vit": {"token": [7, 7], "width": 24, "mlp": 32, "heads": 3, "layers": 2, "size": [28, 28], "pool": "mean"},
    "series": {"encoder": {"name": "tiny_cnn", "channels": [8, 16]}},
    "tiles": {"encoder": {"name": "tiny_cnn", "channels": [8, 16]}},
}  # fmt: skip
SIZES = {"swinunetr": 64, "vit": 28, "alexnet": 64, "vgg": 64}
VOLUMES = {"fets_resunet", "unetr"}
FAST = {"tiny_unet", "tiny_cnn", "unet", "vgg"}
# these have no setting that keeps running statistics out, but every one of ours passes as it comes
NAMES = [name for name in NETWORKS.names() if NETWORKS.find(name).makes in ("maps", "scores", "fields")]


def never(*_: object) -> NoReturn:
    raise AssertionError("nothing is drawn or judged here")


@final
@dataclass(frozen=True)
class Sums(Task):
    """The loss is a mean of what comes out; `beside` adds what depends on the whole batch."""

    mixes: bool = False

    def network(self, *_: Any) -> Any:
        never()

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        made = network(batch.image)
        value = made.flatten(1).float().square().mean(1)
        return value / value.sum() if self.mixes else value

    draw = predict = decide = score = tally = table = picture = network


def one(*shape: int) -> Batch:
    return Batch(torch.zeros(1, *shape), torch.zeros(1, 1))


def built(name: str, **fields: Any) -> tuple[nn.Module, Batch]:
    dims = 3 if name in VOLUMES else 2
    with rng.seeded(1):
        network = NETWORKS.load({"name": name, **SMALL.get(name, {}), **fields}).build(dims, 2, 3)
    bag = (4,) if name in ("series", "tiles") else ()
    return network.train(), one(2, *bag, *(SIZES.get(name, 32),) * dims)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_every_network_of_ours_sees_each_example_by_itself(name: str) -> None:
    network, batch = built(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    check_fit(network, Sums(), batch)
    after = network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert network.training


@pytest.mark.parametrize("name", ["unet", "tiny_cnn"])
def test_running_statistics_are_refused_by_the_name_of_the_layer(name: str) -> None:
    network, batch = built(name, running_statistics=True)
    with pytest.raises(UsageError, match=r"FR-U95 .*Norm2d\): .*running_mean keeps something of the images"):
        check_fit(network, Sums(), batch)


def test_a_batch_norm_is_refused_and_left_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 3))
    with pytest.raises(UsageError, match=r"1 \(BatchNorm2d\): 1\.running_mean keeps something of the images"):
        check_fit(network, Sums(), one(1, 8, 8))
    assert int(network[1].num_batches_tracked) == 0
    assert torch.equal(network[1].running_mean, torch.zeros(2))


def test_a_batch_norm_that_keeps_nothing_still_mixes() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Conv2d(2, 1, 3))
    with pytest.raises(UsageError, match=r"1 \(BatchNorm2d\): an example's loss depends on the examples beside it"):
        check_fit(network, Sums(), one(1, 8, 8))


def test_a_frozen_batch_norm_is_fit() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3))
    network[1].eval()
    check_fit(network, Sums(), one(1, 8, 8))


@final
class Centred(nn.Module):
    """No batch norm by name, and the same fault."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 0.1 * x.mean(0, keepdim=True)


def test_what_counts_is_what_a_layer_does_and_not_its_name() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), Centred()))
    with pytest.raises(UsageError, match=r"1\.1 \(Centred\)"):
        check_fit(network, Sums(), one(1, 8, 8))


def test_a_loss_that_mixes_examples_is_refused_though_no_layer_does() -> None:
    with pytest.raises(UsageError, match=r"Conv2d: an example's loss depends on the examples beside it"):
        check_fit(nn.Conv2d(1, 2, 3), Sums(mixes=True), one(1, 8, 8))


def test_dropout_is_not_taken_for_mixing() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout2d(0.5), nn.Conv2d(4, 2, 3), nn.Dropout(0.5))
    check_fit(network.train(), Sums(), one(1, 8, 8))


def test_the_look_leaves_the_global_generator_where_it_was() -> None:
    with rng.seeded(5):
        check_fit(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.5)), Sums(), one(1, 8, 8))
        drawn = torch.rand(3).numpy()
    with rng.seeded(5):
        # the layer's own weights come first
        nn.Conv2d(1, 4, 3)
        np.testing.assert_array_equal(drawn, torch.rand(3).numpy())
