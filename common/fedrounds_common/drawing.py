"""What of a case a network that judges whole cases is shown: all of it, a patch, some slices; NumPy only.

Shapes: image (C, *grid), or (C, S, *grid) where a case of a 2D study is a stack of S slices or tiles.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fedrounds_common import sampling
from fedrounds_common.augment import augment
from fedrounds_common.case import F32, Case, Cases
from fedrounds_common.errors import UsageError

OVERLAP = 0.25  # share of a window by which neighbours overlap

# One site's cases, by class: looked through once and not at each draw. Held so that their address stays theirs.
_by_class: list[tuple[Cases, list[NDArray[np.intp]]]] = []


def case_of(cases: Cases, rng: np.random.Generator, *, balanced: bool) -> Case:
    """A random case, or one of a class drawn first, of those that any of the cases is of."""
    groups = _groups(cases) if balanced else []
    if not groups:
        return cases[int(rng.integers(len(cases)))]
    group = groups[int(rng.integers(len(groups)))]
    return cases[int(group[int(rng.integers(len(group)))])]


def _groups(cases: Cases) -> list[NDArray[np.intp]]:
    """The places of the cases of each class, and of those of none."""
    if not _by_class or _by_class[0][0] is not cases:
        known = [case.target.classes for case in cases if case.target is not None and case.target.classes is not None]
        truth = np.stack(known) if len(known) == len(cases) else np.zeros((len(cases), 0))
        columns = [*(truth > 0).T, (truth <= 0).all(axis=1)] if truth.shape[1] else []
        _by_class[:] = [(cases, [np.flatnonzero(column) for column in columns if column.any()])]
    return _by_class[0][1]


def shown(
    case: Case, first: Case, dims: int, patch: Sequence[int] | None, slices: int | None, rng: np.random.Generator
) -> F32:
    """The image, or a patch of it in what is not background; of a stack, so many of its slices, evenly spread.

    Args:
        first: the site's first case: without a patch all must be of its size.

    Raises:
        UsageError: FR-U43 images of different sizes.
    """
    image = case.image
    if slices is not None and stacked(image, dims):
        # a random start: in time every slice is seen
        image = image[:, ((np.arange(slices) + rng.random()) * image.shape[1] / slices).astype(np.intp)]
    elif stacked(image, dims) and image.shape[1] != first.image.shape[1]:
        raise _unlike(f"stacks of {first.image.shape[1]} and of {image.shape[1]} slices", "task.slices")
    if patch is None:
        if case.grid[-dims:] != first.grid[-dims:]:
            raise _unlike(f"cases of different grids ({first.grid} and {case.grid})", f"training.patch, {dims} numbers")
        return image
    box = sampling.index_of(case).box[-dims:]
    return _cut(image, sampling.patch_start(None, box, patch, image.shape[-dims:], rng), patch)


def augmented(image: F32, dims: int, names: Collection[str], rng: np.random.Generator) -> F32:
    """A changed copy; the slices of a stack are turned and mirrored together."""
    planes = image.reshape(-1, *image.shape[-dims:])
    changed, _ = augment(planes, np.zeros(planes.shape[1:], np.uint8), names, rng)
    return changed.reshape(*image.shape[:-dims], *changed.shape[1:])


def windows_of(image: F32, dims: int, patch: Sequence[int] | None) -> F32:
    """(windows, C, *patch), evenly spaced over the whole grid; the image alone where there is no patch."""
    if patch is None:
        return image[np.newaxis]
    from fedrounds_common.windows import starts

    grid = image.shape[-dims:]
    corners = [
        starts(have, size, OVERLAP) if have > size else [-((size - have) // 2)]
        for have, size in zip(grid, patch, strict=True)
    ]
    return np.stack([_cut(image, corner, patch) for corner in product(*corners)])


def with_mirror_images(images: F32, dims: int) -> F32:
    """(N, ...) → (2^dims N, ...): mirrored along each axis and all of their combinations."""
    for axis in range(1, dims + 1):
        images = np.concatenate([images, np.flip(images, -axis)])
    return images


def stacked(image: F32, dims: int) -> bool:
    return image.ndim == dims + 2


def _cut(image: F32, start: Sequence[int], patch: Sequence[int]) -> F32:
    dims = len(patch)
    part = sampling.cut(image.reshape(-1, *image.shape[-dims:]), start, patch)
    return part.reshape(*image.shape[:-dims], *patch)


def _unlike(found: str, key: str) -> UsageError:
    return UsageError("FR-U43", found, wanted="one size for all examples", do=f"set {key}")
