"""Between voxels of a grid and millimetres in the world, for places and for vectors.

A picture's world is its rows and columns in mm; a volume's is RAS. Fields are (A, *grid).
"""

from __future__ import annotations

import numpy as np

from fedrounds_common.case import F32, F64


def to_mm(field: F32, affine: F64) -> F32:
    """Vectors in voxels → in mm along the world's axes."""
    return _turned(affine[: len(field), : len(field)], field)


def to_voxels(field: F32, affine: F64) -> F32:
    """Vectors in mm along the world's axes → in voxels of a grid with this affine."""
    return _turned(np.asarray(np.linalg.inv(affine[: len(field), : len(field)]), np.float64), field)


def places_in(affine: F64, places: F64) -> F64:
    """Places (N, A) in mm → in voxels of a grid with this affine."""
    axes = places.shape[1]
    return np.asarray((places - affine[:axes, 3]) @ np.linalg.inv(affine[:axes, :axes]).T, np.float64)


def _turned(matrix: F64, field: F32) -> F32:
    return np.ascontiguousarray(np.tensordot(matrix.astype(np.float32), field, axes=1), np.float32)
