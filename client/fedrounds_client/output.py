"""Predictions as files: masks and probability maps that lie on the input, voxel by voxel.

masks/CASE.nii.gz           label values, with the input's own header geometry
probabilities/CASE.nii.gz   float32, one volume a region or label, in the study's order
masks/CASE.nii.gz           of DICOM: in the axes of its series, columns, rows and planes
masks/PICTURE.png           label values, or 0 and 255 where the reader reads masks of two values
probabilities/PICTURE_REGION.png   16 bits: 65535 is certain
labels.txt                  the labels' names and colours, as ITK-SNAP reads them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedrounds_client.outside import outputs
from fedrounds_common.case import F32, F64, U8, Case, CaseRef
from fedrounds_common.disk import write_text, write_whole
from fedrounds_common.pictures import COLOURS, png_of
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.task import Prediction
from fedrounds_sites.nifti import write_like, write_nifti
from fedrounds_sites.reader import Reader

CERTAIN = 65535  # a probability of 1 in 16 bits


@runtime_checkable
class FromVolumes(Protocol):
    """A reader whose cases are NIfTI files: `source` is the one a prediction is written like."""

    def source(self, ref: CaseRef, form: CaseForm) -> Path: ...


@runtime_checkable
class FromPictures(Protocol):
    """A reader whose cases are pictures, one a slice."""

    root: Path

    def pictures(self, ref: CaseRef) -> tuple[Path, ...]: ...


@runtime_checkable
class FromSeries(Protocol):
    """A reader whose cases may lie in other axes than what they were read from: `placed` gives these."""

    def placed(self, array: Any, case: Case, form: CaseForm) -> tuple[Any, F64] | None: ...


def files_of(reader: Reader, ref: CaseRef, form: CaseForm) -> tuple[Path, ...]:
    """The image files behind a case: of a volume the first channel's; none where they cannot be named."""
    if isinstance(reader, FromVolumes):
        return (reader.source(ref, form),)
    return reader.pictures(ref) if isinstance(reader, FromPictures) else ()


def write_prediction(
    folder: Path, reader: Reader, case: Case, made: Prediction, form: CaseForm, *, probabilities: bool
) -> tuple[Path, ...]:
    """Write one case's mask and, if asked for, its probability maps; returns the files.

    Raises:
        DataError: FR-D71 the outputs are not those of regions or labels.
    """
    maps = outputs(made.outputs, form) if probabilities else {}
    if isinstance(reader, FromPictures):
        names = [
            file.resolve().relative_to(Path(reader.root).resolve()).with_suffix("")
            for file in reader.pictures(case.ref)
        ]
        return _write_pictures(folder, names, _values(reader, made.labels), maps)
    volumes = _write_volumes(folder, reader, case, made.labels, maps, form)
    if len(case.grid) == 2:
        return (*_write_pictures(folder, [Path(case.ref.name)], made.labels, maps), *volumes)
    return volumes


def _write_volumes(
    folder: Path, reader: Reader, case: Case, labels: U8, maps: Mapping[str, F32], form: CaseForm
) -> tuple[Path, ...]:
    """None of a picture that lies nowhere."""
    wanted: dict[Path, U8 | F32] = {folder / "masks" / f"{case.ref.name}.nii.gz": labels}
    if maps:
        stacked = np.stack(list(maps.values()))
        wanted[folder / "probabilities" / f"{case.ref.name}.nii.gz"] = stacked if len(stacked) > 1 else stacked[0]
    for file, array in wanted.items():
        placed = _placed(reader, array, case, form)
        if placed is None:
            return ()
        if isinstance(reader, FromVolumes):
            links = bool(getattr(reader, "follow_links", False))
            write_like(reader.source(case.ref, form), file, array, case.affine, follow_links=links)
        else:
            write_nifti(file, *placed)
    return tuple(wanted)


def _placed(reader: Reader, array: U8 | F32, case: Case, form: CaseForm) -> tuple[U8 | F32, F64] | None:
    if isinstance(reader, FromSeries):
        return reader.placed(array, case, form)
    return None if len(case.grid) == 2 else (array, case.affine)


def _values(reader: FromPictures, labels: U8) -> U8:
    """Label values as this reader would read them back."""
    if getattr(reader, "mask_values", "labels") == "binary":
        return np.where(labels > 0, np.uint8(255), np.uint8(0))
    return labels


def _write_pictures(folder: Path, names: Sequence[Path], labels: U8, maps: Mapping[str, F32]) -> tuple[Path, ...]:
    """One file a slice: labels (S, H, W), or (H, W) of a single picture."""
    wanted: dict[Path, NDArray[Any]] = {}
    for index, name in enumerate(names):
        wanted[folder / "masks" / f"{name}.png"] = labels[index] if labels.ndim == 3 else labels
        for region, values in maps.items():
            plane = values[index] if labels.ndim == 3 else values
            whole = np.rint(np.clip(plane, 0, 1) * CERTAIN).astype(np.uint16)
            wanted[folder / "probabilities" / f"{name}_{region}.png"] = whole
    for file, pixels in wanted.items():
        write_whole(file, png_of(pixels))
    return tuple(wanted)


def write_label_file(file: Path, form: CaseForm) -> None:
    """`labels.txt` as ITK-SNAP reads it (Segmentation > Import Label Descriptions), in the pictures' colours."""
    lines = ["# ITK-SnAP Label Description File", "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL"]
    lines.append(f'{0:5d} {0:5d}{0:5d}{0:5d} {0:8.2g} {0:2d} {0:2d}    "Clear Label"')
    for place, (label, value) in enumerate(form.labels.items()):
        red, green, blue = COLOURS[place % len(COLOURS)]
        lines.append(f'{value:5d} {red:5d}{green:5d}{blue:5d} {1:8.2g} {1:2d} {1:2d}    "{label}"')
    write_text(file, "\n".join(lines) + "\n")
