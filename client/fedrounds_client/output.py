"""Predictions as files that lie on the input, voxel by voxel. The task says which kinds, and how they are called.

KIND/CASE.nii.gz        labels, float32 volumes one after the other, or displacements in mm (NIfTI intent 1006, RAS),
                        with the input's own header geometry; of DICOM in the axes of its series
KIND/PICTURE.png        label values, or 0 and 255 where the reader reads masks of two values
KIND/PICTURE_NAME.png   probabilities in 16 bits: 65535 is certain
KIND/PICTURE_NAME.tif   intensities of any range, float32
labels.txt              the labels' names and colours, as ITK-SNAP reads them, where there are label images
TABLE.csv               what is known of a case as a whole, a line a case
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F32, F64, U8, Case, CaseRef
from fedrounds_common.disk import write_text, write_whole
from fedrounds_common.pictures import COLOURS, png_of
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.written import LabelImage, ScalarImages, Values, VectorImage, Written
from fedrounds_sites.nifti import write_like, write_nifti
from fedrounds_sites.reader import Reader

CERTAIN = 65535  # a probability of 1 in 16 bits
Image = LabelImage | ScalarImages | VectorImage


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
    folder: Path, reader: Reader, case: Case, files: Mapping[str, Written], form: CaseForm, *,
    of_file: bool = True, probabilities: bool = True,
) -> tuple[Path, ...]:  # fmt: skip
    """Write what a task made of one case, each kind into the folder that it names; returns the files.

    A row of values is none of these: `write_tables` writes those of all cases.

    Args:
        of_file: the reader has a file of this very case; a pair of cases lies on the grid of the fixed one.
        probabilities: False leaves maps of probabilities out.
    """
    images = {
        name: each
        for name, each in files.items()
        if not isinstance(each, Values)
        and (probabilities or not (isinstance(each, ScalarImages) and each.of == "probabilities"))
    }
    source = reader if of_file and isinstance(reader, FromVolumes) else None
    pictured, names = len(case.grid) == 2, [Path(case.ref.name)]
    if isinstance(reader, FromPictures):
        root, pictured, images = Path(reader.root).resolve(), True, _as_read(reader, images)
        if of_file:
            names = [file.resolve().relative_to(root).with_suffix("") for file in reader.pictures(case.ref)]
    pictures = _write_pictures(folder, names, images) if pictured else ()
    # displacements are no picture, whatever they were found in
    volumes = {k: v for k, v in images.items() if not isinstance(reader, FromPictures) or isinstance(v, VectorImage)}
    files_of_volumes = (_write_volume(folder / name, reader, source, case, v, form) for name, v in volumes.items())
    return (*pictures, *(file for file in files_of_volumes if file is not None))


def write_tables(folder: Path, rows: Mapping[str, Mapping[str, Written]]) -> tuple[Path, ...]:
    """`NAME.csv` for each kind of values: a line a case, its columns in the order in which they first come."""
    tables: dict[str, dict[str, Mapping[str, float | str]]] = {}
    for case, files in rows.items():
        for name, each in files.items():
            if isinstance(each, Values):
                tables.setdefault(name, {})[case] = each.row
    for name, lines in tables.items():
        columns = list({column: 0 for row in lines.values() for column in row})
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["case", *columns])
        writer.writerows([case, *(_cell(row.get(column, "")) for column in columns)] for case, row in lines.items())
        write_text(folder / f"{name}.csv", stream.getvalue())
    return tuple(folder / f"{name}.csv" for name in tables)


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else repr(value)


def _write_volume(
    folder: Path, reader: Reader, source: FromVolumes | None, case: Case, made: Image, form: CaseForm
) -> Path | None:
    """None of a picture that lies nowhere, unless it is displacements, which no picture can hold."""
    file, array = folder / f"{case.ref.name}.nii.gz", _voxels_of(made)
    vectors = isinstance(made, VectorImage)
    if source is not None:
        links = bool(getattr(reader, "follow_links", False))
        write_like(source.source(case.ref, form), file, array, case.affine, follow_links=links, vectors=vectors)
        return file
    placed = _placed(reader, array, case, form)
    if placed is None and not vectors:
        return None
    write_nifti(file, *(placed or (array, case.affine)), vectors=vectors)
    return file


def _voxels_of(made: Image) -> U8 | F32:
    if isinstance(made, LabelImage):
        return made.labels
    if isinstance(made, VectorImage):
        return made.field
    stacked = np.stack(list(made.images.values()))
    return stacked if len(stacked) > 1 else stacked[0]


def _placed(reader: Reader, array: U8 | F32, case: Case, form: CaseForm) -> tuple[U8 | F32, F64] | None:
    if isinstance(reader, FromSeries):
        return reader.placed(array, case, form)
    return None if len(case.grid) == 2 else (array, case.affine)


def _as_read(reader: FromPictures, images: Mapping[str, Image]) -> dict[str, Image]:
    """Label values as this reader would read them back."""
    if getattr(reader, "mask_values", "labels") != "binary":
        return dict(images)
    return {
        name: LabelImage(np.where(each.labels > 0, np.uint8(255), np.uint8(0)))
        if isinstance(each, LabelImage)
        else each
        for name, each in images.items()
    }


def _write_pictures(folder: Path, names: Sequence[Path], images: Mapping[str, Image]) -> tuple[Path, ...]:
    """One file a slice of a stack (S, H, W), or of a single picture (H, W); displacements are no pictures."""
    written: list[Path] = []
    for index, name in enumerate(names):
        for kind, each in images.items():
            if isinstance(each, VectorImage):
                continue
            for ending, voxels in _planes(each).items():
                plane = voxels[index] if voxels.ndim == 3 else voxels
                written.append(_write_picture(folder / kind / f"{name}{ending}", plane))
    return tuple(written)


def _planes(made: LabelImage | ScalarImages) -> dict[str, NDArray[Any]]:
    """What follows a picture's name → its pixels (S, H, W) or (H, W)."""
    if isinstance(made, LabelImage):
        return {".png": made.labels}
    if made.of == "probabilities":
        whole = {name: np.rint(np.clip(each, 0, 1) * CERTAIN).astype(np.uint16) for name, each in made.images.items()}
        return {f"_{name}.png": each for name, each in whole.items()}
    return {f"_{name}.tif": each for name, each in made.images.items()}


def _write_picture(file: Path, pixels: NDArray[Any]) -> Path:
    write_whole(file, png_of(pixels) if file.suffix == ".png" else _tiff_of(pixels))
    return file


def _tiff_of(pixels: NDArray[Any]) -> bytes:
    """(H, W) float32 as a file's bytes: a PNG holds no numbers below 0 and no fractions."""
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels, np.float32)).save(stream, format="TIFF")
    return stream.getvalue()


def write_label_file(file: Path, form: CaseForm) -> None:
    """`labels.txt` as ITK-SNAP reads it (Segmentation > Import Label Descriptions), in the pictures' colours."""
    lines = ["# ITK-SnAP Label Description File", "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL"]
    lines.append(f'{0:5d} {0:5d}{0:5d}{0:5d} {0:8.2g} {0:2d} {0:2d}    "Clear Label"')
    for place, (label, value) in enumerate(form.labels.items()):
        red, green, blue = COLOURS[place % len(COLOURS)]
        lines.append(f'{value:5d} {red:5d}{green:5d}{blue:5d} {1:8.2g} {1:2d} {1:2d}    "{label}"')
    write_text(file, "\n".join(lines) + "\n")
