"""The parts that GANs and autoencoders share: a tree of convolutions up from a vector, and one down to a vector.

Shapes: B examples, Z entries of the latent vector, Q channels that say what is wanted, C channels, *grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrounds_common.layers import conv

LEAK = 0.2


def at_size(wanted: Tensor, size: Sequence[int]) -> Tensor:
    """wanted (B, Q, *grid) → (B, Q, *size), each voxel the mean of what it stands for."""
    if tuple(wanted.shape[2:]) == tuple(size) or not wanted.shape[1]:
        return wanted.new_zeros((len(wanted), 0, *size)) if not wanted.shape[1] else wanted
    pool: Any = functional.adaptive_avg_pool3d if len(size) == 3 else functional.adaptive_avg_pool2d
    pooled: Tensor = pool(wanted, list(size))
    return pooled


def sizes(grid: Sequence[int], levels: int) -> list[tuple[int, ...]]:
    """The grid and its halves, rounded up, the smallest first: `levels` + 1 of them."""
    return [tuple(math.ceil(side / 2**level) for side in grid) for level in range(levels, -1, -1)]


def noise(like: Tensor, shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Standard normal numbers on the device of `like`, drawn on the CPU so that every device gets the same."""
    return torch.randn(tuple(shape), generator=rng).to(like.device)


@final
class Up(nn.Module):
    """(B, Z) and (B, Q, *grid) → (B, C, *grid). At each level what is wanted stands beside what was made of it."""

    def __init__(self, grid: Sequence[int], latent: int, wanted: int, outputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        dims, self.widths = len(grid), tuple(widths)
        self.sizes = sizes(grid, len(widths) - 1)
        self.first = nn.Linear(latent + wanted, widths[0] * math.prod(self.sizes[0]))
        self.rise = nn.ModuleList(conv(dims, a + wanted, b, 3) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(_groups(b), b) for b in widths[1:])
        self.refine = nn.ModuleList(conv(dims, b, b, 3) for b in widths[1:])
        self.head = conv(dims, widths[-1] + wanted, outputs, 3)

    def forward(self, z: Tensor, wanted: Tensor) -> Tensor:
        shares = wanted.flatten(2).mean(2)
        x = self.first(torch.cat([z, shares], 1)).reshape(len(z), self.widths[0], *self.sizes[0])
        for rise, norm, refine, size in zip(self.rise, self.norms, self.refine, self.sizes[1:], strict=True):
            x = functional.interpolate(functional.leaky_relu(x, LEAK), size=size, mode="nearest")
            x = functional.leaky_relu(norm(rise(torch.cat([x, at_size(wanted, size)], 1))), LEAK)
            x = x + refine(x)
        image: Tensor = self.head(torch.cat([functional.leaky_relu(x, LEAK), at_size(wanted, self.sizes[-1])], 1))
        return image


@final
class Down(nn.Module):
    """(B, C, *grid) and (B, Q, *grid) → (B, outputs). Without any norm: one example never touches another."""

    def __init__(self, grid: Sequence[int], inputs: int, wanted: int, outputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        dims = len(grid)
        steps = list(pairwise((inputs + wanted, *widths)))
        self.stem = conv(dims, *steps[0], 3)
        self.fall = nn.ModuleList(conv(dims, a, b, 3, 2) for a, b in steps[1:])
        self.refine = nn.ModuleList(conv(dims, b, b, 3) for _, b in steps[1:])
        self.head = nn.Linear(widths[-1] * math.prod(sizes(grid, len(widths) - 1)[0]), outputs)

    def forward(self, image: Tensor, wanted: Tensor) -> Tensor:
        x = self.stem(torch.cat([image, wanted], 1))
        for fall, refine in zip(self.fall, self.refine, strict=True):
            x = fall(functional.leaky_relu(x, LEAK))
            x = x + refine(functional.leaky_relu(x, LEAK))
        found: Tensor = self.head(functional.leaky_relu(x, LEAK).flatten(1))
        return found


@final
class Patches(nn.Module):
    """(B, C + Q, *grid) → (B, 1, *small): of each neighbourhood of 22 voxels, whether it looks real (Isola 2017)."""

    def __init__(self, dims: int, inputs: int, width: int = 16) -> None:
        super().__init__()
        widths = (inputs, width, 2 * width, 2 * width)
        self.fall = nn.ModuleList(conv(dims, a, b, 3, 2) for a, b in pairwise(widths))
        self.head = conv(dims, widths[-1], 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        for fall in self.fall:
            x = functional.leaky_relu(fall(x), LEAK)
        found: Tensor = self.head(x)
        return found


def _groups(width: int) -> int:
    return next(groups for groups in (8, 4, 2, 1) if width % groups == 0)
