"""Displacement and velocity fields on a grid of voxels: warp, integrate, compose, invert, measure.

Shapes: a field is (B, A, *grid), one component a grid axis, in voxels of that grid; images (B, C, *grid).
A displacement u stands for the map x → x + u(x): an image warped by it has at x what it had at x + u(x).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Outside = Literal["border", "zeros"]


def warp(image: Tensor, field: Tensor, *, outside: Outside = "border", nearest: bool = False) -> Tensor:
    """image (B, C, *grid) at x + field(x), interpolated linearly.

    Args:
        outside: what lies beyond the grid: its nearest voxel, or 0.
    """
    return sample(image, positions(field), outside=outside, nearest=nearest)


def sample(image: Tensor, places: Tensor, *, outside: Outside = "border", nearest: bool = False) -> Tensor:
    """image (B, C, *grid) at places (B, A, *any), in voxels → (B, C, *any)."""
    sizes = torch.tensor([max(size - 1, 1) for size in image.shape[2:]], dtype=places.dtype, device=places.device)
    scaled = 2 * places.movedim(1, -1) / sizes - 1
    # torch counts the axes of its coordinates from the last
    return functional.grid_sample(
        image, scaled.flip(-1), "nearest" if nearest else "bilinear", outside, align_corners=True
    )


def positions(field: Tensor) -> Tensor:
    """x + field(x), in voxels."""
    return field + voxels(field.shape[2:]).to(field)


def voxels(grid: Sequence[int]) -> Tensor:
    """(1, A, *grid): each voxel's own place."""
    axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in grid), indexing="ij")
    return torch.stack(axes)[None]


def compose(first: Tensor, then: Tensor) -> Tensor:
    """The displacement of x → x + first(x) and from there on with `then`."""
    return first + warp(then, first)


def integrate(velocity: Tensor, squarings: int) -> Tensor:
    """The displacement after unit time in a velocity field that stands still: 2^squarings small steps.

    That of −velocity is its inverse. Source: Arsigny et al. 2006 (doi:10.1007/11866565_113), as in
    Dalca et al. 2019 (arXiv:1903.03545).
    """
    field: Tensor = velocity / 2**squarings
    for _ in range(squarings):
        field = compose(field, field)
    return field


def enlarged(field: Tensor, grid: Sequence[int]) -> Tensor:
    """A displacement on a grid of blocks, in blocks, brought onto the grid of voxels, in voxels."""
    coarse = field.shape[2:]
    if tuple(coarse) == tuple(grid):
        return field
    factors = torch.tensor([fine / rough for fine, rough in zip(grid, coarse, strict=True)]).to(field)
    # without aligned corners: a block's value lies in the middle of its voxels
    large = functional.interpolate(field, tuple(grid), mode=_mode(len(grid)), align_corners=False)
    return large * factors.view(1, -1, *(1,) * len(grid))


def invert(field: Tensor, rounds: int = 30) -> Tensor:
    """The displacement that leads back: w with w(x) = −u(x + w(x)), by fixed-point iteration.

    Converges where the map does not fold (Chen et al. 2008, doi:10.1118/1.2816107); damped, so that slopes
    up to nearly 1 do too.
    """
    back = -field
    for _ in range(rounds):
        back = 0.5 * back - 0.5 * warp(field, back)
    return back


def jacobian(field: Tensor) -> Tensor:
    """(B, *grid) → the determinant of the map's derivative: by how much each place is stretched; ≤ 0 folds.

    Central differences, one-sided at the edge. An axis of one voxel does not change.
    """
    rows = []
    for component in range(field.shape[1]):
        slopes = [_slope(field[:, component], axis) for axis in range(field.shape[1])]
        slopes[component] = slopes[component] + 1
        rows.append(torch.stack(slopes, dim=-1))
    stretch: Tensor = torch.linalg.det(torch.stack(rows, dim=-2).double())
    return stretch


def _slope(values: Tensor, axis: int) -> Tensor:
    if values.shape[axis + 1] == 1:
        return torch.zeros_like(values)
    return torch.gradient(values, dim=axis + 1)[0]


def roughness(field: Tensor, kind: Literal["gradient", "bending"]) -> Tensor:
    """(B,): what smoothness costs, mean over voxels.

    gradient: the first differences squared. bending: the second ones squared, mixed ones twice; it costs
    nothing to turn, shear or scale the whole (Rueckert et al. 1999, doi:10.1109/42.796284).
    """
    axes = range(2, field.ndim)
    first = {axis: torch.diff(field, dim=axis) for axis in axes}
    if kind == "gradient":
        return _total([first[axis] for axis in axes])
    straight = [torch.diff(first[axis], dim=axis) for axis in axes]
    mixed = [torch.diff(first[a], dim=b) * 2**0.5 for a, b in combinations(axes, 2)]
    return _total([*straight, *mixed])


def _total(parts: Sequence[Tensor]) -> Tensor:
    """Sum over parts of the mean of squares of each vector's length; an axis too short to differ adds nothing."""
    sums = [part.square().sum(1).flatten(1).mean(1) for part in parts if part.numel()]
    return torch.stack(sums).sum(0)


def _mode(dims: int) -> str:
    return "trilinear" if dims == 3 else "bilinear"
