"""Modules that give one logit per class and case: what they promise, and the wrapper around a convolutional body.

Shapes: x (B, C, *grid); maps (B, F, *small); features (B, F); logits (B, K). Torch stands here and not in
`networks/`, whose files must load without it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, final

from torch import Tensor, nn

from fedrounds_common.errors import UsageError

if TYPE_CHECKING:
    from fedrounds_common.network import ScoresNetwork

LEAST_IN_A_GROUP = 16  # channels of a group norm's group: Wu and He 2018 (arXiv:1803.08494), table 3


class ScoreModule(nn.Module):
    """`head(dropout(features(x)))`, with `features(x) = pooled(last_maps(x))` where there are maps.

    So the way from the maps to the logits can be walked again, as Grad-CAM does.
    """

    head: nn.Module
    dropout: nn.Module

    def last_maps(self, x: Tensor) -> Tensor:
        """(B, F, *small): the last maps whose places are places of the image.

        Raises:
            UsageError: FR-U48 this network has none.
        """
        raise UsageError(
            "FR-U48", f"{type(self).__name__} has no maps behind its features", wanted="a network with maps",
            do="of a vision transformer take attention(x), or pool = \"mean\"",
        )  # fmt: skip

    @abstractmethod
    def pooled(self, maps: Tensor) -> Tensor:
        """(B, F, *small) → features (B, F)."""

    def features(self, x: Tensor) -> Tensor:
        """(B, C, *grid) → (B, F): what the head judges by."""
        return self.pooled(self.last_maps(x))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.features(x)))
        return logits


@final
class Scorer(ScoreModule):
    """A body of convolutions, the mean over its maps, and a head.

    `least`: voxels along each axis that the body needs.
    """

    def __init__(self, body: nn.Module, head: nn.Module, dropout: float, least: int = 1, name: str = "") -> None:
        super().__init__()
        self.body, self.head, self.dropout = body, head, nn.Dropout(dropout)
        self.least, self.name = least, name

    def last_maps(self, x: Tensor) -> Tensor:
        refuse_small(x, self.least, self.name)
        maps: Tensor = self.body(x)
        return maps

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).mean(2)


def refuse_small(x: Tensor, least: int, name: str) -> None:
    """Raises UsageError FR-U47: an axis of the image is shorter than the network can halve."""
    if min(x.shape[2:]) < least:
        raise UsageError(
            "FR-U47", f"an image of {' x '.join(map(str, x.shape[2:]))} voxels for {name}",
            wanted=f"at least {least} along each axis",
            do='set stem = "small" in [model], a smaller cases.spacing_mm, or take tiny_cnn',
        )  # fmt: skip


def head(kind: Literal["linear", "mlp"], features: int, hidden: int, outputs: int, dropout: float) -> nn.Module:
    if kind == "linear":
        return nn.Linear(features, outputs)
    return nn.Sequential(
        nn.Linear(features, hidden), nn.LeakyReLU(0.01), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )


def made(network: ScoresNetwork, dims: int, inputs: int) -> tuple[ScoreModule, int]:
    """The module of a network whose head is not wanted, and how many features it gives."""
    module = network.build(dims, inputs, 1)
    assert isinstance(module, ScoreModule), "what every network that makes scores builds"
    features = next(layer.in_features for layer in module.head.modules() if isinstance(layer, nn.Linear))
    module.head = nn.Identity()
    return module, features


def groups(channels: int) -> int:
    """The most groups of at least 16 channels each that the channels can be dealt into."""
    return max(
        (count for count in range(1, channels // LEAST_IN_A_GROUP + 1) if channels % count == 0),
        default=1,
    )


def norm(dims: int, channels: int, *, running_statistics: bool) -> nn.Module:
    """Batch norm where running statistics are asked for; else a group norm, which works on maps of one voxel too."""
    if not running_statistics:
        return nn.GroupNorm(groups(channels), channels)
    return (nn.BatchNorm3d if dims == 3 else nn.BatchNorm2d)(channels)


def with_group_norm(network: nn.Module) -> nn.Module:
    """The network itself, every batch norm replaced by a group norm of as many channels under the same name."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(parent, name, nn.GroupNorm(groups(child.num_features), child.num_features, child.eps))
    return network


def with_rounded_up_pools(network: nn.Module) -> nn.Module:
    """The network itself; its average pools keep what is left over of an odd size, so that small images do not vanish.

    Where every size is even it is the same network.
    """
    for module in network.modules():
        if isinstance(module, nn.AvgPool2d | nn.AvgPool3d):
            module.ceil_mode = True
    return network


def named(parts: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """One after another, under these names."""
    sequence = nn.Sequential()
    for name, part in parts:
        sequence.add_module(name, part)
    return sequence


@final
class Residual(nn.Module):
    """x + conv(x)."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.conv(x)
        return result


@final
class ResNetBlock(nn.Module):
    """A block of MONAI's ResNet under the same names, whose sum is not made in place: per-sample gradients need that."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, part)
        self.convolutions = 3 if hasattr(block, "conv3") else 2

    def forward(self, x: Tensor) -> Tensor:
        parts = dict(self.named_children())
        out = x
        for number in range(1, self.convolutions + 1):
            out = parts["act"](out) if number > 1 else out
            out = parts[f"bn{number}"](parts[f"conv{number}"](out))
        beside = parts["downsample"](x) if "downsample" in parts else x
        result: Tensor = parts["act"](out + beside)
        return result


@final
class SamePadded(nn.Module):
    """Zeros around, so that a stride divides the size rounded up, as TensorFlow does it; for any size of image."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size in reversed(x.shape[2:]):  # torch's pad begins with the last axis
            short = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            pads += [short // 2, short - short // 2]
        return nn.functional.pad(x, pads)


def drawn_for_relu(network: nn.Module) -> nn.Module:
    """The network itself, its convolutions drawn anew for rectifiers (He et al. 2015, arXiv:1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
