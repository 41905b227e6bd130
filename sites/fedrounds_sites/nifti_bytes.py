"""The bytes of a NIfTI file: its header checked field by field, its voxels read no further than it says.

nibabel reads the header's fields; the bytes are read here, because a header may promise, and a
compressed file may hold, far more than there is memory.
"""

from __future__ import annotations

import gzip
import logging
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
from nibabel import nifti1, nifti2
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from fedrounds_common.case import F32, F64
from fedrounds_common.errors import CaseError

_LIMIT_OFFSET = 2**26  # header extensions of up to 64 MiB
_LIMIT_TAIL = 2**16  # bytes after the voxels that pass as padding
_GZIP_RATIO = 1032  # deflate cannot do better
_CHUNK = 2**22
_HEADER: Any = {1: nifti1.Nifti1Header, 2: nifti2.Nifti2Header}  # nibabel annotates these only in part
_quiet = logging.getLogger("fedrounds.nifti")  # nibabel's own logger writes to the terminal
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


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


@final
class Source:
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


def geometry_of(source: Source, limit_voxels: int) -> Geometry:
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


def _header(source: Source) -> Any:
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


def _shape(source: Source, header: Any) -> tuple[int, ...]:
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


def _affine(source: Source, header: Any) -> F64:
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


def voxels_of(source: Source, geometry: Geometry) -> NDArray[Any]:
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


def _layout(source: Source, header: Any) -> tuple[np.dtype[Any], int]:
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


def scaled(source: Source, raw: NDArray[Any], header: Any) -> F32:
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
