"""How unlike two images are, one value per example; all fall as the images come to lie on each other.

Shapes: fixed and moved (B, C, *grid); channels are compared one by one, and the mean taken.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Name = Literal["lncc", "mse", "mi", "mind"]

FLAT = 1e-4  # variance, of intensities near 1, below which a window says nothing
MOST_VOXELS = 2**16  # that a histogram is made of in one step


def unlikeness(name: Name, fixed: Tensor, moved: Tensor, window: int, bins: int, rng: torch.Generator) -> Tensor:
    """(B,), by name.

    lncc: 1 − squared local correlation, for images of one kind with shading or other gains.
    mse: mean squared difference, for images of one scale.
    mi:  2 − normalised mutual information, for images of two kinds.
    mind: mean squared difference of descriptors of self-similarity, for images of two kinds.

    Args:
        window: voxels along each side of a local window (lncc).
        bins: of the histogram (mi).
        rng: draws the voxels of which the histogram of a large image is made.
    """
    fixed, moved = fixed.float(), moved.float()
    if name == "lncc":
        return local_correlation(fixed, moved, window)
    if name == "mse":
        return (fixed - moved).square().flatten(1).mean(1)
    if name == "mi":
        return mutual_information(fixed, moved, bins, rng)
    return (mind(fixed) - mind(moved)).square().flatten(1).mean(1)


def local_correlation(fixed: Tensor, moved: Tensor, window: int) -> Tensor:
    """1 − mean over voxels of the squared correlation within a window around each (Avants et al. 2008)."""
    channels = fixed.shape[1]
    moments = smoothed(torch.cat([fixed, moved, fixed * fixed, moved * moved, fixed * moved], dim=1), window)
    f, m, ff, mm, fm = moments.tensor_split([channels * part for part in range(1, 5)], dim=1)
    spread_f, spread_m = (ff - f * f).clamp_min(0), (mm - m * m).clamp_min(0)
    together = fm - f * m
    squared = (together * together + FLAT**2) / ((spread_f + FLAT) * (spread_m + FLAT))
    return 1 - squared.flatten(1).mean(1)


def smoothed(x: Tensor, window: int) -> Tensor:
    """The mean over a box of `window` voxels a side, without what lies beyond the grid; one axis after the other."""
    pool = functional.avg_pool3d if x.ndim == 5 else functional.avg_pool2d
    dims = x.ndim - 2
    for axis in range(dims):
        size = [window if axis == other else 1 for other in range(dims)]
        x = pool(x, size, 1, [width // 2 for width in size], count_include_pad=False)
    return x


def mutual_information(fixed: Tensor, moved: Tensor, bins: int, rng: torch.Generator) -> Tensor:
    """2 − (H(fixed) + H(moved)) / H(both): 0 for images that tell each other, 1 for strangers.

    Histograms of cubic B-spline windows, so that they have slopes (Mattes et al. 2003; normalised as by
    Studholme et al. 1999).
    """
    a, b = fixed.flatten(2), moved.flatten(2)
    if a.shape[2] > MOST_VOXELS:
        chosen = torch.randint(a.shape[2], (MOST_VOXELS,), generator=rng).to(a.device)
        a, b = a[:, :, chosen], b[:, :, chosen]
    joint = parzen(a, bins).transpose(2, 3) @ parzen(b, bins) / a.shape[2]
    of_a, of_b, both = _entropy(joint.sum(3)), _entropy(joint.sum(2)), _entropy(joint.flatten(2))
    return (2 - (of_a + of_b) / both.clamp_min(1e-6)).mean(1)


def parzen(values: Tensor, bins: int) -> Tensor:
    """(B, C, N) → (B, C, N, bins): each value's weight in each bin; weights of a value sum to 1."""
    low, high = (extreme(2, keepdim=True).values.detach() for extreme in (values.min, values.max))
    # a bin and a half stays free at both ends, where the windows of the outermost values reach
    places = 1.5 + (values - low) / (high - low).clamp_min(1e-6) * (bins - 4)
    away = (places[..., None] - torch.arange(bins).to(values)).abs()
    near = 2 / 3 - away.square() + away**3 / 2
    far = (2 - away).clamp_min(0) ** 3 / 6
    return torch.where(away < 1, near, far)


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp_min(1e-9).log()).sum(-1)


def mind(image: Tensor, apart: int = 2) -> Tensor:
    """(B, C, *grid) → (B, P C, *grid) in (0, 1]: how alike neighbours of each voxel are to one another.

    P pairs of neighbours at a right angle, 12 in 3D and 4 in 2D, `apart` voxels from the middle; patches of 3
    voxels a side. Source: Heinrich et al. 2013, MIND-SSC (doi:10.1007/978-3-642-40811-3_24).
    """
    dims = image.ndim - 2
    sides = [(axis, sign) for axis in range(dims) for sign in (-1, 1)]
    shifted = {side: _shifted(image, side[0], side[1] * apart) for side in sides}
    # opposite neighbours are left out: the middle lies between them, and nothing of it is in their distance
    pairs = [(a, b) for a, b in combinations(sides, 2) if a[0] != b[0]]
    distance = torch.stack([smoothed((shifted[a] - shifted[b]).square(), 3) for a, b in pairs], dim=1)
    distance = distance - distance.amin(1, keepdim=True)
    noise = distance.mean(1, keepdim=True)
    mean = noise.flatten(3).mean(3).view(*noise.shape[:3], *(1,) * dims)
    noise = torch.minimum(torch.maximum(noise, mean * 1e-3), mean * 1e3).clamp_min(1e-6)
    return torch.exp(-distance / noise).flatten(1, 2)


def _shifted(image: Tensor, axis: int, by: int) -> Tensor:
    """The value `by` voxels further along a grid axis; at the edge the last one."""
    size = image.shape[axis + 2]
    places = (torch.arange(size, device=image.device) + by).clamp(0, size - 1)
    return image.index_select(axis + 2, places)
