"""From the planes of a case to its channels on one grid, and its mask onto them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from fedrounds_common.case import F32, F64, U8, orientation_of
from fedrounds_common.errors import CaseError
from fedrounds_common.geometry import labels_onto, turned
from fedrounds_sites.dicom.grid import COVERED, covered, plane_affine, resampled, stack
from fedrounds_sites.dicom.headers import Header
from fedrounds_sites.dicom.pixels import read_plane, refuse_kind
from fedrounds_sites.masks import map_labels, whole
from fedrounds_sites.nifti import apart_mm, read_volume
from fedrounds_sites.pictures import luminance

Match = Literal["either", "folder", "description"]


@final
@dataclass(frozen=True)
class Series:
    """`name`: its folder and description, for messages on this machine."""

    name: str
    folder: str
    description: str
    planes: tuple[Header, ...]

    def fits(self, expression: str, match: Match) -> bool:
        texts = {"folder": (self.folder,), "description": (self.description,)}.get(
            match, (self.folder, self.description)
        )
        return any(re.search(expression, text, re.IGNORECASE) for text in texts)


@final
@dataclass(frozen=True)
class Gridding:
    """When two grids are one, and what to do when they are not; see the fields of `DicomSeries`."""

    resample: bool
    tolerance_mm: float
    same_frame: bool
    follow_links: bool


@final
@dataclass(frozen=True)
class Volume:
    """image (C, columns, rows, planes); affine of (columns, rows, planes) to RAS mm."""

    image: F32
    affine: F64


def into_series(headers: Sequence[Header], root: Path) -> tuple[Series, ...]:
    """Planes by SeriesInstanceUID, or by folder where they have none."""
    grouped: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        grouped[header.series or f"folder {header.file.parent}"].append(header)
    result = []
    for planes in grouped.values():
        folder = planes[0].file.parent.relative_to(root).as_posix()
        description = planes[0].description
        result.append(Series(f"{folder} ({description or 'no description'})", folder, description, tuple(planes)))
    return tuple(sorted(result, key=lambda series: series.name))


def choose(
    series: Sequence[Series], expressions: Mapping[str, str], channels: Sequence[str], match: Match, case: str
) -> tuple[Series, ...]:
    """One series a channel, in order; without expressions the only series there is, for whatever it shows.

    Raises:
        CaseError: FR-D52 none or several fit a channel, or one fits two.
    """
    if not expressions:
        if len(series) != 1:
            raise _unclear(f"{len(series)} series", "one, or `channels` that tells them apart", series, case)
        return tuple(series)
    chosen: dict[str, str] = {}
    result = []
    for channel in channels:
        fitting = [entry for entry in series if entry.fits(expressions[channel], match)]
        if len(fitting) != 1:
            found = f"{len(fitting)} series fit channel {channel}, {expressions[channel]!r}"
            raise _unclear(found, "one", fitting or series, case)
        if fitting[0].name in chosen:
            found = f"one series fits both {chosen[fitting[0].name]} and {channel}"
            raise _unclear(found, "a series for each", fitting, case)
        chosen[fitting[0].name] = channel
        result.append(fitting[0])
    return tuple(result)


def read_flat(planes: Sequence[Header], channels: int, case: str, grids: Gridding) -> F32:
    """Single planes, one a channel or one in colour, as (C, rows, columns)."""
    for plane in planes:
        refuse_kind(plane, case)
        if (plane.rows, plane.columns) != (planes[0].rows, planes[0].columns):
            found = f"{plane.columns} x {plane.rows} pixels"
            wanted = f"{planes[0].columns} x {planes[0].rows} as {planes[0].file.name}"
            do = "export the channels in one size"
            raise CaseError("FR-D08", found, case=case, wanted=wanted, do=do, where=str(plane.file))
        apart = apart_mm((plane.rows, plane.columns, 1), plane_affine(plane), plane_affine(planes[0]))
        if apart > grids.tolerance_mm:
            found, wanted = f"lies {apart:.3g} mm beside {planes[0].file.name}", f"at most {grids.tolerance_mm:g} mm"
            raise CaseError("FR-D56", found, case=case, wanted=wanted, do="register them", where=str(plane.file))
    each = channels // len(planes)
    return np.concatenate([_samples([plane], each, case, grids)[:, 0] for plane in planes])


def read_stacks(chosen: Sequence[Series], channels: int, case: str, grids: Gridding) -> Volume:
    """Each series a volume, all on the first one's grid.

    Raises:
        CaseError: FR-D56 the grids differ and `resample` is off, or do not cover each other; as `grid.stack`.
    """
    for plane in (plane for series in chosen for plane in series.planes):
        refuse_kind(plane, case)
    stacks = [stack(series.planes, series.name, case) for series in chosen]
    first = stacks[0]
    frames = {stacked.planes[0].frame for stacked in stacks} - {""}
    if len(frames) > 1 and grids.same_frame:
        wanted = "one, in which positions can be compared"
        do = "register the series, or set same_frame = false if they are"
        raise CaseError("FR-D56", f"channels in {len(frames)} frames of reference", case=case, wanted=wanted, do=do)
    volumes = []
    for series, stacked in zip(chosen, stacks, strict=True):
        image = _samples(stacked.planes, channels // len(stacks), case, grids).transpose(0, 3, 2, 1)
        apart = apart_mm(first.grid, stacked.affine, first.affine) if stacked.grid == first.grid else float("inf")
        if apart > grids.tolerance_mm:
            _refuse_apart(series, stacked.grid, apart, first.grid, case, grids)
            if covered(first.grid, first.affine, stacked.grid, stacked.affine) < COVERED:
                found = f"{series.name} covers less than half of the first channel"
                raise CaseError("FR-D56", found, case=case, wanted="the same part of the body", do="check the series")
            image = np.stack([resampled(part, stacked.affine, first.grid, first.affine) for part in image])
        volumes.append(image)
    return Volume(np.ascontiguousarray(np.concatenate(volumes)), first.affine)


def read_mask(file: Path, volume: Volume, values: Mapping[int, int], case: str, grids: Gridding) -> U8:
    """A NIfTI label map on the volume's grid; one whose axes are flipped or exchanged is turned exactly.

    Raises:
        CaseError: FR-D08, FR-D09 another grid and `resample` is off; FR-D10, FR-D11, FR-D17 its
            values or axes; as `nifti.read_volume`.
    """
    stored = read_volume(file, case=case, follow_links=grids.follow_links)
    if stored.voxels.ndim != 3:
        found = f"a mask with {stored.voxels.shape[3]} volumes"
        raise CaseError("FR-D17", found, case=case, wanted="one", do="merge them into one", where=str(file))
    labels = map_labels(whole(stored.voxels, case, str(file)), values, case, str(file))
    grid = volume.image.shape[1:]
    its_grid, its_affine = turned(labels.shape, stored.affine, orientation_of(volume.affine))
    apart = apart_mm(grid, its_affine, volume.affine) if its_grid == grid else float("inf")
    if apart <= grids.tolerance_mm:
        return labels_onto(labels, stored.affine, its_grid, its_affine)
    if grids.resample:
        return resampled(labels.astype(np.float32), stored.affine, grid, volume.affine, order=0).astype(np.uint8)
    if its_grid != grid:
        code, found, wanted = "FR-D08", f"shape {its_grid}", f"{grid}, as the image"
    else:
        code, found, wanted = "FR-D09", f"lies {apart:.3g} mm beside the image", f"at most {grids.tolerance_mm:g} mm"
    do = "draw it on the first channel, or set resample = true"
    raise CaseError(code, found, case=case, wanted=wanted, do=do, where=str(file))


def _samples(planes: Sequence[Header], channels: int, case: str, grids: Gridding) -> F32:
    """(C, planes, rows, columns) of one series: grey as one channel, colour as three or as brightness."""
    values = np.stack([read_plane(plane, case, follow_links=grids.follow_links) for plane in planes])
    if values.ndim == 3 and channels == 1:
        return values[None]
    if values.ndim == 4:
        return np.moveaxis(values if channels == 3 else luminance(values), -1, 0)
    raise CaseError(
        "FR-D32",
        "grey planes",
        case=case,
        wanted=f"{channels} channels from one series",
        do="name a series for each channel in `channels`, or change [cases] channels",
        where=str(planes[0].file),
    )


def _refuse_apart(
    series: Series, grid: tuple[int, ...], apart: float, first: tuple[int, ...], case: str, grids: Gridding
) -> None:
    if grids.resample:
        return
    found = f"{grid} voxels" if grid != first else f"up to {apart:.3g} mm"
    raise CaseError(
        "FR-D56",
        f"{series.name} lies on another grid than the first channel ({found})",
        case=case,
        wanted=f"{first} voxels within {grids.tolerance_mm:g} mm (tolerance_mm)",
        do="set resample = true if the patient did not move between them",
    )


def _unclear(found: str, wanted: str, series: Sequence[Series], case: str) -> CaseError:
    names = ", ".join(entry.name for entry in series[:6]) + (" ..." if len(series) > 6 else "")
    do = "correct `channels` (expressions for a series' folder or description)"
    return CaseError("FR-D52", f"{found}: {names or 'no series at all'}", case=case, wanted=wanted, do=do)
