"""One image file of whatever kind, as the channels of a case: a picture, a volume of NIfTI, a DICOM still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

import numpy as np

from fedrounds_common.case import F32, F64, Case, CaseRef
from fedrounds_common.errors import CaseError
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites import pictures
from fedrounds_sites.nifti import LIMIT_VOXELS, apart_mm, read_volume
from fedrounds_sites.pictures import Pixels, as_wanted, read_pixels
from fedrounds_sites.targets import STACKS, stack_of_slices

PICTURES = (*pictures.SUFFIXES, ".gif")  # a GIF is named to be refused: passed over, nobody would miss it
VOLUMES = (".nii", ".nii.gz")
DICOM = (".dcm", ".ima")
KINDS = (*PICTURES, *VOLUMES, *DICOM)
TOLERANCE_MM = 0.1


@final
@dataclass(frozen=True)
class Reading:
    """How files are taken; see the fields of the readers that use it."""

    grey_from_rgb: Literal["refuse", "luminance"] = "refuse"
    spacing_mm: tuple[float, ...] = ()
    follow_links: bool = False


def is_image(name: str) -> bool:
    return name.lower().endswith(KINDS)


def read_image(file: Path, ref: CaseRef, form: CaseForm, how: Reading) -> Case:
    """All channels from one file; the case has no target.

    A study of dims = 2 gets a picture (C, H, W), or the axial slices of a volume (C, S, H, W).

    Raises:
        CaseError: FR-D17 the file has other axes or channels than the study, and as `read_pixels`, `read_volume`
            and the DICOM reader raise.
    """
    name = file.name.lower()
    if name.endswith(VOLUMES):
        return _volume(file, ref, form, how)
    if name.endswith(PICTURES):
        return picture(read_pixels(file, ref.name, follow_links=how.follow_links), ref, form, how, str(file))
    return _still(file, ref, form, how)


def read_channels(files: Sequence[Path], ref: CaseRef, form: CaseForm, how: Reading) -> Case:
    """One file a channel, in the study's order, all on one grid; or one file that holds them all.

    Raises:
        CaseError: as `read_image`; FR-D08, FR-D09 the channels' grids differ.
    """
    if len(files) == 1:
        return read_image(files[0], ref, form, how)
    each = [
        read_image(file, ref, replace(form, channels=(channel,)), how)
        for file, channel in zip(files, form.channels, strict=True)
    ]
    for file, one in zip(files, each, strict=True):
        if one.grid != each[0].grid:
            wanted = f"{each[0].grid} as {files[0].name}"
            raise CaseError("FR-D08", f"a grid of {one.grid}", case=ref.name, wanted=wanted, where=str(file))
        if len(one.grid) == 3 and apart_mm(one.grid, one.affine, each[0].affine) > TOLERANCE_MM:
            do = "resample it onto the first channel's grid"
            raise CaseError("FR-D09", f"lies apart from {files[0].name}", case=ref.name, do=do, where=str(file))
    return each[0].with_image(np.concatenate([one.image for one in each]))


def picture(pixels: Pixels, ref: CaseRef, form: CaseForm, how: Reading, where: str) -> Case:
    """(C, H, W) of pixels (H, W, 1 or 3) as they were decoded."""
    if form.dims != 2:
        raise _axes("a picture", "dims = 2 in [cases]", ref, where)
    wanted = as_wanted(pixels, form, ref.name, where, how.grey_from_rgb)
    image = np.ascontiguousarray(np.moveaxis(wanted, -1, 0).astype(np.float32))
    return Case(ref, image, None, flat_affine(how.spacing_mm))


def flat_affine(spacing_mm: tuple[float, ...]) -> F64:
    """Of a picture that does not say where it lies: the identity's directions."""
    return np.diag([*(spacing_mm or (1.0, 1.0))[:2], 1.0, 1.0])


def _volume(file: Path, ref: CaseRef, form: CaseForm, how: Reading) -> Case:
    volume = read_volume(file, case=ref.name, limit_voxels=LIMIT_VOXELS, follow_links=how.follow_links)
    voxels = volume.voxels[..., None] if volume.voxels.ndim == 3 else volume.voxels
    if voxels.ndim != 4 or voxels.shape[3] != len(form.channels):
        found = f"a volume of shape {volume.voxels.shape}"
        raise _axes(found, f"three axes, and {len(form.channels)} channels on a fourth", ref, str(file))
    image: F32 = np.ascontiguousarray(np.moveaxis(voxels, -1, 0))
    case = Case(ref, image, None, volume.affine)
    return case if form.dims == 3 else stack_of_slices(case, STACKS["axial"])


def _still(file: Path, ref: CaseRef, form: CaseForm, how: Reading) -> Case:
    # pydicom takes a third of a second to import, and most studies have none
    from fedrounds_sites.dicom.grid import plane_affine
    from fedrounds_sites.dicom.headers import damaged, read_header
    from fedrounds_sites.dicom.volume import Gridding, read_flat

    if form.dims != 2:
        raise _axes("a single DICOM file", "dims = 2 in [cases], or the reader dicom_series", ref, str(file))
    header = read_header(file, ref.name, follow_links=how.follow_links)
    if header is None:
        raise damaged(file, ref.name, "is no DICOM image")
    if header.samples != len(form.channels):
        found = "grey" if header.samples == 1 else "in colour"
        wanted = f"{len(form.channels)} channels ({', '.join(form.channels)})"
        raise CaseError("FR-D32", found, case=ref.name, wanted=wanted, where=str(file))
    image = read_flat([header], len(form.channels), ref.name, Gridding(False, TOLERANCE_MM, True, how.follow_links))
    return Case(ref, image, None, plane_affine(header))


def _axes(found: str, wanted: str, ref: CaseRef, where: str) -> CaseError:
    do = "change [cases], or take the file away"
    return CaseError("FR-D17", found, case=ref.name, wanted=wanted, do=do, where=where)
