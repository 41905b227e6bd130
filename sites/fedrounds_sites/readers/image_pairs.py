"""Pictures in a folder, each with a mask file beside it: PNG, TIFF or JPEG, 8 or 16 bits, grey or RGB."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from fedrounds_common.case import F64, U8, Case, CaseRef, Target
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import STRICT, RulesBroken
from fedrounds_common.study.tables import CaseForm, Rule
from fedrounds_sites import listing
from fedrounds_sites.masks import labels_of, map_labels, study_values, two_valued
from fedrounds_sites.pairing import Entry, MaskRule, Pair, Paired, pair_up
from fedrounds_sites.pictures import SUFFIXES, Pixels, as_wanted, grey_of, read_pixels
from fedrounds_sites.reader import Reader


@final
@dataclass(frozen=True)
class ImagePairs(Reader):
    r"""Slices that lie as pictures in a folder, e.g. `SITE_PATIENT_SLICE.png`, `SITE_PATIENT_SLICE_mask.png`.

    Args:
        root: the folder; a relative one is taken from the current folder.
        pattern: a regular expression found anywhere in a file's path below `root`, with the groups
            `patient`, `site`, `slice` as there are. With `slice`, a patient's pictures are one case,
            stacked by that number: image (C, S, H, W). Without, each picture is a case (C, H, W),
            and `patient` still says whose it is. Names are taken as they stand: use pseudonyms.
        mask: the mask's name, made from the groups, `{stem}` and `{folder}` (of the image). Without
            a "/" it lies beside the image, else it counts from `root`. "" reads images alone.
        mask_values: "binary", 0 and one other number for the study's only label; "labels", numbers.
        label_map: stored value → the study's, and then nothing but these and 0 may occur; 0 drops a label.
        labels_required: False lets images come without a mask; a stack then has a target only if
            every slice has a mask.
        grey_from_rgb: what becomes of colour in a study of one channel, unless its colours are equal.
        spacing_mm: between rows, between columns and, in a stack, between slices (else 1). Pictures
            tell neither it nor which way the patient lies: the affine has the identity's directions.
        follow_links: True reads through symbolic links to files.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    root: Path
    pattern: str = r"(?P<site>[^_/]+)_(?P<patient>[^_/]+)_(?P<slice>\d+)\.(png|tiff?|jpe?g)$"
    mask: str = "{stem}_mask.png"
    mask_values: Literal["binary", "labels"] = "binary"
    label_map: dict[int, Annotated[int, Field(ge=0, le=255)]] = field(default_factory=dict)
    labels_required: bool = True
    grey_from_rgb: Literal["refuse", "luminance"] = "refuse"
    spacing_mm: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=3)] = ()
    follow_links: bool = False

    @model_validator(mode="after")
    def _sound(self) -> ImagePairs:
        if rules := self._broken_rules():
            raise RulesBroken(rules)
        return self

    def _broken_rules(self) -> list[Rule]:
        rules: list[Rule] = []
        groups: tuple[str, ...] = ()
        try:
            groups = tuple(re.compile(self.pattern).groupindex)
            if "slice" in groups and "patient" not in groups:
                rules.append((("pattern",), "the group slice needs a group patient, whose slices are stacked"))
        except re.error as error:
            rules.append((("pattern",), f"no regular expression: {error}"))
        try:
            strange = set(MaskRule(self.mask).fields()) - {"stem", "folder", *groups}
            if strange or ".." in self.mask.split("/") or self.mask.startswith("/"):
                known = ", ".join(("stem", "folder", *groups))
                rules.append((("mask", "pattern"), f"{self.mask!r}: a path below the root with {{names}} from {known}"))
            if self.mask and PurePosixPath(self.mask).suffix.lower() not in SUFFIXES:
                rules.append((("mask",), f"{self.mask!r}: must end in one of {', '.join(SUFFIXES)}"))
        except ValueError as error:
            rules.append((("mask",), f"{self.mask!r}: {error}"))
        if self.label_map and self.mask_values == "binary":
            rules.append((("label_map", "mask_values"), 'is for mask_values = "labels"'))
        if len(self.spacing_mm) == 1:
            rules.append((("spacing_mm",), "two numbers (rows, columns) or three (and slices) wanted"))
        return rules

    @property
    def own_form(self) -> CaseForm:
        return CaseForm(dims=2, labels=labels_of(self.label_map))

    def cases(self, form: CaseForm) -> tuple[CaseRef, ...]:
        self._refuse_form(form)
        self.__dict__.pop("_paired", None)  # the folder may have grown since it was listed
        return tuple(entry.ref for entry in self._paired.entries.values())

    @property
    def split_by(self) -> Literal["patient", "image"]:
        return "patient" if "(?P<patient>" in self.pattern else "image"

    @property
    def passed_over(self) -> Mapping[str, int]:
        return listing.counted(self._paired.others)

    @property
    def passed_over_names(self) -> Mapping[str, tuple[str, ...]]:
        return listing.named(self._paired.others)

    def load(self, ref: CaseRef, form: CaseForm) -> Case:
        self._refuse_form(form)
        entry = self._entry(ref)
        if entry.fault is not None:
            raise entry.fault.with_traceback(None)
        slices = [self._picture(pair, ref.name, form) for pair in entry.pairs]
        for pair, pixels in zip(entry.pairs, slices, strict=True):
            if pixels.shape != slices[0].shape or pixels.dtype != slices[0].dtype:
                wanted = f"{_looks(slices[0])} as {entry.pairs[0].picture}"
                raise _unequal(ref.name, pair.picture, _looks(pixels), wanted)
        planes = [np.moveaxis(pixels, -1, 0).astype(np.float32) for pixels in slices]
        image = np.stack(planes, axis=1) if entry.stacked else planes[0]
        return Case(ref, np.ascontiguousarray(image), self._target(entry, slices, form), self._affine(entry.stacked))

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        pairs = self._entry(ref).pairs
        return listing.stamp([Path(self.root) / file for pair in pairs for file in (pair.picture, pair.mask) if file])

    def pictures(self, ref: CaseRef) -> tuple[Path, ...]:
        """The files of a case, one a slice: what a prediction is named after."""
        return tuple(Path(self.root) / pair.picture for pair in self._entry(ref).pairs)

    def _entry(self, ref: CaseRef) -> Entry:
        entry = self._paired.entries.get(ref.name)
        if entry is None:
            raise CaseError(
                "FR-D18",
                f"no case named {ref.name}",
                case=ref.name,
                wanted=f"one of the {len(self._paired.entries)} of this folder",
                do="list the cases again: files may have gone",
                where=str(self.root),
            )
        return entry

    @cached_property
    def _paired(self) -> Paired:
        if rules := self._broken_rules():  # made in Python, where nobody has checked its table
            raise DataError("FR-D03", "; ".join(f"{reads[0]}: {message}" for reads, message in rules))
        files = [name for name, path in listing.walk(Path(self.root)) if path.is_symlink() or not path.is_dir()]
        pictures = [file for file in files if PurePosixPath(file).suffix.lower() in SUFFIXES]
        pattern = re.compile(self.pattern)
        if not any(pattern.search(file) for file in pictures):
            raise self._nothing(files, pictures)
        rule = MaskRule(self.mask) if self.mask else None
        found = pair_up(pictures, pattern, rule, masks_required=self.labels_required)
        return Paired(found.entries, tuple(sorted({*files} - {*pictures} | {*found.others})))

    def _nothing(self, files: Sequence[str], pictures: Sequence[str]) -> DataError:
        example = f", e.g. {(pictures or files)[0]}" if files else ""
        return DataError(
            "FR-D02",
            f"none of {len(files)} files ({len(pictures)} of them pictures) is a case{example}",
            wanted=f"{', '.join(SUFFIXES)} files in whose path {self.pattern} is found",
            do="correct `root` or `pattern` in the reader's table",
            where=str(self.root),
        )

    def _refuse_form(self, form: CaseForm) -> None:
        if form.dims != 2:
            raise _form_error(f"dims = {form.dims}", "dims = 2: pictures have rows and columns")
        if len(form.channels) not in (1, 3):
            raise _form_error(f"{len(form.channels)} channels", "1 (grey) or 3 (red, green, blue)")
        if self.mask and self.mask_values == "binary" and len(form.labels) != 1:
            wanted = 'one label, or mask_values = "labels" in the reader\'s table'
            raise _form_error(f"labels {', '.join(form.labels)} for masks of two values", wanted)
        study_values(self.label_map, form)

    def _picture(self, pair: Pair, case: str, form: CaseForm) -> Pixels:
        """(H, W, C) for the study's number of channels."""
        pixels = read_pixels(Path(self.root) / pair.picture, case, follow_links=self.follow_links)
        return as_wanted(pixels, form, case, pair.picture, self.grey_from_rgb)

    def _target(self, entry: Entry, slices: Sequence[Pixels], form: CaseForm) -> Target | None:
        if any(pair.mask is None for pair in entry.pairs):
            return None
        masks = [self._mask(pair, pixels, entry.ref.name) for pair, pixels in zip(entry.pairs, slices, strict=True)]
        if self.mask_values == "binary":
            self._refuse_two_scales(entry, masks)
        planes = [self._labels(mask, pair, entry, form) for mask, pair in zip(masks, entry.pairs, strict=True)]
        return Target(np.stack(planes) if entry.stacked else planes[0])

    def _mask(self, pair: Pair, picture: Pixels, case: str) -> Pixels:
        """(H, W), the site's values."""
        file = str(pair.mask)
        pixels = read_pixels(Path(self.root) / file, case, mask=True, follow_links=self.follow_links)
        if pixels.shape[:2] != picture.shape[:2]:
            raise _unequal(case, file, _size(pixels), f"{_size(picture)} as its image")
        grey = grey_of(pixels)
        if grey is None:
            do = "save the label's number as grey value"
            raise CaseError("FR-D32", "a mask in colour", case=case, wanted="one value a pixel", do=do, where=file)
        return grey[..., 0]

    def _labels(self, mask: Pixels, pair: Pair, entry: Entry, form: CaseForm) -> U8:
        if self.mask_values == "binary":
            return two_valued(mask, next(iter(form.labels.values())), entry.ref.name, str(pair.mask))
        return map_labels(mask, study_values(self.label_map, form), entry.ref.name, str(pair.mask))

    def _refuse_two_scales(self, entry: Entry, masks: Sequence[Pixels]) -> None:
        """One slice drawn with 1 and the next with 255 may mean two things."""
        kinds = {float(mask.max()): pair.mask for mask, pair in zip(masks, entry.pairs, strict=True) if mask.any()}
        if len(kinds) > 1:
            (low, one), (high, other), *_ = sorted(kinds.items())
            raise CaseError(
                "FR-D34",
                f"{one} holds {low:g}, {other} holds {high:g}",
                case=entry.ref.name,
                wanted="the same number in all masks of a patient",
                do='save them alike, or give mask_values = "labels" and label_map',
            )

    def _affine(self, stacked: bool) -> F64:
        rows, columns, between = (*self.spacing_mm, 1.0, 1.0, 1.0)[:3] if self.spacing_mm else (1.0, 1.0, 1.0)
        return np.diag([between, rows, columns, 1.0] if stacked else [rows, columns, 1.0, 1.0])


def _looks(pixels: Pixels) -> str:
    return f"{_size(pixels)} of {pixels.dtype}"


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]} pixels"


def _unequal(case: str, file: str, found: str, wanted: str) -> CaseError:
    do = "export all of them in one size and depth, with their masks"
    return CaseError("FR-D08", found, case=case, wanted=wanted, do=do, where=file)


def _form_error(found: str, wanted: str) -> DataError:
    return DataError("FR-D33", f"image_pairs cannot fill [cases] with {found}", wanted=wanted, do="change [cases]")
