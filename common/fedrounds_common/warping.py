"""Small turns, another size and smooth displacements of a patch, all in one resampling."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np

from fedrounds_common.case import F32, F64, U8

KNOT = 12.0  # voxels between the knots of an elastic displacement
BACKGROUND = 0.01  # share of a patch: fewer zeros are chance


def moved(
    image: F32, labels: U8, names: Collection[str], own: Callable[[str], np.random.Generator], masks: int
) -> tuple[F32, U8]:
    """Image (C, *patch) linearly, labels (*patch) and the last `masks` channels by the nearest.

    What comes in from outside is background, 0, where the image has such; else its edges go on.

    Args:
        own: name → its generator.
    """
    matrix, displacement = _drawn(labels.shape, names, own)
    if matrix is None and displacement is None:
        return image, labels
    from scipy import ndimage

    middle = (np.array(labels.shape, np.float64).reshape(-1, *(1,) * labels.ndim) - 1) / 2
    places = np.indices(labels.shape, np.float64) - middle
    if matrix is not None:
        places = np.tensordot(matrix, places, axes=1)
    places += middle
    if displacement is not None:
        places += displacement
    empty = (image[: len(image) - masks] == 0).all(axis=0).mean() >= BACKGROUND
    mode = "constant" if empty else "nearest"
    orders = [1] * (len(image) - masks) + [0] * masks
    channels = [
        ndimage.map_coordinates(channel, places, order=order, mode=mode)
        for channel, order in zip(image, orders, strict=True)
    ]
    return np.stack(channels), ndimage.map_coordinates(labels, places, order=0, mode=mode)


def smooth_field(shape: Sequence[int], knot: float, draws: np.random.Generator) -> F32:
    """(*shape) with mean 0 and standard deviation about 1, smooth over `knot` voxels: cubic between random knots."""
    counts = [int(np.ceil(size / knot)) + 1 for size in shape]
    field = draws.standard_normal(counts)
    # axis by axis: a cubic in each of three axes is a sum over 4³ knots, and this one of 4 at a time
    for axis, (size, count) in enumerate(zip(shape, counts, strict=True)):
        lines = np.moveaxis(field, axis, 0)
        brought = np.einsum("ij,jk->ik", _between(size, count), lines.reshape(count, -1))
        field = np.moveaxis(brought.reshape(size, *lines.shape[1:]), 0, axis)
    return np.ascontiguousarray(field, np.float32)


@lru_cache(maxsize=32)
def _between(size: int, count: int) -> F64:
    """(size, count): what each of `count` values at even places weighs at each of `size`, by a cubic spline."""
    from scipy import ndimage

    places = np.linspace(0, count - 1, size)[np.newaxis]
    return np.stack([ndimage.map_coordinates(one, places, order=3, mode="reflect") for one in np.eye(count)], axis=1)


def _drawn(
    shape: Sequence[int], names: Collection[str], own: Callable[[str], np.random.Generator]
) -> tuple[F64 | None, F64 | None]:
    """The linear map (axes, axes) and the displacement (axes, *shape) in voxels; None: not moved so."""
    matrix, displacement = None, None
    if "rotate" in names and (draws := own("rotate")).random() < 0.3:
        matrix = _turn(len(shape), draws)
    if "scale" in names and (draws := own("scale")).random() < 0.3:
        matrix = (np.eye(len(shape)) if matrix is None else matrix) / draws.uniform(0.85, 1.15)
    if "elastic" in names and (draws := own("elastic")).random() < 0.3:
        strength = draws.uniform(0.5, 1.5)
        displacement = strength * np.stack([smooth_field(shape, KNOT, draws) for _ in shape]).astype(np.float64)
    return matrix, displacement


def _turn(axes: int, draws: np.random.Generator) -> F64:
    most = np.radians(15.0 if axes == 2 else 10.0)
    matrix = np.eye(axes)
    for a, b in combinations(range(axes), 2):
        angle, plane = draws.uniform(-most, most), np.eye(axes)
        plane[a, a] = plane[b, b] = np.cos(angle)
        plane[a, b], plane[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ plane
    return matrix
