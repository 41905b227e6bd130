"""The few elements of a DICOM file that say where its pixels lie; nothing else enters memory.

`specific_tags` makes pydicom pass over every other element unread, so no name, date or comment of a
patient is in this process to be logged, cached or sent by mistake.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, TypeVar, final

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from fedrounds_common.case import F64
from fedrounds_common.errors import CaseError
from fedrounds_sites.files import open_regular

T = TypeVar("T")

LIMIT_BYTES = 2**30  # of one file, deflated ones unpacked: the longest plane below is a quarter of it
LIMIT_PIXELS = 2**27  # of one plane: 11,585 x 11,585
_META = 2**16  # bytes in which the file meta group lies
_SYNTAX = b"\x02\x00\x10\x00UI"  # (0002,0010), always little endian
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_PLACE = (
    "SOPClassUID",
    "ImageType",
    "SeriesInstanceUID",
    "SeriesDescription",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
)
# seen from pydicom on damaged files; a test flips and cuts bytes to keep the list whole
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
    BytesLengthException,
    InvalidDicomError,
)
# pydicom tells the terminal of every odd value; what matters of it is raised here instead
logging.getLogger("pydicom").addHandler(logging.NullHandler())
logging.getLogger("pydicom").propagate = False


@final
@dataclass(frozen=True)
class Place:
    """Where a plane lies, in DICOM's own axes: millimetres to the patient's left, back and head.

    position: centre of the first pixel; right: along a row; down: along a column, both of length 1.
    """

    position: F64
    right: F64
    down: F64

    @property
    def normal(self) -> F64:
        return np.cross(self.right, self.down)


@final
@dataclass(frozen=True)
class Header:
    """One plane.

    mosaic: Siemens' way to lay all planes of a volume into one picture.
    spacing_mm: between rows, between columns; None where no element tells it, as for `place`.
    """

    file: Path
    series: str
    description: str
    frame: str
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    mosaic: bool
    spacing_mm: tuple[float, float] | None
    place: Place | None


def read_header(file: Path, case: str, *, follow_links: bool = False) -> Header | None:
    """Where one plane lies; None for a file that is no DICOM, or is DICOM without an image.

    Raises:
        CaseError: FR-D12, FR-D13 it cannot be opened; FR-D50 damaged; FR-D15 its geometry is absurd.
    """
    dataset = read_elements(file, case, _PLACE, follow_links=follow_links)
    if dataset is None or not has_image(dataset, file, case):
        return None
    return guarded(lambda: _header(dataset, file, case), file, case)


def read_elements(
    file: Path, case: str, elements: tuple[str, ...], *, pixels: bool = False, follow_links: bool = False
) -> Dataset | None:
    """These elements of a DICOM file, by keyword; None if it is not DICOM.

    Raises:
        CaseError: as `read_header`.
    """
    with open_regular(file, case=case, follow_links=follow_links) as stream:
        start = stream.read(_META)
        if start[128:132] != b"DICM":
            if is_called_dicom(file, len(start)):
                raise damaged(file, case, "is empty" if not start else "does not begin as DICOM does")
            return None
        _refuse_huge(stream, start, file, case)
        stream.seek(0)
        return guarded(lambda: _parsed(stream, elements, pixels), file, case)


def has_image(dataset: Dataset, file: Path, case: str) -> bool:
    """Whether the file is of a kind that holds an image.

    Raises:
        CaseError: FR-D50 it should, and ends before the image is described.
    """
    kind = guarded(lambda: _kind(dataset), file, case)
    if kind and "Image Storage" not in kind:
        return False
    if "Rows" not in dataset or "Columns" not in dataset:
        raise damaged(file, case, "ends within its header")
    return True


def guarded(read: Callable[[], T], file: Path, case: str) -> T:
    """What `read` returns; whatever pydicom raises on a damaged file becomes one error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except CaseError:
        raise
    except DAMAGED as error:
        raise damaged(file, case, f"cannot be read ({type(error).__name__})") from error


def damaged(file: Path, case: str, found: str) -> CaseError:
    return CaseError(
        "FR-D50", found, case=case, wanted="a whole DICOM file", do="copy or export it again", where=str(file)
    )


def is_called_dicom(file: PurePath, size: int) -> bool:
    """Whether a file that is no DICOM claims by its name, or could by its lack of one, to be a plane.

    Passing over such a file would leave a hole in its series.
    """
    suffix = file.suffix.lower()
    return suffix in DICOM_SUFFIXES or (size == 0 and (not suffix or suffix[1:].isdecimal()))


def _parsed(stream: BinaryIO, elements: tuple[str, ...], pixels: bool) -> Dataset:
    tags: list[Any] = list(elements)
    return pydicom.dcmread(stream, specific_tags=tags, stop_before_pixels=not pixels)


def _refuse_huge(stream: BinaryIO, start: bytes, file: Path, case: str) -> None:
    """Before pydicom reads it: it takes a pixel element, and a deflated file, whole."""
    size = stream.seek(0, 2)
    at = start.find(_SYNTAX)
    if at >= 0:
        length = int.from_bytes(start[at + 6 : at + 8], "little")
        syntax = start[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")
        if syntax == DeflatedExplicitVRLittleEndian:
            stream.seek(0)
            size = guarded(lambda: _unpacked(stream), file, case)
    if size > LIMIT_BYTES:
        raise CaseError(
            "FR-D16",
            f"holds more than {LIMIT_BYTES:,} bytes",
            case=case,
            wanted="one plane",
            do="check where the file comes from; split it into planes",
            where=str(file),
        )


def _unpacked(stream: BinaryIO) -> int:
    """How many bytes a deflated file unpacks to, counted to a little above the limit and kept nowhere."""
    start = stream.read(144)
    if len(start) < 144:
        raise EOFError
    stream.seek(144 + int.from_bytes(start[140:144], "little"))
    unpacker, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while total <= LIMIT_BYTES and (part := unpacker.unconsumed_tail or stream.read(2**16)):
        total += len(unpacker.decompress(part, 2**22))
    return total


def _kind(dataset: Dataset) -> str:
    """The name of the file's SOP class; "" if it tells none that is known."""
    uid = UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""))
    return "" if uid.name == str(uid) else uid.name


def _header(dataset: Dataset, file: Path, case: str) -> Header:
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < rows * columns <= LIMIT_PIXELS:
        raise CaseError(
            "FR-D16", f"{rows} x {columns} pixels", case=case, wanted=f"1 to {LIMIT_PIXELS:,}", where=str(file)
        )
    return Header(
        file=file,
        series=str(dataset.get("SeriesInstanceUID") or ""),
        description=str(dataset.get("SeriesDescription") or ""),
        frame=str(dataset.get("FrameOfReferenceUID") or ""),
        rows=rows,
        columns=columns,
        frames=int(dataset.get("NumberOfFrames") or 1),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        photometric=str(dataset.get("PhotometricInterpretation") or ""),
        mosaic="MOSAIC" in str(dataset.get("ImageType") or ""),
        spacing_mm=_spacing(dataset, file, case),
        place=_place(dataset, file, case),
    )


def _place(dataset: Dataset, file: Path, case: str) -> Place | None:
    position = _numbers(dataset, "ImagePositionPatient", 3)
    directions = _numbers(dataset, "ImageOrientationPatient", 6)
    if position is None or directions is None:
        return None
    lengths = np.linalg.norm(directions.reshape(2, 3), axis=1)
    right, down = directions.reshape(2, 3) / np.maximum(lengths, 1e-9)[:, None]
    if np.abs(lengths - 1).max() > 0.01 or abs(float(right @ down)) > 0.01:
        found = f"ImageOrientationPatient holds {directions.tolist()}"
        raise _absurd(file, case, found, "two directions of length 1 at right angles")
    return Place(position, right, down)


def _numbers(dataset: Dataset, element: str, count: int) -> F64 | None:
    values = dataset.get(element)
    if values is None or values == "" or (hasattr(values, "__len__") and not len(values)):
        return None
    numbers = np.asarray([float(value) for value in values], np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{element}: {count} numbers wanted")
    return numbers


def _spacing(dataset: Dataset, file: Path, case: str) -> tuple[float, float] | None:
    for element in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        numbers = _numbers(dataset, element, 2)
        if numbers is not None:
            if not (numbers > 0).all():
                raise _absurd(file, case, f"{element} is {numbers.tolist()}", "numbers above 0")
            return float(numbers[0]), float(numbers[1])
    return None


def _absurd(file: Path, case: str, found: str, wanted: str) -> CaseError:
    return CaseError("FR-D15", found, case=case, wanted=wanted, do="export the series again", where=str(file))
