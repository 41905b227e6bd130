"""Distances between the surfaces of two masks, in mm.

A mask's surface is its voxels with a face on the outside; the grid's edge counts as outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedrounds_common.case import F64
from fedrounds_common.metrics.overlap import Mask

PERCENTILE = 95.0


def hd95(predicted: Mask, reference: Mask, spacing_mm: Sequence[float]) -> float:
    """The larger of the two directed 95th percentiles of surface distance, in mm (as in BraTS and MONAI).

    Raises:
        ValueError: a mask is empty; `rules` says what counts then.
    """
    return _larger_percentile(*surface_distances(predicted, reference, spacing_mm))


def hd95_of_stack(predicted: Mask, reference: Mask, spacing_mm: Sequence[float]) -> float:
    """HD95 in the planes of a stack (S, H, W): each slice's in-plane distances, pooled over slices.

    In a slice where only one mask is present, each of its surface voxels counts the plane's diagonal:
    no neighbour slice may answer for it, since slices can lie far apart.

    Args:
        spacing_mm: (between slices, row, column); the first is not used.

    Raises:
        ValueError: a mask is empty in every slice.
    """
    _require_both(predicted, reference)
    plane = spacing_mm[1:]
    farthest = diagonal_mm(predicted.shape[1:], plane)
    there: list[F64] = []
    back: list[F64] = []
    for a, b in zip(predicted, reference, strict=True):
        if a.any() and b.any():
            to_reference, to_prediction = surface_distances(a, b, plane)
            there.append(to_reference)
            back.append(to_prediction)
        else:
            there.append(np.full(np.count_nonzero(surface(a)), farthest))
            back.append(np.full(np.count_nonzero(surface(b)), farthest))
    return _larger_percentile(np.concatenate(there), np.concatenate(back))


def surface_distances(predicted: Mask, reference: Mask, spacing_mm: Sequence[float]) -> tuple[F64, F64]:
    """From each surface voxel of one mask to the nearest of the other: (prediction's, reference's), in mm."""
    from scipy.ndimage import distance_transform_edt

    _require_both(predicted, reference)
    box = bounding_box(predicted | reference)  # all of both surfaces is inside, so distances do not change
    a, b = surface(predicted[box]), surface(reference[box])
    to_b: F64 = distance_transform_edt(~b, sampling=spacing_mm)[a]
    to_a: F64 = distance_transform_edt(~a, sampling=spacing_mm)[b]
    return to_b, to_a


def surface(mask: Mask) -> Mask:
    from scipy.ndimage import binary_erosion

    edge: Mask = mask & ~binary_erosion(mask)
    return edge


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box that holds every True.

    Raises:
        ValueError: there is none.
    """
    if not mask.any():
        raise ValueError("an empty mask has no bounding box")
    spans = []
    for axis in range(mask.ndim):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        spans.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(spans)


def diagonal_mm(grid: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Between the centres of two opposite corner voxels: no surface distance on this grid is larger."""
    return float(np.linalg.norm([(size - 1) * mm for size, mm in zip(grid, spacing_mm, strict=True)]))


def _larger_percentile(there: F64, back: F64) -> float:
    return float(max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE)))


def _require_both(predicted: Mask, reference: Mask) -> None:
    if not (predicted.any() and reference.any()):
        raise ValueError("a surface distance needs two masks, and one is empty")
