"""Cases from one archive of NumPy arrays, as MedMNIST hands them out (Yang et al. 2023, doi:10.1038/s41597-022-01721-8)."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from fedrounds_common.case import F32, F64, Case, CaseRef, Target
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import STRICT
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites import listing
from fedrounds_sites.classes import class_target
from fedrounds_sites.files import open_regular
from fedrounds_sites.reader import Reader

Use = Literal["apart", "deal", "leave"]
Array = NDArray[Any]

PARTS = ("test", "train", "val")
_DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


@final
@dataclass(frozen=True)
class NpzArrays(Reader):
    """`train_images`, `train_labels`, and the same of `val` and `test`.

    Images (N, H, W) and (N, H, W, 3) are pictures, (N, D, H, W) volumes in a study of dims = 3 and stacks of slices in
    one of dims = 2; values as stored. Labels (N, 1) are the numbers of the study's `classes`, from 0 in their order;
    with `multi_label` (N, K) hold 0 and 1 for each. Which patient an image is of, such an archive does not tell.

    Args:
        root: the .npz file.
        test, val: "apart": a site of that name, for the study to hold out; "deal": dealt out with `train`;
            "leave": not read.
        spacing_mm: along each axis as stored (else 1). Which way the patient lies is not told: say
            orientation = "none" in a study of volumes.
        follow_links: True reads through a symbolic link to the file.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    root: Path
    test: Use = "apart"
    val: Use = "deal"
    spacing_mm: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=3)] = ()
    follow_links: bool = False

    @property
    def split_by(self) -> Literal["patient", "image"]:
        return "image"

    @property
    def own_form(self) -> CaseForm:
        return CaseForm(dims=2)

    @property
    def set_apart(self) -> frozenset[str]:
        return frozenset(part for part, use in (("test", self.test), ("val", self.val)) if use == "apart")

    def cases(self, form: CaseForm) -> tuple[CaseRef, ...]:
        self.__dict__.pop("_labels", None)  # the file may be another one by now
        if form.classes:
            self._refuse_classes(form)
        found = [
            CaseRef(name := f"{part}-{number:05d}", name, part if part in self.set_apart else None)
            for part, labels in self._labels.items()
            for number in range(1, len(labels) + 1)
        ]
        if not found:
            raise self._wrong("FR-D02", "no image in it", "train_images and train_labels")
        return tuple(sorted(found))

    def load(self, ref: CaseRef, form: CaseForm) -> Case:
        part, _, number = ref.name.partition("-")
        labels = self._labels.get(part)
        if labels is None or not number.isdecimal() or not 0 < int(number) <= len(labels):
            do = "list the cases again: the file may be another one"
            raise CaseError("FR-D18", f"no case named {ref.name}", case=ref.name, do=do, where=str(self.root))
        stored = _images(*self._file, part)
        image, affine = self._image(stored[int(number) - 1], stored.ndim, ref, form)
        return Case(ref, image, self._target(labels[int(number) - 1], form), affine)

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        return listing.stamp([Path(self.root)])

    @property
    def _file(self) -> tuple[Path, int, bool]:
        try:
            return Path(self.root), Path(self.root).stat().st_mtime_ns, self.follow_links
        except OSError:
            raise self._wrong("FR-D01", "there is no such file", "an archive of arrays (.npz)") from None

    @cached_property
    def _labels(self) -> Mapping[str, Array]:
        """Part → labels (N, 1) or (N, K), of the parts that are read."""
        keys = _keys(*self._file)
        found: dict[str, Array] = {}
        for part in PARTS:
            if {"test": self.test, "val": self.val}.get(part) == "leave" or f"{part}_images" not in keys:
                continue
            count = _shape(*self._file, f"{part}_images")[0]
            labels = _array(*self._file, f"{part}_labels") if f"{part}_labels" in keys else np.zeros((count, 0))
            labels = labels.reshape(len(labels), -1)
            if len(labels) != count:
                raise self._wrong("FR-D43", f"{count} {part}_images and {len(labels)} {part}_labels", "one for each")
            found[part] = labels
        return found

    def _refuse_classes(self, form: CaseForm) -> None:
        """Raises DataError FR-D42: the file's numbers are not those of the study's classes."""
        every = [labels for labels in self._labels.values() if len(labels)]
        widths = sorted({labels.shape[1] for labels in every})
        classes, values = len(form.classes), sorted({value.item() for labels in every for value in np.unique(labels)})
        wanted = (
            f"{classes} columns of 0 and 1" if form.multi_label else f"one column of 0 to {classes - 1}, each of them"
        )
        fits = (
            widths == [classes] and set(values) <= {0, 1}
            if form.multi_label
            else widths == [1] and values == list(range(classes))
        )
        if not fits:
            some = f"{', '.join(map(str, values[:8]))}{', ...' if len(values) > 8 else ''}"
            found = f"labels of {' or '.join(map(str, widths))} columns with the values {some}"
            do = "give [cases] classes in the order of the file's numbers, and multi_label = true for a column each"
            wanted = f"{wanted}, for {', '.join(form.classes)}"
            raise DataError("FR-D42", found, wanted=wanted, do=do, where=str(self.root))

    def _image(self, stored: Array, axes: int, ref: CaseRef, form: CaseForm) -> tuple[F32, F64]:
        colour = (form.dims, axes) in ((2, 4), (3, 5)) and stored.shape[-1] == 3
        if axes not in (form.dims + 1, form.dims + 2) or (axes == form.dims + 2 and form.dims == 3 and not colour):
            found = f"images of shape {stored.shape}"
            wanted = f"dims = {form.dims}: {'rows and columns' if form.dims == 2 else 'three axes'}, perhaps colours"
            raise CaseError(
                "FR-D17", found, case=ref.name, wanted=wanted, do="change [cases] dims", where=str(self.root)
            )
        planes = np.moveaxis(stored, -1, 0) if colour else stored[None]
        if len(planes) != len(form.channels):
            found, wanted = f"{len(planes)} channels", f"{len(form.channels)} ({', '.join(form.channels)})"
            raise CaseError("FR-D32", found, case=ref.name, wanted=wanted, do="change [cases]", where=str(self.root))
        image: F32 = np.ascontiguousarray(planes.astype(np.float32))
        spacing = (*self.spacing_mm, 1.0, 1.0, 1.0)[:3] if self.spacing_mm else (1.0, 1.0, 1.0)
        return image, np.diag([*spacing, 1.0])

    def _target(self, label: Array, form: CaseForm) -> Target | None:
        if not form.classes or not len(label):
            return None
        return class_target(np.flatnonzero(label) if form.multi_label else [int(label[0])], form)

    def _wrong(self, code: str, found: str, wanted: str) -> DataError:
        return DataError(code, found, wanted=wanted, do="check root in the reader's table", where=str(self.root))


@lru_cache(maxsize=4)
def _keys(file: Path, modified: int, follow_links: bool) -> frozenset[str]:
    with open_regular(file, follow_links=follow_links) as stream:
        try:
            return frozenset(np.load(stream, allow_pickle=False).files)
        except (*_DAMAGED, AttributeError) as error:
            raise _unreadable(file, error) from None


@lru_cache(maxsize=8)
def _shape(file: Path, modified: int, follow_links: bool, key: str) -> tuple[int, ...]:
    """Of one array, from its header: nothing else of it is unpacked."""
    with open_regular(file, follow_links=follow_links) as stream:
        try:
            with zipfile.ZipFile(stream) as archive, archive.open(f"{key}.npy") as entry:
                version = np.lib.format.read_magic(entry)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(entry)
        except _DAMAGED as error:
            raise _unreadable(file, error) from None
    if dtype.kind not in "uif" or not 3 <= len(shape) <= 5:
        raise DataError("FR-D43", f"{key} of shape {shape} and {dtype}", wanted="numbers, 3 to 5 axes", where=str(file))
    return tuple(shape)


@lru_cache(maxsize=2)  # of `train` and of one other part: a hospital reads its cases in the order of their names
def _images(file: Path, modified: int, follow_links: bool, part: str) -> Array:
    return _array(file, modified, follow_links, f"{part}_images")


def _array(file: Path, modified: int, follow_links: bool, key: str) -> Array:
    with open_regular(file, follow_links=follow_links) as stream:
        try:
            array: Array = np.load(stream, allow_pickle=False)[key]
        except _DAMAGED as error:
            raise _unreadable(file, error) from None
    return array


def _unreadable(file: Path, error: Exception) -> DataError:
    found = f"cannot be read ({type(error).__name__}: {str(error)[:200]})"
    wanted = "a whole .npz of plain arrays: an archive of Python objects is never opened"
    return DataError("FR-D43", found, wanted=wanted, do="fetch the file again", where=str(file))
