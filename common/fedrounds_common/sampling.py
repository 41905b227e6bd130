"""Where training patches are taken from a case: on foreground, or anywhere in what is not background."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F32, U8, Case
from fedrounds_common.metrics.overlap import Mask
from fedrounds_common.metrics.surface import bounding_box

Scalar = TypeVar("Scalar", bound=np.generic)


@final
@dataclass(frozen=True)
class Index:
    """Of one case: the content box, and for each label value its voxels as flat positions in the grid."""

    box: tuple[slice, ...]
    voxels: dict[int, NDArray[np.integer[Any]]]

    @property
    def bytes(self) -> int:
        return sum(places.nbytes for places in self.voxels.values())


# Searching a 240 x 240 x 155 case takes longer than a training step on a GPU; an entry lives as long as its case,
# or until newer ones need its place: cases lie on disk, and a process may train thousands of them.
HELD_BYTES = 2**30
_indices: dict[int, tuple[weakref.ref[Case], Index]] = {}


def index_of(case: Case) -> Index:
    held = _indices.get(id(case))
    if held is not None and held[0]() is case:
        return held[1]
    box = content_box(case.image) if case.packed is None else case.packed.box
    index = Index(box, {} if (labels := case.labels) is None else _voxels(labels))
    key = id(case)
    held_bytes = index.bytes + sum(entry.bytes for _, entry in _indices.values())
    for other in list(_indices):
        if held_bytes <= HELD_BYTES:
            break
        held_bytes -= _indices.pop(other)[1].bytes
    _indices[key] = (weakref.ref(case, lambda _: _indices.pop(key, None)), index)
    return index


def _voxels(labels: U8) -> dict[int, NDArray[np.integer[Any]]]:
    flat = labels.ravel()
    places = np.flatnonzero(flat).astype(np.int32 if flat.size < 2**31 else np.int64)
    values = flat[places]
    return {int(value): places[values == value] for value in np.unique(values)}


def content_box(image: F32) -> tuple[slice, ...]:
    """The box of voxels that differ from the corner's value in some channel; all of the grid if none does.

    On a skull-stripped head that is the brain; on an image without background, the whole of it.
    """
    corner = image[(slice(None), *(slice(0, 1),) * (image.ndim - 1))]
    content: Mask = (image != corner).any(axis=0)
    return bounding_box(content) if content.any() else tuple(slice(0, size) for size in image.shape[1:])


def grown(box: Sequence[slice], least: Sequence[int], grid: Sequence[int]) -> tuple[slice, ...]:
    """The box made at least so large on each axis as far as the grid goes, around its middle."""
    spans = []
    for span, size, limit in zip(box, least, grid, strict=True):
        length = min(max(span.stop - span.start, size), limit)
        start = (span.start + span.stop - length) // 2
        start = min(max(start, 0), limit - length)
        spans.append(slice(start, start + length))
    return tuple(spans)


def foreground_voxel(
    index: Index, groups: Sequence[tuple[int, ...]], grid: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...] | None:
    """A voxel of a random one of the groups of label values that are present; None if none is."""
    present = [group for group in groups if any(value in index.voxels for value in group)]
    if not present:
        return None
    group = present[int(rng.integers(len(present)))]
    pools = [index.voxels[value] for value in group if value in index.voxels]
    position = int(rng.integers(sum(len(pool) for pool in pools)))
    for pool in pools:
        if position < len(pool):
            return tuple(int(axis) for axis in np.unravel_index(pool[position], tuple(grid)))
        position -= len(pool)
    raise AssertionError("position is below the sum of the pools' lengths")


def patch_start(
    voxel: Sequence[int] | None,
    box: Sequence[slice],
    patch: Sequence[int],
    grid: Sequence[int],
    rng: np.random.Generator,
) -> tuple[int, ...]:
    """Where the patch begins: around `voxel`, or anywhere in the box; inside the grid where it fits.

    On an axis shorter than the patch the start is negative and the case lies in the patch's middle.
    """
    starts = []
    room = grown(box, patch, grid)
    for axis, (size, limit) in enumerate(zip(patch, grid, strict=True)):
        if limit <= size:
            starts.append(-((size - limit) // 2))
        elif voxel is None:
            starts.append(int(rng.integers(room[axis].start, room[axis].stop - size + 1)))
        else:
            starts.append(min(max(voxel[axis] - size // 2, 0), limit - size))
    return tuple(starts)


def patch_of(case: Case, start: Sequence[int], patch: Sequence[int]) -> F32:
    """`cut` of the case's image; of one that a store keeps, no more than the patch is read."""
    return cut(case.image, start, patch) if case.packed is None else case.packed.cut(start, patch)


def labels_of(case: Case, start: Sequence[int], patch: Sequence[int]) -> U8:
    """(*patch) of the case's label map, which it must have; zeros beyond the grid."""
    assert case.target is not None
    packed = case.target.packed.get("voxels")
    if packed is not None:
        return packed.cut(start, patch)
    assert case.labels is not None
    found: U8 = cut(case.labels[np.newaxis], start, patch)[0]
    return found


def cut(array: NDArray[Scalar], start: Sequence[int], patch: Sequence[int]) -> NDArray[Scalar]:
    """array (C, *grid) → (C, *patch); zeros where the patch reaches beyond the grid."""
    grid = array.shape[1:]
    spans = zip(start, patch, grid, strict=True)
    inside = tuple(slice(max(low, 0), min(low + size, have)) for low, size, have in spans)
    part = array[(slice(None), *inside)]
    if part.shape[1:] == tuple(patch):
        return part
    result = np.zeros((len(array), *patch), array.dtype)
    place = tuple(slice(span.start - low, span.stop - low) for span, low in zip(inside, start, strict=True))
    result[(slice(None), *place)] = part
    return result
