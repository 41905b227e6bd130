"""The pixels of one plane, decoded and rescaled to what the scanner meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from fedrounds_common.case import F32
from fedrounds_common.errors import CaseError
from fedrounds_sites.dicom.headers import Header, damaged, guarded, read_elements

_PIXELS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)
_GREY = ("MONOCHROME1", "MONOCHROME2")


def read_plane(header: Header, case: str, *, follow_links: bool = False) -> F32:
    """One plane: slope and intercept applied, MONOCHROME1 turned so that more is brighter.

    Returns:
        (rows, columns) of a grey plane, (rows, columns, 3) red, green, blue of one in colour.

    Raises:
        CaseError: FR-D50 damaged; FR-D51 no decoder for its compression; FR-D57 of a kind that is
            not read; FR-D14 values that are not finite.
    """
    dataset = read_elements(header.file, case, _PIXELS, pixels=True, follow_links=follow_links)
    if dataset is None:
        raise damaged(header.file, case, "is no DICOM any more")
    stored = _decoded(dataset, header.file, case)
    expected = (header.rows, header.columns) if header.samples == 1 else (header.rows, header.columns, 3)
    if stored.shape != expected:
        raise damaged(header.file, case, f"holds pixels of shape {stored.shape}, where its header says {expected}")
    values = guarded(lambda: _rescaled(stored, dataset), header.file, case)
    if not np.isfinite(values).all():
        raise CaseError("FR-D14", "holds values that are not finite", case=case, where=str(header.file))
    return values


def refuse_kind(header: Header, case: str) -> None:
    """Raises CaseError FR-D57: not one plane in grey or colour."""
    found = do = ""
    if header.frames > 1:
        found, do = f"{header.frames} frames in one file", "convert it to NIfTI (dcm2niix), and read that"
    elif header.mosaic:
        found, do = "a mosaic of planes", "convert it to NIfTI (dcm2niix), and read that"
    elif header.photometric not in (*_GREY, "RGB") and not header.photometric.startswith("YBR"):
        found, do = f"pixels of kind {header.photometric or 'unknown'}", "export it as grey or RGB"
    elif header.samples not in (1, 3):
        found, do = f"{header.samples} samples a pixel", "export it as grey or RGB"
    if found:
        raise CaseError(
            "FR-D57", found, case=case, wanted="one grey or RGB plane a file", do=do, where=str(header.file)
        )


def _decoded(dataset: Dataset, file: Path, case: str) -> NDArray[Any]:
    syntax = guarded(lambda: UID(str(dataset.file_meta.get("TransferSyntaxUID") or "")), file, case)
    if guarded(lambda: bool(dataset.get("ModalityLUTSequence")), file, case):
        do = "export it with rescale slope and intercept"
        raise CaseError("FR-D57", "a table of values (modality LUT)", case=case, do=do, where=str(file))
    decoder = guarded(lambda: _decoder(syntax), file, case)
    if decoder is None:
        raise _undecodable(syntax.name or "no transfer syntax", "nobody decodes it", file, case)
    if not decoder.is_available:
        raise _undecodable(syntax.name, f"needed is {' or '.join(decoder.missing_dependencies)}", file, case)
    try:
        return guarded(lambda: pixel_array(dataset), file, case)
    except CaseError as error:
        if not syntax.is_compressed:
            raise
        tried = ", ".join(decoder.available_plugins)
        raise _undecodable(syntax.name, f"{tried} failed: damaged, or beyond it", file, case) from error


def _decoder(syntax: UID) -> Decoder | None:
    try:
        return get_decoder(syntax)
    except NotImplementedError:
        return None


def _undecodable(syntax: str, why: str, file: Path, case: str) -> CaseError:
    return CaseError(
        "FR-D51",
        f"pixels in {syntax} cannot be decoded ({why})",
        case=case,
        wanted="a decoder for them",
        do='pip install "fedrounds[dicom]", or export them uncompressed',
        where=str(file),
    )


def _rescaled(stored: NDArray[Any], dataset: Dataset) -> F32:
    slope, intercept = _number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)
    if slope == 0:
        raise ValueError("a rescale slope of 0")
    values = stored.astype(np.float64)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        # less is brighter: count down from the largest number that the stored bits can hold
        bits = int(dataset.BitsStored)
        values = (2.0**bits - 1 if dataset.PixelRepresentation == 0 else -1.0) - values
    with np.errstate(over="ignore", invalid="ignore"):
        return (values * slope + intercept).astype(np.float32)


def _number(dataset: Dataset, element: str, missing: float) -> float:
    value = dataset.get(element)
    return missing if value is None or value == "" else float(value)
