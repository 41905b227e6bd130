"""Read and write NIfTI files (.nii, .nii.gz; versions 1 and 2) within limits known before any voxel is read.

nibabel reads and writes the headers; the bytes are read here, because a header may promise, and a
compressed file may hold, far more than there is memory. Millimetres and RAS throughout; a file with
neither sform nor qform gets nibabel's reading of it (first axis to the left).
"""

from __future__ import annotations

import gzip
import logging
import math
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
from nibabel import nifti1, nifti2
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from fedrounds_common.case import F32, F64, U8
from fedrounds_common.disk import write_whole
from fedrounds_common.errors import CaseError
from fedrounds_sites.files import open_regular
from fedrounds_sites.geometry import labels_onto, onto

LIMIT_VOXELS = 2**28  # 512 x 512 x 1024: a long CT
_LIMIT_OFFSET = 2**26  # header extensions of up to 64 MiB
_LIMIT_TAIL = 2**16  # bytes after the voxels that pass as padding
_GZIP_RATIO = 1032  # deflate cannot do better
_CHUNK = 2**22
# nibabel annotates these only in part
_IMAGE: Any = {1: nifti1.Nifti1Image, 2: nifti2.Nifti2Image}
_HEADER: Any = {1: nifti1.Nifti1Header, 2: nifti2.Nifti2Header}
_quiet = logging.getLogger("fedrounds.nifti")  # nibabel's own logger writes to the terminal
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@final
@dataclass(frozen=True)
class Volume:
    """voxels (X, Y, Z) or (X, Y, Z, channels), float32, as scaled by the header; affine (4, 4) to RAS mm."""

    voxels: F32
    affine: F64


@final
@dataclass(frozen=True)
class Geometry:
    """What a header says: shape as in `Volume`, affine, and how the voxels lie in the file."""

    shape: tuple[int, ...]
    affine: F64
    header: Any

    @property
    def grid(self) -> tuple[int, ...]:
        return self.shape[:3]


def read_geometry(
    file: Path, *, case: str = "", limit_voxels: int = LIMIT_VOXELS, follow_links: bool = False
) -> Geometry:
    """Read the header only; raises as `read_volume`."""
    with open_regular(file, case=case, follow_links=follow_links) as stream:
        return _geometry(_Source(file, case, stream), limit_voxels)


def read_volume(file: Path, *, case: str = "", limit_voxels: int = LIMIT_VOXELS, follow_links: bool = False) -> Volume:
    """Read one file whole.

    Raises:
        CaseError: FR-D12 not NIfTI, truncated or damaged; FR-D13 not a plain file; FR-D14 NaN or
            infinite voxels; FR-D15 spacing or affine unusable; FR-D16 more voxels than the limit.
    """
    with open_regular(file, case=case, follow_links=follow_links) as stream:
        source = _Source(file, case, stream)
        geometry = _geometry(source, limit_voxels)
        raw = _voxels(source, geometry)
    voxels = _scaled(source, raw, geometry.header)
    bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if bad:
        raise source.error(
            "FR-D14", f"{bad} of {voxels.size} voxels are NaN or infinite", "finite voxels", "export the image again"
        )
    return Volume(voxels, geometry.affine)


def write_nifti(file: Path, array: U8 | F32, affine: F64) -> None:
    """Write labels (*grid) uint8, or probabilities (K, *grid) float32 with K as fourth axis; whole or not at all.

    Equal arrays give equal bytes. The folder is made if need be.
    """
    volume = np.moveaxis(array, 0, -1) if array.ndim == 4 else array
    image = _IMAGE[1](volume, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, code=0)  # a sheared affine has no quaternion: better none than a wrong one
    _write(file, image)


def write_like(source: Path, file: Path, array: U8 | F32, affine: F64, *, follow_links: bool = False) -> None:
    """Write a prediction on the grid of the file it was made from, with that file's sform and qform bit for bit.

    Args:
        source: the input image.
        array: labels (*grid) uint8, or probabilities (K, *grid) float32, on the grid of the read case.
        affine: of that grid; its axes may be permuted and flipped against the file's.

    Raises:
        DataError: FR-D27 array and file do not belong together.
    """
    like = read_geometry(source, follow_links=follow_links)
    if array.dtype == np.uint8:
        volume: NDArray[Any] = labels_onto(array.astype(np.uint8, copy=False), affine, like.grid, like.affine)
    else:
        moved = onto(array, affine, like.grid, like.affine, smooth=False)
        volume = np.moveaxis(moved, 0, -1) if moved.ndim == 4 else moved
    header = like.header.copy()
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        if field in header:
            header[field] = b""  # free text of the source may name a patient
    header["cal_max"] = header["cal_min"] = 0
    header.set_data_dtype(volume.dtype)
    header.set_slope_inter(1, 0)
    _write(file, _IMAGE[2 if isinstance(header, _HEADER[2]) else 1](volume, None, header))


def apart_mm(grid: Sequence[int], one: F64, other: F64) -> float:
    """The largest distance, in mm, between where two affines put the same corner of a grid."""
    corners = np.array(np.meshgrid(*((0, size - 1) for size in grid), indexing="ij"), np.float64).reshape(3, -1)
    return float(np.linalg.norm((one - other)[:3, :3] @ corners + (one - other)[:3, 3:], axis=0).max())


def _write(file: Path, image: Any) -> None:
    content = image.to_bytes()
    if file.name.endswith(".gz"):
        # labels shrink a hundredfold; probabilities hardly, whatever the effort
        effort = 6 if image.get_data_dtype() == np.uint8 else 1
        content = gzip.compress(content, compresslevel=effort, mtime=0)
    write_whole(file, content)


@final
class _Source:
    """An open file with what its errors need; `stream` gives the bytes uncompressed."""

    def __init__(self, file: Path, case: str, raw: BinaryIO) -> None:
        self.file, self.case = file, case
        self.size = os.fstat(raw.fileno()).st_size
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        self.stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        self.most = self.size * _GZIP_RATIO if packed else self.size  # bytes it can hold

    def error(self, code: str, found: str, wanted: str, do: str) -> CaseError:
        return CaseError(code, found, case=self.case, wanted=wanted, do=do, where=str(self.file))

    def damaged(self, found: str) -> CaseError:
        return self.error("FR-D12", found, "a whole .nii or .nii.gz file", "copy or export it again")

    def read(self, count: int) -> bytes:
        try:
            return bytes(self.stream.read(count))
        except (OSError, EOFError, zlib.error) as error:
            raise self.damaged(f"cannot be read ({error})") from None


def _geometry(source: _Source, limit_voxels: int) -> Geometry:
    header = _header(source)
    shape = _shape(source, header)
    if math.prod(shape) > limit_voxels:
        raise source.error(
            "FR-D16",
            f"the header says {' × '.join(map(str, shape))} = {math.prod(shape):,} voxels",
            f"at most {limit_voxels:,}",
            "check the header, or raise limit_voxels",
        )
    return Geometry(shape, _affine(source, header), header)


def _header(source: _Source) -> Any:
    start = source.read(4)
    found = next(((size, sign) for size in (348, 540) for sign in "<>" if start == struct.pack(f"{sign}i", size)), None)
    if found is None:
        raise source.damaged("is not NIfTI" if source.size else "is empty")
    size, sign = found
    block = start + source.read(size - 4)
    if len(block) < size:
        raise source.damaged(f"ends after {len(block)} bytes, within its header")
    header = _HEADER[1 if size == 348 else 2](block, endianness=sign, check=False)
    magic = bytes(header["magic"].item())[:3]
    if magic not in (b"n+1", b"n+2"):
        pair = magic in (b"ni1", b"ni2")
        raise source.damaged("is one half of a .hdr/.img pair" if pair else f"has the magic {magic!r}, not NIfTI's")
    return header


def _shape(source: _Source, header: Any) -> tuple[int, ...]:
    """Three axes, or four; a picture gets a third axis of 1, trailing axes of 1 go."""
    count = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1 : 1 + max(count, 0)]]
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise source.damaged(f"has the axes {sizes} (dim[0] = {count})")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    # vector images keep their components on the fifth axis and leave the fourth at 1
    if len(sizes) == 5 and sizes[3] == 1:
        del sizes[3]
    if len(sizes) > 4:
        raise source.error(
            "FR-D17", f"has {len(sizes)} axes, {sizes}", "three, or four with channels last", "split it into volumes"
        )
    return tuple(sizes + [1] * (3 - len(sizes)))


def _affine(source: _Source, header: Any) -> F64:
    def bad(found: str) -> CaseError:
        return source.error(
            "FR-D15", found, "voxel sizes above 0 and an affine that can be inverted", "export the image again"
        )

    count = min(int(header["dim"][0]), 3)
    spacing = [float(size) for size in header["pixdim"][1 : 1 + count]]
    if not all(math.isfinite(size) and size > 0 for size in spacing):
        raise bad(f"the header's voxel size is {spacing} mm")
    mended = header.copy()  # an old file's qfac of 0 means 1; the header itself is written back as it was
    mended.check_fix(logger=_quiet, error_level=100)
    try:
        affine = np.asarray(mended.get_best_affine(), np.float64)
    except (ValueError, HeaderDataError, np.linalg.LinAlgError) as error:
        raise bad(f"the header's orientation cannot be read ({error})") from None
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() <= 0:
        raise bad(f"the affine is {affine[:3].round(4).tolist()}")
    # volume of the unit voxel: 1 for right angles, 0 when axes fall together
    if abs(float(np.linalg.det(affine[:3, :3] / lengths))) < 1e-3:
        raise bad(f"the affine {affine[:3].round(4).tolist()} is singular")
    return affine


def _voxels(source: _Source, geometry: Geometry) -> NDArray[Any]:
    """The stored voxels, in the file's own type and shape (Fortran order)."""
    dtype, offset = _layout(source, geometry.header)
    need = math.prod(geometry.shape) * dtype.itemsize
    if offset + need > source.most:
        raise source.damaged(f"holds {source.size:,} bytes, too few for the {need:,} its header describes")
    buffer = np.empty(need, np.uint8)
    try:
        source.stream.seek(offset)
    except (OSError, EOFError, zlib.error) as error:
        raise source.damaged(f"cannot be read ({error})") from None
    have = 0
    while have < need:
        part = source.read(min(_CHUNK, need - have))
        if not part:
            raise source.damaged(f"ends after {have:,} of {need:,} bytes of voxels")
        buffer[have : have + len(part)] = np.frombuffer(part, np.uint8)
        have += len(part)
    # reading to the end also checks gzip's own sum over everything
    if len(source.read(_LIMIT_TAIL + 1)) > _LIMIT_TAIL:
        raise source.damaged(f"goes on after the {need:,} bytes of voxels its header describes")
    return np.ndarray(geometry.shape, dtype, buffer.data, order="F")


def _layout(source: _Source, header: Any) -> tuple[np.dtype[Any], int]:
    try:
        dtype = np.dtype(header.get_data_dtype())
        offset = int(header["vox_offset"]) or int(header["sizeof_hdr"]) + 4  # some writers leave it at 0
    except (HeaderDataError, ValueError, OverflowError, KeyError) as error:
        raise source.damaged(f"has an unreadable header ({error})") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise source.error(
            "FR-D12", f"has voxels of type {dtype}", "integers or real numbers", "export it as integers or float32"
        )
    if not int(header["sizeof_hdr"]) <= offset <= _LIMIT_OFFSET:
        raise source.damaged(f"puts its voxels at byte {offset}")
    return dtype, offset


def _scaled(source: _Source, raw: NDArray[Any], header: Any) -> F32:
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise source.damaged(f"has an unusable scale ({error})") from None
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is infinite, and refused as such
        if slope is None or (slope, inter) == (1.0, 0.0):
            return raw.astype(np.float32)
        if raw.dtype.itemsize <= 2:  # float32 holds every such number: no need of twice the memory
            return raw.astype(np.float32) * np.float32(slope) + np.float32(inter)
        wide: F32 = (raw.astype(np.float64) * slope + inter).astype(np.float32)
        return wide
