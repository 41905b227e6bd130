"""Networks that say how one image must move to lie on another, in plain torch.

Shapes: x (B, 2 C, *grid), the fixed image's channels and then the moving one's. They give a velocity
(B, A, *blocks) in voxels of the grid, at the middle of blocks that fill it; nothing moves at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrounds_common.layers import ConvNorm, conv

POOLED = 3  # places along each axis at which the linear part looks: a mean over all would not know where
REACH = 0.1  # of the grid's half: what the linear part moves its edge by when it says 1
STILL = 1e-5  # spread of the last layer's first weights, as in VoxelMorph


@final
class Linear(nn.Module):
    """From the coarsest features a velocity that is linear in space: over time it turns, shears, scales, shifts."""

    def __init__(self, dims: int, inputs: int, outputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs * POOLED**dims, hidden)
        self.last = nn.Linear(hidden, outputs * (dims + 1))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor, blocks: Sequence[int], grid: Sequence[int]) -> Tensor:
        dims = len(grid)
        pool = functional.adaptive_avg_pool3d if dims == 3 else functional.adaptive_avg_pool2d
        seen = functional.leaky_relu(self.hidden(pool(features, POOLED).flatten(1)), 0.2)
        slopes = self.last(seen).view(len(features), -1, dims + 1)
        places = torch.stack([*_centred(blocks).to(slopes), torch.ones(prod(blocks)).to(slopes)])
        reach = REACH * sum(grid) / (2 * dims)
        velocity: Tensor = slopes @ places * reach
        return velocity.view(len(features), -1, *blocks)


@final
class FieldUNet(nn.Module):
    """A U-Net from half resolution downwards and back up to it, where its velocity lies; and a linear part.

    Source: Balakrishnan et al. 2019 (arXiv:1809.05231), with norms, without the full-resolution levels.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, channels: Sequence[int], *, linear: bool) -> None:
        super().__init__()
        self.down = _encoder(dims, inputs, channels)
        self.narrow = nn.ModuleList(conv(dims, b, a, 1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(ConvNorm(dims, a, a) for a in channels[:-1])
        self.linear = Linear(dims, channels[-1], outputs) if linear else None
        self.head = _still(conv(dims, channels[0], outputs, 3))

    def forward(self, x: Tensor) -> Tensor:
        grid, skips = x.shape[2:], []
        for level in self.down:
            x = level(x)
            skips.append(x)
        coarsest = x
        for narrow, up, skip in zip(reversed(self.narrow), reversed(self.up), reversed(skips[:-1]), strict=True):
            x = up(functional.interpolate(narrow(x), scale_factor=2.0, mode="nearest") + skip)
        velocity: Tensor = self.head(x)
        return velocity if self.linear is None else velocity + self.linear(coarsest, velocity.shape[2:], grid)


@final
class AffineNet(nn.Module):
    """The way down alone: one linear velocity for the whole image, an affine map that keeps its orientation."""

    def __init__(self, dims: int, inputs: int, outputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.down = _encoder(dims, inputs, channels)
        self.linear = Linear(dims, channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[2:]
        for level in self.down:
            x = level(x)
        velocity: Tensor = self.linear(x, [size // 2 for size in grid], grid)
        return velocity


def _encoder(dims: int, inputs: int, channels: Sequence[int]) -> nn.ModuleList:
    steps = pairwise((inputs, *channels))
    return nn.ModuleList(nn.Sequential(ConvNorm(dims, a, b, stride=2), ConvNorm(dims, b, b)) for a, b in steps)


def _still(head: nn.Module) -> nn.Module:
    for parameter in head.parameters():
        nn.init.normal_(parameter, 0.0, STILL)
    return head


def _centred(blocks: Sequence[int]) -> Tensor:
    """(A, N): each block's place, −1 at one edge of the grid and 1 at the other, axis by axis."""
    lines = [(torch.arange(size) + 0.5) * 2 / size - 1 for size in blocks]
    return torch.stack([axis.flatten() for axis in torch.meshgrid(*lines, indexing="ij")])
