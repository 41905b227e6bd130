"""Between voxels of a grid and millimetres in the world, for places and for vectors.

A picture's world is its rows and columns in mm; a volume's is RAS. Fields are (A, *grid).
"""

from __future__ import annotations

import numpy as np

from fedrounds_common.case import F32, F64

UPRIGHT = 0.7  # of a picture's area, seen from above: below it lies more across the axial plane than in it


def to_mm(field: F32, affine: F64) -> F32:
    """Vectors in voxels → in mm along the world's axes."""
    return _turned(_directions(affine, len(field)), field)


def to_voxels(field: F32, affine: F64) -> F32:
    """Vectors in mm along the world's axes → in voxels of a grid with this affine."""
    return _turned(np.asarray(np.linalg.inv(_directions(affine, len(field))), np.float64), field)


def places_in(affine: F64, places: F64) -> F64:
    """Places (N, A) in mm → in voxels of a grid with this affine."""
    axes = places.shape[1]
    return np.asarray((places - affine[:axes, 3]) @ np.linalg.inv(_directions(affine, axes)).T, np.float64)


def _directions(affine: F64, axes: int) -> F64:
    """(axes, axes): what a step along each grid axis is in the frame that vectors are told in.

    That is the world's; of a picture the plane of its first two axes, to the right and to the front. A picture that
    stands across that plane, as a coronal slice does, is told along its own rows and columns.
    """
    turn = affine[:axes, :axes]
    lengths = np.linalg.norm(affine[:3, :axes], axis=0)
    if axes == 2 and abs(float(np.linalg.det(turn))) < UPRIGHT * float(lengths.prod()):
        return np.diag(lengths)
    return turn


def _turned(matrix: F64, field: F32) -> F32:
    return np.ascontiguousarray(np.tensordot(matrix.astype(np.float32), field, axes=1), np.float32)
