"""What is known of a case, brought along wherever its grid goes; and the coarse kind of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedrounds_common.case import F32, F64, U8, Case, Target
from fedrounds_common.geometry import labels_onto, onto, turned

# rows then columns as on a lightbox: slices lead, rows run to the feet or back, columns to the left (or back)
STACKS = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}


def target_onto(target: Target | None, affine: F64, grid: tuple[int, ...], to: F64) -> Target | None:
    """The target on another grid: label maps and the true field are resampled, the rest lies in the world.

    Args:
        affine: of the grid that the target lies on.
        grid, to: the grid it is wanted on, and that one's affine.
    """
    if target is None:
        return None
    return replace(
        target,
        voxels=_labels(target.voxels, affine, grid, to),
        moving=_labels(target.moving, affine, grid, to),
        field=None if target.field is None else _field(target.field, affine, grid, to),
    )


def stack_of_slices(case: Case, orientation: str) -> Case:
    """The same case with slices first, then rows and columns as one looks at them; nothing is resampled."""
    grid, affine = turned(case.grid, case.affine, orientation)
    target = target_onto(case.target, case.affine, grid, affine)
    return case.with_image(onto(case.image, case.affine, grid, affine), target, affine)


def one_slice(stack: Case, index: int) -> Case:
    """One slice (C, H, W) of a stack (C, S, H, W), in the same place of the world."""
    target = stack.target
    if target is not None:
        voxels, moving, field = target.voxels, target.moving, target.field
        target = replace(
            target,
            voxels=None if voxels is None else np.ascontiguousarray(voxels[index]),
            moving=None if moving is None else np.ascontiguousarray(moving[index]),
            field=None if field is None else np.ascontiguousarray(field[:, index]),
        )
    affine = stack.affine[:, [1, 2, 0, 3]].copy()
    affine[:, 3] += index * stack.affine[:, 0]
    return stack.with_image(np.ascontiguousarray(stack.image[:, index]), target, affine)


def stratum_of(target: Target | None) -> int:
    """Which labels or classes are there, as one number: the coarse kind of case that folds and partitions deal by."""
    if target is None:
        return 0
    if target.classes is not None:
        return sum(1 << index for index, present in enumerate(target.classes) if present > 0)
    return 0 if target.voxels is None else sum(1 << int(value) for value in np.unique(target.voxels) if value)


def _labels(labels: U8 | None, affine: F64, grid: tuple[int, ...], to: F64) -> U8 | None:
    return None if labels is None else labels_onto(labels, affine, grid, to)


def _field(field: F32, affine: F64, grid: tuple[int, ...], to: F64) -> F32:
    # vectors in mm along the world's axes: turning the grid does not turn them
    return np.stack([onto(component, affine, grid, to) for component in field])
