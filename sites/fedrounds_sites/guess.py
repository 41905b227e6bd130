"""Which reader reads a folder that nobody has described: by the kind of its files and by their names.

A guess never reads a voxel. It counts, for every way of naming cases that it knows, how many cases
that way finds whole, with their masks and without, and takes the one that finds most.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import CaseError, DataError, UsageError
from fedrounds_common.study.tables import CaseForm, Table
from fedrounds_sites import archive
from fedrounds_sites.listing import compiled, group, walk
from fedrounds_sites.nifti import read_geometry
from fedrounds_sites.pictures import SUFFIXES
from fedrounds_sites.readers._layouts import LAYOUTS
from fedrounds_sites.readers.nifti_folder import NiftiFolder
from fedrounds_sites.simulation import READERS

KINDS = ("nifti_folder", "image_pairs", "dicom_series")
NO_LABELS = (
    "(?!)(?P<case>)"  # a pattern that no file matches: a prediction needs no mask, and a bad one must not stop it
)
_END = r"\.nii(?:\.gz)?"
_IMAGES, _LABELS = r"images?(?:Tr|Ts)?", r"(?:labels?(?:Tr|Ts)?|masks|segmentations)"
_MASK = r"[_-](?:seg|mask|label)"
_NO_MASK = "".join(rf"(?<![_-]{word})" for word in ("seg", "mask", "label"))
_ANY_PICTURE = r"\.(png|tiff?|jpe?g)$"
_HOLD_MANY = (
    ("npz_arrays", "root", (".npz",)),
    ("class_folders", "root", archive.SUFFIXES),
    ("table_csv", "file", (".csv",)),
)
# settings of the run's own reader that hold for files of any name
_CARRIED = ("slices", "tolerance_mm", "limit_voxels", "follow_links")


def reader_for(
    root: Path, form: CaseForm, own: Table | None = None, *, labelled: bool = True, plugins: Sequence[Path] = ()
) -> Table:
    """The table of a reader for the cases below `root`.

    Args:
        own: the table of the reader that the model's own cases were read with; tried first.
        labelled: masks are wanted too. False gives a reader that looks for images only.

    Raises:
        DataError: FR-D01 no such folder; FR-D70 nothing in it is an image.
        UsageError: FR-U52 there are images, and no way of naming cases that is known fits them.
    """
    own = dict(own or {})
    if root.is_file() and (single := _single_file(root, own)):
        return single
    files = [PurePosixPath(name) for name, path in walk(root) if not path.is_dir()]
    if own and own["name"] not in KINDS and has_root(own, plugins):  # a reader of the user's own knows its files
        mine = placed_at(own, root, labelled=labelled, plugins=plugins)
        if _whole_cases(mine, form, plugins)[1]:
            return mine
    kind = _kind_of(files)
    if not kind:
        example = f", e.g. {files[0]}" if files else ""
        raise DataError(
            "FR-D70", f"none of {len(files)} files is an image{example}",
            wanted=f"NIfTI (.nii, .nii.gz), pictures ({', '.join(SUFFIXES)}) or DICOM", do="check the folder's name",
            where=str(root),
        )  # fmt: skip
    tables = [own] if own.get("name") == kind else []
    if kind == "nifti_folder":
        carried = {key: own[key] for key in _CARRIED if key in own} if tables else {}
        tables += [{**carried, **table} for table in _nifti_tables(form)]
    elif kind == "dicom_series" and not tables:
        tables = [{"name": kind}]
    if form.classes and labelled and kind != "dicom_series":
        tables.insert(0, {"name": "class_folders"})
    if form.classes and kind == "image_pairs" and not tables:
        # a picture whose class is asked for needs no mask, whatever it is called
        tables.append({"name": kind, "pattern": _ANY_PICTURE, "mask": ""})
    placed = [placed_at(table, root, labelled=labelled, plugins=plugins) for table in tables]
    whole = [_whole_cases(table, form, plugins) for table in placed]
    best = max(whole, default=(0, 0))
    if best[1] == 0:
        raise _no_fit(root, kind, files)
    return placed[whole.index(best)]


def _single_file(file: Path, own: Table) -> dict[str, Any] | None:
    """The reader of one file that holds many cases; the settings of the model's own where it is of that kind."""
    for name, key, suffixes in _HOLD_MANY:
        if file.name.lower().endswith(suffixes):
            return {**(own if own.get("name") == name else {}), "name": name, key: str(file.resolve())}
    return None


def placed_at(table: Table, root: Path | None, *, labelled: bool, plugins: Sequence[Path] = ()) -> dict[str, Any]:
    """The reader's table with `root` set, and without labels if those are not wanted, where it has such fields."""
    fields = _fields(str(table.get("name")), plugins)
    placed = dict(table)
    if root is not None and "root" in fields:
        placed["root"] = str(root.resolve())
    if not labelled and "labels_required" in fields:
        placed["labels_required"] = False
    if not labelled and "labels" in fields:
        placed["labels"] = NO_LABELS if "layout" in fields else ""  # "" would be the layout's own
    return placed


def has_root(table: Table, plugins: Sequence[Path] = ()) -> bool:
    """Whether this reader reads from a folder; the phantom makes its cases itself."""
    return "root" in _fields(str(table.get("name")), plugins)


def _fields(name: str, plugins: Sequence[Path]) -> set[str]:
    found: Any = READERS.find(name, plugins)
    return {field.name for field in dataclasses.fields(found) if field.init}


def _kind_of(files: Sequence[PurePosixPath]) -> str:
    """The reader of the commonest kind of image; "" if there is none."""
    counts = dict.fromkeys(KINDS, 0)
    for file in files:
        name = file.name.lower()
        counts["nifti_folder"] += name.endswith((".nii", ".nii.gz"))
        counts["image_pairs"] += name.endswith(SUFFIXES)
        counts["dicom_series"] += name.endswith((".dcm", ".ima"))
    kind = max(counts, key=lambda each: counts[each])
    return kind if counts[kind] else ""


def _nifti_tables(form: CaseForm) -> list[dict[str, Any]]:
    """Ways of naming NIfTI files, the most telling first: the first of two that fit as well is taken."""
    channel = rf"[_-](?P<channel>{'|'.join(map(re.escape, form.channels))})"
    number = r"_(?P<channel>\d{4})"
    case, masks = r"(?P<case>[^/]+?)", rf"{_LABELS}/(?P<case>[^/]+?)(?:{_MASK})?{_END}"
    patterns = [
        (rf"{_IMAGES}/{case}{number}{_END}", masks),
        (rf"{_IMAGES}/{case}{channel}{_END}", masks),
        (rf"{_IMAGES}/{case}{_END}", masks),
        (rf"{case}{number}{_END}", rf"{case}(?:{_MASK})?{_END}"),
        (rf"(?:.*/)?{case}{channel}{_END}", rf"(?:.*/)?{case}{_MASK}{_END}"),
        (rf"{case}{_NO_MASK}{_END}", rf"{case}{_MASK}{_END}"),
    ]
    layouts = [{"name": "nifti_folder", "layout": layout} for layout in ("brats-gli", "brats")]
    return [*layouts, *({"name": "nifti_folder", "images": images, "labels": labels} for images, labels in patterns)]


def _whole_cases(table: Table, form: CaseForm, plugins: Sequence[Path]) -> tuple[int, int]:
    """How many cases this reader would find with image and mask, and how many with all of their images."""
    reader = READERS.load(table, plugins)
    try:
        refs = reader.cases(form)
    except DataError:
        return 0, 0
    return _whole_volumes(reader, refs, form) if isinstance(reader, NiftiFolder) else (len(refs), len(refs))


def _whole_volumes(reader: NiftiFolder, refs: Sequence[CaseRef], form: CaseForm) -> tuple[int, int]:
    layout = LAYOUTS[reader.layout]
    images, labels = (
        compiled(reader.images or layout.images, "images"),
        compiled(reader.labels or layout.labels, "labels"),
    )
    found = group(Path(reader.root), images, labels).cases
    whole: list[CaseRef] = []
    for ref in refs:
        try:
            file = reader.source(ref, form)
            if len(form.channels) > 1 and not whole and not _channels_fit(reader, file, form):
                return 0, 0
            whole.append(ref)
        except CaseError:
            continue
    return sum(bool(found[ref.name].labels) for ref in whole), len(whole)


def _channels_fit(reader: NiftiFolder, file: Path, form: CaseForm) -> bool:
    """A name without a channel in it, in a study of several, must be a file that holds them all."""
    if "(?P<channel>" in reader.images or reader.layout in ("nnunet", "brats", "brats-gli"):
        return True
    shape = read_geometry(file, follow_links=reader.follow_links).shape
    return len(shape) == 4 and shape[3] == len(form.channels)


def _no_fit(root: Path, kind: str, files: Sequence[PurePosixPath]) -> UsageError:
    example: Mapping[str, str] = {
        "nifti_folder": "--reader nifti_folder -s images='(?P<case>[^/]+)_t1\\.nii\\.gz'",
        "image_pairs": "--reader image_pairs -s pattern='(?P<patient>[^_]+)_(?P<slice>\\d+)\\.png$'",
        "dicom_series": "--reader dicom_series",
    }
    return UsageError(
        "FR-U52", f"the names of {len(files)} files, e.g. {files[0]}, do not say which of them are a case",
        wanted="a reader that knows them", do=f"name it, e.g. {example[kind]}", where=str(root),
    )  # fmt: skip
