"""Bring voxels from one grid to another whose axes run along the same lines: turn, flip, resample.

Grids. An affine (4, 4) maps voxel (i, j, k) to RAS millimetres; a picture (H, W) uses its first two
axes. Arrays may have leading axes (channels); their last `len(grid)` axes are the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F32, F64, OPPOSITE, U8, orientation_of, spacing_of
from fedrounds_common.errors import DataError

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
_WHOLE = 1e-3  # voxels: positions this close to whole numbers are copied, not interpolated
_DRIFT = 0.02  # voxels over the whole axis: a spacing this close to the wanted one is left alone


def turned(grid: Sequence[int], affine: F64, orientation: str) -> tuple[tuple[int, ...], F64]:
    """The grid and affine of the same volume with its axes in another order and direction.

    Args:
        grid: three numbers of voxels.
        orientation: where each new axis points, e.g. "RAS".
    """
    here = orientation_of(affine)
    move = np.zeros((4, 4))
    move[3, 3] = 1.0
    shape = []
    for new, code in enumerate(orientation):
        old = here.index(code) if code in here else here.index(OPPOSITE[code])
        flipped = here[old] != code
        move[old, new] = -1.0 if flipped else 1.0
        move[old, 3] = grid[old] - 1 if flipped else 0.0
        shape.append(grid[old])
    return tuple(shape), affine @ move


def respaced(grid: Sequence[int], affine: F64, spacing_mm: Sequence[float | None]) -> tuple[tuple[int, ...], F64]:
    """The grid with another spacing and the same centre, so that flipping first or last is the same.

    Args:
        spacing_mm: one entry an axis; None leaves that axis alone.

    Returns:
        Numbers of voxels (each at least 1; the field of view rounded to whole new voxels), and the affine.
    """
    scale = np.eye(4)
    shape = list(grid)
    for axis, (wanted, found) in enumerate(zip(spacing_mm, spacing_of(affine, len(grid)), strict=True)):
        if wanted is None or abs(found / wanted - 1) * grid[axis] < _DRIFT:
            continue
        shape[axis] = max(1, round(grid[axis] * found / wanted))
        scale[axis, axis] = wanted / found
        scale[axis, 3] = ((grid[axis] - 1) - (shape[axis] - 1) * wanted / found) / 2
    return tuple(shape), affine @ scale


def onto(image: NDArray[Any], affine: F64, grid: Sequence[int], target: F64, *, smooth: bool = True) -> F32:
    """Interpolate linearly onto another grid; copies exactly where voxel centres meet.

    Args:
        image: (..., *old grid), any real type.
        smooth: where the new voxels are larger, blur first as a scanner with such voxels would
            (a Gaussian whose FWHM makes up the difference: Cardoso et al. 2015,
            doi:10.1007/978-3-319-24571-3_81).

    Returns:
        (..., *grid) float32, C-contiguous; beyond the old field of view the nearest voxel's value.

    Raises:
        DataError: FR-D27 the two grids do not run along the same lines.
    """
    axes, positions = _lines(image.shape[image.ndim - len(grid) :], affine, grid, target)
    return _onto(image.astype(np.float32, copy=False), axes, positions, smooth)


def labels_onto(labels: U8, affine: F64, grid: Sequence[int], target: F64) -> U8:
    """Bring label values (*old grid) onto another grid: at each new voxel's centre, the label with most weight.

    Not blurred first: a blur would let the larger label eat thin ones, and volumes would shrink.
    """
    axes, positions = _lines(labels.shape, affine, grid, target)
    if all(_is_whole(line) for line in positions):
        return _copied(labels, axes, positions)
    values = np.flatnonzero(np.bincount(labels.ravel(), minlength=1))
    best = np.zeros(tuple(grid), np.float32)
    result = np.zeros(tuple(grid), np.uint8)
    for value in values:
        weight = _onto((labels == value).astype(np.float32), axes, positions, smooth=False)
        better = weight > best
        result[better] = value
        best[better] = weight[better]
    return result


def beyond(old: Sequence[int], affine: F64, grid: Sequence[int], target: F64) -> NDArray[np.bool_]:
    """(*grid): True where the new grid reaches beyond the old one's field of view, which `respaced` may have rounded."""
    axes, positions = _lines(tuple(old), affine, grid, target)
    outside: NDArray[np.bool_] = np.zeros(tuple(grid), bool)
    for new, (axis, line) in enumerate(zip(axes, positions, strict=True)):
        shape = [1] * len(grid)
        shape[new] = len(line)
        step = abs(float(line[1] - line[0])) if len(line) > 1 else 1.0
        # in old voxels: half of one to its edge, a quarter of rounding, less half a new one from its edge to its centre
        reach = max(0.0, 0.75 - 0.5 * step) + _WHOLE
        outside |= ((line < -reach) | (line > old[axis] - 1 + reach)).reshape(shape)
    return outside


def corners(grid: Sequence[int]) -> F64:
    """The corner voxels of a grid of three axes, (4, 8), homogeneous."""
    ends = np.meshgrid(*((0, size - 1) for size in grid), [1], indexing="ij")
    return np.stack([axis.ravel() for axis in ends]).astype(np.float64)


def _lines(
    old: Sequence[int], affine: F64, grid: Sequence[int], target: F64
) -> tuple[tuple[int, ...], tuple[F64, ...]]:
    """For each new axis: which old axis it runs along, and where on it its voxels lie (in old voxels)."""
    count = len(grid)
    move = np.linalg.inv(affine) @ target
    axes = tuple(int(np.argmax(np.abs(move[:count, new]))) for new in range(count))
    rest = np.abs(move[:count, :count])
    rest[list(axes), list(range(count))] = 0.0
    # how far the far corner of the new grid lies off the old grid's lines
    if sorted(axes) != list(range(count)) or float(np.max(rest @ np.asarray(grid, np.float64))) > 0.05:
        raise DataError(
            "FR-D27",
            f"a grid of {tuple(grid)} voxels is turned against one of {tuple(old)}",
            wanted="two grids of the same case, whose axes are parallel",
            do="restore a prediction onto the case it was made from",
        )
    return axes, tuple(
        move[axis, new] * np.arange(grid[new], dtype=np.float64) + move[axis, 3] for new, axis in enumerate(axes)
    )


def _onto(image: F32, axes: tuple[int, ...], positions: tuple[F64, ...], smooth: bool) -> F32:
    lead = image.ndim - len(axes)
    image = image.transpose(*range(lead), *(lead + axis for axis in axes))
    # the axis that shrinks most goes first: the others then have less to do
    for new in sorted(range(len(axes)), key=lambda new: len(positions[new]) / image.shape[lead + new]):
        image = _along(image, lead + new, positions[new], smooth)
    return np.ascontiguousarray(image)


def _along(image: F32, axis: int, position: F64, smooth: bool) -> F32:
    step = abs(float(position[1] - position[0])) if len(position) > 1 else float(image.shape[axis])
    if smooth and step > 1 + _WHOLE:
        from scipy.ndimage import gaussian_filter1d  # a third of a second, which most studies do not need

        sigma = math.sqrt(step**2 - 1) / FWHM_PER_SIGMA
        image = gaussian_filter1d(image, sigma, axis=axis, mode="nearest", truncate=3.0)
    if _is_whole(position):
        return _picked(image, axis, np.rint(position))
    inside = np.clip(position, 0, image.shape[axis] - 1)
    low = np.floor(inside).astype(np.intp)
    high = np.minimum(low + 1, image.shape[axis] - 1)
    shape = [1] * image.ndim
    shape[axis] = len(position)
    share = (inside - low).astype(np.float32).reshape(shape)
    below = image.take(low, axis=axis)
    result: F32 = below + share * (image.take(high, axis=axis) - below)
    return result


def _copied(labels: U8, axes: tuple[int, ...], positions: tuple[F64, ...]) -> U8:
    result = labels.transpose(axes)
    for new, position in enumerate(positions):
        result = _picked(result, new, np.rint(position))
    return np.ascontiguousarray(result)


def _picked(array: NDArray[Any], axis: int, position: F64) -> NDArray[Any]:
    size = array.shape[axis]
    if len(position) == size and np.array_equal(position, np.arange(size)):
        return array
    if len(position) == size and np.array_equal(position, np.arange(size)[::-1]):
        return np.flip(array, axis)
    return array.take(np.clip(position, 0, size - 1).astype(np.intp), axis=axis)


def _is_whole(position: F64) -> bool:
    return bool(np.max(np.abs(position - np.rint(position))) < _WHOLE)
