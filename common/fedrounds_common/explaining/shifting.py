"""Where a registration is unsure of itself: by what it answers once the moving image is put elsewhere by a known amount.

Moved by one voxel, an image asks for a displacement that differs by that very voxel. Where the image holds the
network to its answer the two agree; where the answer was a guess from the surroundings they do not. On simulated
pairs this goes with the true error, and no longer once the weights are random (`benchmarks/registration_unsure.py`).
How answers spread under noise did so a quarter as much; how far things move and how the map stretches did not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedrounds_common.case import F32, F64
from fedrounds_common.registration import pairs, world

STEP = 1  # voxels


def disagreement_mm(displacement: Callable[[F32], F32], image: F32, affine: F64) -> F32:
    """How far the answers to known shifts lie from what they should be, (*grid), root mean square in mm.

    Args:
        displacement: pair (2 C, *grid) → what moves it, (A, *grid), in mm along the world's axes.
        image: the pair, fixed and then moving.
        affine: of its grid.
    """
    fixed, moving = np.split(image, 2)
    grid = image.shape[1:]
    known = displacement(image)
    squares = np.zeros(grid, np.float64)
    for axis in range(len(grid)):
        for step in (-STEP, STEP):
            shift = [step if other == axis else 0 for other in range(len(grid))]
            put = pairs.cut(moving, [-each for each in shift], grid, smooth=True)
            constant = np.broadcast_to(np.array(shift, np.float32).reshape(-1, *(1,) * len(grid)), known.shape)
            wanted = known + world.to_mm(np.ascontiguousarray(constant), affine)
            squares += ((displacement(np.concatenate([fixed, put])) - wanted) ** 2).sum(axis=0)
    return np.asarray(np.sqrt(squares / (2 * len(grid))), np.float32)
