"""Two cases as one: a fixed image and a moving one on the fixed one's grid, of one site and never of two.

A pair's image is (2 C, *grid), fixed and then moving. What lies where is told by the world's millimetres, so two
cases that share no frame are laid onto each other as their files say, and the network does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, final, overload

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F32, F64, Case, CaseRef, Cases, Target
from fedrounds_common.rng import generator

Scalar = TypeVar("Scalar", bound=np.generic)
APART = "--"  # between the names of fixed and moving
WHOLE = 1e-3  # voxels: a shift this close to whole numbers is copied, not interpolated


@final
class Pairs(Sequence[Case]):
    """Pairs of cases, put together when asked for: `which` says the places of fixed and moving."""

    def __init__(self, cases: Cases, which: Sequence[tuple[int, int]]) -> None:
        self.cases = cases
        self.which = tuple(which)

    def __len__(self) -> int:
        return len(self.which)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Case]: ...
    def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
        if isinstance(index, slice):
            return Pairs(self.cases, self.which[index])
        fixed, moving = self.which[index]
        return pair(self.cases[fixed], self.cases[moving])


def chosen(cases: int, most: int, seed: int) -> tuple[tuple[int, int], ...]:
    """Which pairs are judged: a ring, in which each case is fixed once and moving once, then others by lot.

    Twice as many as there are cases, if there are so many ordered pairs, and at most `most`.
    """
    if cases < 2:
        return ()
    ring = [(index, (index + 1) % cases) for index in range(cases)]
    others = [(a, b) for a in range(cases) for b in range(cases) if b not in (a, (a + 1) % cases)]
    drawn = generator(seed, "pairs").permutation(len(others))[: min(cases, len(others))]
    return tuple([*ring, *(others[int(place)] for place in drawn)][:most])


def pair(fixed: Case, moving: Case) -> Case:
    """One case of two. Its patient is the fixed one's: it is they who are resampled for intervals."""
    image = np.concatenate([fixed.image, onto(moving.image, moving.affine, fixed, smooth=True)])
    labels = None
    if moving.labels is not None:
        labels = onto(moving.labels[np.newaxis], moving.affine, fixed, smooth=False)[0]
    target = None if fixed.target is None and labels is None else Target(voxels=fixed.labels, moving=labels)
    ref = CaseRef(f"{fixed.ref.name}{APART}{moving.ref.name}", fixed.ref.patient, fixed.ref.site)
    return Case(ref, image, target, fixed.affine)


def onto(array: NDArray[Scalar], affine: F64, like: Case, *, smooth: bool) -> NDArray[Scalar]:
    """array (C, *its grid) on the grid of `like`; beyond its edge the nearest voxel's value, of labels 0."""
    axes = len(like.grid)
    if array.shape[1:] == like.grid and np.array_equal(affine, like.affine):
        return array
    move = np.linalg.inv(affine) @ like.affine
    turn, shift = move[:axes, :axes], move[:axes, 3]
    if np.array_equal(turn, np.eye(axes)) and float(np.abs(shift - np.rint(shift)).max()) < WHOLE:
        return cut(array, [int(low) for low in np.rint(shift)], like.grid, smooth=smooth)
    return _interpolated(array, turn, shift, like.grid, smooth)


def shown(image: F32) -> NDArray[np.bool_]:
    """(C, *grid) → where it shows something, (*grid): another value than the corner's."""
    corner = image[(slice(None), *(slice(0, 1),) * (image.ndim - 1))]
    return np.asarray((image != corner).any(axis=0))


def cut(array: NDArray[Scalar], start: Sequence[int], grid: Sequence[int], *, smooth: bool) -> NDArray[Scalar]:
    """The (C, *grid) voxels that begin at `start`; beyond the edge the last ones go on, or 0 where not `smooth`."""
    sizes = array.shape[1:]
    before = [max(-low, 0) for low in start]
    after = [max(low + size - have, 0) for low, size, have in zip(start, grid, sizes, strict=True)]
    around = [(0, 0), *zip(before, after, strict=True)]
    grown = np.pad(array, around, mode="edge") if smooth else np.pad(array, around)
    spans = (slice(max(low, 0), max(low, 0) + size) for low, size in zip(start, grid, strict=True))
    return np.ascontiguousarray(grown[(slice(None), *spans)])


def _interpolated(array: NDArray[Scalar], turn: F64, shift: F64, grid: Sequence[int], smooth: bool) -> NDArray[Scalar]:
    from scipy.ndimage import affine_transform

    result = np.empty((len(array), *grid), array.dtype)
    for channel, into in zip(array, result, strict=True):
        affine_transform(
            channel, turn, shift, tuple(grid), into, order=int(smooth), mode="nearest" if smooth else "constant"
        )
    return result
