"""Read and write NIfTI files (.nii, .nii.gz; versions 1 and 2) within limits known before any voxel is read.

Millimetres and RAS throughout; a file with neither sform nor qform gets nibabel's reading of it
(first axis to the left).
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from nibabel import nifti1, nifti2
from numpy.typing import NDArray

from fedrounds_common.case import F32, F64, U8
from fedrounds_common.disk import write_whole
from fedrounds_common.errors import DataError
from fedrounds_common.geometry import corners, labels_onto, onto
from fedrounds_sites.files import open_regular
from fedrounds_sites.nifti_bytes import Geometry, Source, geometry_of, scaled, voxels_of

LIMIT_VOXELS = 2**28  # 512 x 512 x 1024: a long CT
# RAS as the standard says; ITK turns these to its own LPS as it reads them, and takes plain "vector" (1007) for LPS
DISPLACEMENTS = "displacement vector"
_IMAGE: Any = {1: nifti1.Nifti1Image, 2: nifti2.Nifti2Image}  # nibabel annotates these only in part


@final
@dataclass(frozen=True)
class Volume:
    """voxels (X, Y, Z) or (X, Y, Z, channels), float32, as scaled by the header; affine (4, 4) to RAS mm."""

    voxels: F32
    affine: F64


def read_geometry(
    file: Path, *, case: str = "", limit_voxels: int = LIMIT_VOXELS, follow_links: bool = False
) -> Geometry:
    """Read the header only; raises as `read_volume`."""
    with open_regular(file, case=case, follow_links=follow_links) as stream:
        return geometry_of(Source(file, case, stream), limit_voxels)


def read_volume(file: Path, *, case: str = "", limit_voxels: int = LIMIT_VOXELS, follow_links: bool = False) -> Volume:
    """Read one file whole.

    Raises:
        CaseError: FR-D12 not NIfTI, truncated or damaged; FR-D13 not a plain file; FR-D14 NaN or
            infinite voxels; FR-D15 spacing or affine unusable; FR-D16 more voxels than the limit.
    """
    with open_regular(file, case=case, follow_links=follow_links) as stream:
        source = Source(file, case, stream)
        geometry = geometry_of(source, limit_voxels)
        raw = voxels_of(source, geometry)
    voxels = scaled(source, raw, geometry.header)
    bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if bad:
        raise source.error(
            "FR-D14", f"{bad} of {voxels.size} voxels are NaN or infinite", "finite voxels", "export the image again"
        )
    return Volume(voxels, geometry.affine)


def write_nifti(file: Path, array: U8 | F32, affine: F64, *, vectors: bool = False, says: str = "") -> None:
    """Write labels (*grid) uint8, or probabilities (K, *grid) float32 with K as fourth axis; whole or not at all.

    Equal arrays give equal bytes. The folder is made if need be.

    Args:
        vectors: the array is (A, *grid), displacements in mm along the world's axes.
        says: stands in the header's description, at most 79 letters, e.g. that nobody was scanned.
    """
    volume = _as_vectors(array) if vectors else np.moveaxis(array, 0, -1) if array.ndim == 4 else array
    image = _IMAGE[1](volume, affine)
    if vectors:
        image.header.set_intent(DISPLACEMENTS)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = says.encode("ascii", "replace")[:79]
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, code=0)  # a sheared affine has no quaternion: better none than a wrong one
    _write(file, image)


def _as_vectors(field: NDArray[Any]) -> NDArray[Any]:
    """(A, X, Y, Z) → (X, Y, Z, 1, A), as NIfTI wants vectors: the fourth axis is time; of a picture (H, W, 1, 1, A)."""
    voxels = np.moveaxis(field, 0, -1)
    return voxels.reshape(*field.shape[1:], *(1,) * (4 - (field.ndim - 1)), len(field))


def write_like(
    source: Path, file: Path, array: U8 | F32, affine: F64, *, follow_links: bool = False, vectors: bool = False
) -> None:
    """Write a prediction on the grid of the file it was made from, with that file's sform and qform bit for bit.

    Args:
        source: the input image.
        array: labels (*grid) uint8, or probabilities (K, *grid) float32, on the grid of the read case.
        affine: of that grid; its axes may be permuted and flipped against the file's.
        vectors: the array is (3, *grid), displacements in mm along the world's axes, whatever the file's axes are.

    Raises:
        DataError: FR-D27 array and file do not belong together.
    """
    like = read_geometry(source, follow_links=follow_links)
    _check_same_box(source, like, array.shape[-3:], affine)
    if array.dtype == np.uint8:
        volume: NDArray[Any] = labels_onto(array.astype(np.uint8, copy=False), affine, like.grid, like.affine)
    else:
        moved = onto(array, affine, like.grid, like.affine, smooth=False)
        volume = _as_vectors(moved) if vectors else np.moveaxis(moved, 0, -1) if moved.ndim == 4 else moved
    header = like.header.copy()
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        if field in header:
            header[field] = b""  # free text of the source may name a patient
    header["cal_max"] = header["cal_min"] = 0
    header.set_data_dtype(volume.dtype)
    header.set_slope_inter(1, 0)
    if vectors:
        header.set_intent(DISPLACEMENTS)
    _write(file, _IMAGE[2 if isinstance(header, nifti2.Nifti2Header) else 1](volume, None, header))


def apart_mm(grid: Sequence[int], one: F64, other: F64) -> float:
    """The largest distance, in mm, between where two affines put the same corner of a grid."""
    return float(np.linalg.norm(((one - other) @ corners(grid))[:3], axis=0).max())


def _check_same_box(source: Path, like: Geometry, grid: Sequence[int], affine: F64) -> None:
    """The array's corner voxels must be the file's, in whatever order of axes."""
    there = (np.linalg.inv(affine) @ like.affine @ corners(like.grid))[:3]
    if np.abs(there.min(axis=1)).max() > 0.01 or np.abs(there.max(axis=1) - (np.array(grid) - 1)).max() > 0.01:
        raise DataError(
            "FR-D27",
            f"an array of {tuple(grid)} voxels does not cover the file's {like.grid}, voxel for voxel",
            wanted="a prediction on the grid of the case that was read from this file",
            do="restore it first",
            where=str(source),
        )


def _write(file: Path, image: Any) -> None:
    content = image.to_bytes()
    if file.name.endswith(".gz"):
        # labels shrink a hundredfold; probabilities hardly, whatever the effort
        effort = 6 if image.get_data_dtype() == np.uint8 else 1
        content = gzip.compress(content, compresslevel=effort, mtime=0)
    write_whole(file, content)
