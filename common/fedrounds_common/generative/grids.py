"""The size of the images a network makes, and cases brought to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrounds_common import sampling
from fedrounds_common.case import F32, F64, Case
from fedrounds_common.errors import UsageError
from fedrounds_common.study.tables import CaseForm

USUAL = 32  # voxels on each axis, where a network's table says nothing
Scalar = TypeVar("Scalar", bound=np.generic)


def grid_of(grid: Sequence[int], dims: int, divisor: int = 1) -> tuple[int, ...]:
    """The grid as the network's table says it, or 32 on each axis.

    Raises:
        UsageError: FR-U75 another number of axes than the cases have, or sizes that the levels do not divide.
    """
    found = tuple(grid) or (USUAL,) * dims
    if len(found) != dims:
        raise UsageError("FR-U75", f"model.grid = {list(found)}", wanted=f"{dims} numbers, as cases.dims says")
    if any(size % divisor for size in found):
        raise UsageError(
            "FR-U75",
            f"model.grid = {list(found)}",
            wanted=f"multiples of {divisor}",
            do="change it, or have fewer levels",
        )
    return found


def framed(array: NDArray[Scalar], grid: Sequence[int]) -> NDArray[Scalar]:
    """(C, *any) → (C, *grid): the middle of it, with zeros where it does not reach."""
    start = [
        -((size - have) // 2) if size > have else (have - size) // 2
        for size, have in zip(grid, array.shape[1:], strict=True)
    ]
    return sampling.cut(array, start, grid)


def affine_of(form: CaseForm, grid: Sequence[int]) -> F64:
    """Voxel → RAS mm of an image that was never anywhere: its axes as the study turns them, its middle at 0.

    A picture has spacing and no place.
    """
    spacing = np.array(form.spacing_mm or (1.0,) * form.dims)
    if form.dims == 2:
        return np.diag([*spacing, 1.0, 1.0])
    affine = np.eye(4)
    for axis, (code, size) in enumerate(zip(form.orientation or "RAS", spacing, strict=True)):
        affine[:3, axis] = 0
        affine["RAS".index(code) if code in "RAS" else "LPI".index(code), axis] = size if code in "RAS" else -size
    affine[:3, 3] = -affine[:3, :3] @ (np.array(grid) - 1) / 2
    return affine


def is_stack(case: Case, dims: int) -> bool:
    return dims == 2 and len(case.grid) == 3


def one_slice(case: Case, dims: int, rng: np.random.Generator | None = None) -> Case:
    """Of a stack one slice as a case of its own: a random one of those that hold anything, or the middle one of them."""
    if not is_stack(case, dims):
        return case
    place = _middle(case) if rng is None else int(rng.integers(*_extent(case)))
    target = case.target
    if target is not None and target.voxels is not None:
        target = replace(target, voxels=target.voxels[place])
    # rows and columns only: a plane of its own has no place in the stack
    affine = np.diag([*case.spacing_mm[1:], 1.0, 1.0])
    return case.with_image(case.image[:, place], target, affine)


def in_stack(image: F32, case: Case) -> F32:
    """(C, H, W) of `one_slice` → (C, S, H, W): at its place in the stack, and nothing elsewhere."""
    found = np.zeros((len(image), *case.grid), np.float32)
    found[:, _middle(case)] = image
    return found


def _extent(case: Case) -> tuple[int, int]:
    span = sampling.index_of(case).box[0]
    return span.start, span.stop


def _middle(case: Case) -> int:
    return sum(_extent(case)) // 2
