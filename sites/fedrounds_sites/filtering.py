"""Filters that take noise from an image before it is normalised; sizes in mm, so that all sites smooth alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F32
from fedrounds_common.study.tables import Filter

Apply = Callable[[F32, Sequence[float]], F32]
Mask = NDArray[np.bool_]

RANGE = 0.1  # of the bilateral filter: differences count from this share of the image's own range


def filtered(channel: F32, spacing_mm: Sequence[float], filters: Mapping[Filter, float], inside: Mask | None) -> F32:
    """One channel (*grid), smoothed by the filters that are named: median, then bilateral, then Gaussian.

    Args:
        filters: name → size in mm. An axis whose voxels are larger than the size is left alone.
        inside: True where there is tissue; elsewhere the values stay, and they do not reach into the tissue.
    """
    if not filters or (inside is not None and not inside.any()):
        return channel
    image = channel
    in_order: tuple[tuple[Filter, Apply], ...] = (
        ("median", _median), ("bilateral", _bilateral), ("gaussian", _gaussian),
    )  # fmt: skip
    for name, apply in in_order:
        if name in filters:
            voxels = [filters[name] / size for size in spacing_mm]
            image = apply(image if inside is None else _grown(image, inside), voxels)
    return image if inside is None else np.where(inside, image, channel)


def _grown(image: F32, inside: Mask) -> F32:
    """Outside takes the nearest tissue's value, or background would be averaged into the tissue's rim."""
    if inside.all():
        return image
    from scipy import ndimage  # here and below: a third of a second, which studies without filters do not need

    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    return np.asarray(image[tuple(nearest)], np.float32)


def _median(image: F32, voxels: Sequence[float]) -> F32:
    """Over a box of about that width, an odd number of voxels along each axis."""
    from scipy import ndimage

    widths = [2 * round((width - 1) / 2) + 1 if width > 1 else 1 for width in voxels]
    return image if max(widths) == 1 else np.asarray(ndimage.median_filter(image, widths, mode="nearest"), np.float32)


def _gaussian(image: F32, voxels: Sequence[float]) -> F32:
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(image, voxels, mode="nearest", truncate=3.0), np.float32)


def _bilateral(image: F32, voxels: Sequence[float]) -> F32:
    """Neighbours weigh by distance and by likeness, so that edges stay.

    Source: Tomasi & Manduchi 1998 (doi:10.1109/ICCV.1998.710815); the spread of likeness is `RANGE` of the distance
    between the 0.5th and the 99.5th percentile.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    if not high > low:
        return image
    radii = [int(np.ceil(1.5 * sigma)) if sigma >= 0.3 else 0 for sigma in voxels]
    padded = np.pad(image, [(radius, radius) for radius in radii], mode="edge")
    total, weights = np.zeros_like(image), np.zeros_like(image)
    scale = np.float32(-0.5 / (RANGE * (high - low)) ** 2)
    for steps in product(*(range(-radius, radius + 1) for radius in radii)):
        place = tuple(
            slice(radius + step, radius + step + size)
            for radius, step, size in zip(radii, steps, image.shape, strict=True)
        )
        neighbour = padded[place]
        near = -0.5 * sum((step / sigma) ** 2 for step, sigma in zip(steps, voxels, strict=True) if step)
        weight = np.exp(np.float32(near) + scale * (neighbour - image) ** 2)
        total += weight * neighbour
        weights += weight
    return total / weights
