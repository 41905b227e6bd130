"""From a case as acquired to a case on the study's grid, and a prediction back onto the file's own grid."""

from __future__ import annotations

import math
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F32, F64, U8, Case, spacing_of
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.geometry import beyond, labels_onto, onto, respaced, turned
from fedrounds_common.metrics.surface import bounding_box
from fedrounds_common.packed import rounded
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.filtering import filtered
from fedrounds_sites.histogram import standardised
from fedrounds_sites.targets import target_onto

VERSION = 2  # of the arithmetic below: part of a cache key, so that a change voids what was prepared before
LIMIT_VOXELS = 2**29  # of a prepared grid: 2 GiB a channel
CONTENT = 0.05  # share of a channel's range by which content differs from the corner


def prepare(case: Case, form: CaseForm) -> Case:
    """Bring a case to the form the network sees.

    A 3D case is turned to `form.orientation` and resampled to `form.spacing_mm`: the image linearly,
    blurred first where voxels grow; labels to the label of most weight. In a 2D study the reader has
    laid out rows and columns, so nothing is turned, and `spacing_mm` is that of rows and columns. Before, it is
    cropped, where the study says so; after, filtered.
    Then each channel's intensities are normalised over the whole case (all slices of a patient), and rounded where
    that loses nothing that matters (`packed.rounded`): what is kept, trained on and predicted from are the same bits.

    Returns:
        Image (C, *grid) float32 and labels (*grid) uint8, C-contiguous; the affine of the new grid.

    Raises:
        CaseError: FR-D17 channels or axes are not the study's; FR-D19 the grid would be absurdly
            large; FR-D14 intensities are not finite.
    """
    _check(case, form)
    grid, affine = prepared_grid(case, form)
    image = np.empty((len(form.channels), *grid), np.float32)
    for index, channel in enumerate(case.image):
        scaled = _scale_of(_brought(channel, case.affine, grid, affine, form), form, form.channels[index])
        image[index] = rounded(scaled)
        if not math.isfinite(float(image[index].sum(dtype=np.float64))):
            raise CaseError(
                "FR-D14",
                f"channel {form.channels[index]} holds values that are not finite",
                case=case.ref.name,
                wanted="finite intensities",
                do="export the image again",
            )
    return case.with_image(image, target_onto(case.target, case.affine, grid, affine), affine)


def refuse_blank(case: Case, form: CaseForm) -> Case:
    """The case, if there is an image in each of its channels.

    Raises:
        CaseError: FR-D29 a channel holds one value everywhere: the scan was not exported, and a network
            would be taught that nothing means something.
    """
    for name, channel in zip(form.channels, case.image, strict=False):
        if channel.size and bool((channel == channel.flat[0]).all()):
            raise CaseError(
                "FR-D29",
                f"channel {name} is blank: {float(channel.flat[0]):g} everywhere",
                case=case.ref.name,
                wanted="an image",
                do="export the scan again, or take the case out",
            )
    return case


def prepared_grid(case: Case, form: CaseForm) -> tuple[tuple[int, ...], F64]:
    """Numbers of voxels and affine that `prepare` would give; reads no voxel, unless the study crops.

    Raises:
        CaseError: FR-D19 more than `LIMIT_VOXELS`.
    """
    grid, affine = _cropped(case, form) if form.crop == "content" else (case.grid, case.affine)
    if form.dims == 3 and form.orientation is not None:
        grid, affine = turned(grid, affine, form.orientation)
    if form.spacing_mm is not None:
        # between the slices of a 2D stack nothing is resampled
        spacing = (None,) * (len(grid) - form.dims) + form.spacing_mm
        grid, affine = respaced(grid, affine, spacing)
    elif form.size is not None:
        lead = len(grid) - form.dims
        found = spacing_of(affine, len(grid))
        wanted = [found[axis] * grid[axis] / size for axis, size in enumerate(form.size, lead)]
        grid, affine = respaced(grid, affine, (*(None,) * lead, *wanted))
    if math.prod(grid) > LIMIT_VOXELS:
        raise CaseError(
            "FR-D19",
            f"{case.grid} voxels of {_mm(case.spacing_mm)} would become {grid} voxels",
            case=case.ref.name,
            wanted=f"at most {LIMIT_VOXELS:,} voxels",
            do="check the spacing in the file's header, or choose a coarser spacing_mm",
        )
    return grid, affine


@overload
def restore(array: U8, prepared: Case, original: Case) -> U8: ...
@overload
def restore(array: F32, prepared: Case, original: Case) -> F32: ...
def restore(array: U8 | F32, prepared: Case, original: Case) -> U8 | F32:
    """Bring a prediction back onto the grid its case was read from.

    Args:
        array: uint8 labels (*prepared grid), or float32 probabilities (K, *prepared grid).
        prepared: what `prepare` made of `original`; its grid and affine are read, not its voxels.

    Returns:
        Labels (*original grid) uint8, or probabilities (K, *original grid) float32.

    Raises:
        DataError: FR-D27 the one is not made from the other.
    """
    if array.shape[array.ndim - len(prepared.grid) :] != prepared.grid:
        raise DataError(
            "FR-D27",
            f"a prediction of shape {array.shape}",
            wanted=f"the prepared grid {prepared.grid}",
            do="restore a prediction onto the case it was made from",
        )
    # where the prepared grid was cropped nothing was predicted, and the nearest voxel's value means nothing
    cut = beyond(prepared.grid, prepared.affine, original.grid, original.affine)
    if array.dtype == np.uint8:
        labels: NDArray[np.uint8] = array.astype(np.uint8, copy=False)
        restored = labels_onto(labels, prepared.affine, original.grid, original.affine)
        restored[cut] = 0
        return restored
    brought = onto(array, prepared.affine, original.grid, original.affine, smooth=False)
    brought[..., cut] = 0
    return brought


def _check(case: Case, form: CaseForm) -> None:
    if len(case.image) != len(form.channels):
        raise CaseError(
            "FR-D17",
            f"{len(case.image)} channels",
            case=case.ref.name,
            wanted=f"{len(form.channels)} ({', '.join(form.channels)})",
            do="check the reader's channel names against [cases] channels",
        )
    axes = (3,) if form.dims == 3 else (2, 3)
    if len(case.grid) not in axes:
        raise CaseError(
            "FR-D17",
            f"a grid of {case.grid}",
            case=case.ref.name,
            wanted="three axes" if form.dims == 3 else "rows and columns, or slices of them",
            do=f"check [cases] dims = {form.dims} and the reader",
        )


def _cropped(case: Case, form: CaseForm) -> tuple[tuple[int, ...], F64]:
    """The box of what differs from the corner in some channel; of a stack all slices. Slight noise is no content."""
    content = np.zeros(case.grid, bool)
    for channel in case.image:
        low, high = np.percentile(channel, (0.5, 99.5))
        content |= np.abs(channel - channel.flat[0]) > CONTENT * max(float(high - low), 1e-12)
    lead = len(case.grid) - form.dims
    if not content.any():
        return case.grid, case.affine
    box = bounding_box(content)
    box = (*(slice(0, size) for size in case.grid[:lead]), *box[lead:])
    shift = np.eye(4)
    shift[: len(box), 3] = [span.start for span in box]
    return tuple(span.stop - span.start for span in box), case.affine @ shift


def _scale_of(channel: F32, form: CaseForm, name: str) -> F32:
    """One channel (*grid) filtered, and brought to the scale that the study says."""
    if name in form.window:
        low, high = form.window[name]
        return np.clip(_scaled(channel, low, high - low), 0, 1)
    if form.intensity == "histogram":
        return standardised(channel, form.landmarks[name])
    return _normalised(channel, form.intensity)


def _brought(channel: F32, affine: F64, grid: tuple[int, ...], target: F64, form: CaseForm) -> F32:
    moved = _moved(channel, affine, grid, target, form)
    if not form.filters:
        return moved
    inside = moved != 0 if form.intensity == "zscore-nonzero" else None
    return filtered(moved, spacing_of(target, len(grid)), form.filters, inside)


def _moved(channel: F32, affine: F64, grid: tuple[int, ...], target: F64, form: CaseForm) -> F32:
    moved = onto(channel, affine, grid, target)
    if form.intensity != "zscore-nonzero":
        return moved
    inside = channel != 0
    if bool(inside.all()):
        return moved
    # else the blur smears the brain's rim over the empty background, and the smear counts as brain
    cover = onto(inside, affine, grid, target)
    return np.divide(moved, cover, out=np.zeros_like(moved), where=cover >= 0.5)


def _normalised(channel: F32, intensity: str) -> F32:
    """One channel's intensities, as the study names them; a constant channel becomes zeros."""
    if intensity == "none":
        return channel
    if intensity == "percentile":
        low, high = (float(value) for value in np.percentile(channel, (0.5, 99.5)))
        if high <= low:  # nearly all background: the tails are all there is
            low, high = float(channel.min()), float(channel.max())
        return np.clip(_scaled(channel, low, high - low), 0, 1)
    if intensity == "unit":
        low = min(0.0, float(channel.min()))
        return _scaled(channel, low, float(channel.max()) - low)
    inside = channel != 0 if intensity == "zscore-nonzero" else np.ones_like(channel, bool)
    values = channel[inside]
    if not len(values):
        return np.zeros_like(channel)
    mean = float(values.mean(dtype=np.float64))
    spread = float(values.std(dtype=np.float64))
    if spread <= 1e-6 * abs(mean):  # constant: what is left is rounding, not contrast
        return np.zeros_like(channel)
    return np.where(inside, _scaled(channel, mean, spread), np.float32(0))


def _scaled(channel: F32, zero: float, one: float) -> F32:
    if not one > 0:
        return np.zeros_like(channel)
    return ((channel - np.float32(zero)) / np.float32(one)).astype(np.float32, copy=False)


def _mm(spacing: tuple[float, ...]) -> str:
    return " × ".join(f"{size:g}" for size in spacing) + " mm"
