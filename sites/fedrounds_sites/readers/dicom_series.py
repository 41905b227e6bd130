"""DICOM studies: one series a channel makes a case; or single planes, each of them a case."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar, final

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from fedrounds_common.case import F32, F64, U8, Case, CaseRef, Target
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import STRICT, RulesBroken
from fedrounds_common.study.tables import CaseForm, Rule
from fedrounds_sites import listing
from fedrounds_sites.dicom.finding import Finder, Found, Unit
from fedrounds_sites.dicom.grid import plane_affine
from fedrounds_sites.dicom.headers import Header, read_header
from fedrounds_sites.dicom.identity import read_key
from fedrounds_sites.dicom.volume import Gridding, Match, Volume, choose, into_series, read_flat, read_mask, read_stacks
from fedrounds_sites.masks import labels_of, map_labels, study_values
from fedrounds_sites.pictures import SUFFIXES, grey_of, read_pixels
from fedrounds_sites.reader import Reader

Onto = TypeVar("Onto", U8, F32)
GROUPS = {"case", "patient", "site"}


@final
@dataclass(frozen=True)
class DicomSeries(Reader):
    """Volumes from series of planes, and pictures (CR, DX, MG, US stills) from single files.

    Args:
        root: the folder; a relative one is taken from the current folder. Files that are no DICOM, or
            hold no image, are passed over and counted (`passed_over`).
        channels: the study's name of a channel → a regular expression for its series, found in
            upper or lower case anywhere in what `match` says. Left empty: a case is one series.
        match: where: the series' "folder" below `root`, its "description" (SeriesDescription), or "either".
        unit: "study", all series of a study are one case; "image", each file is a case, in a 2D study.
        pattern: a regular expression found anywhere in a file's path below `root`, with the groups
            `case`, `patient`, `site` as there are, taken as they stand: use pseudonyms. What it does
            not tell comes from PatientID and StudyInstanceUID (or SOPInstanceUID), hashed.
        key_file: an absolute path to a secret for those hashes; without it they can be undone by trying.
        labels: a regular expression found in the path of a case's mask: NIfTI for volumes, which
            belongs to the case that alone lies nearest in the folders; PNG or TIFF for single
            images, named like the image and more. "" reads no masks.
        label_map: stored value → the study's, and then nothing but these and 0 may occur; 0 drops a label.
        labels_required: False lets cases come without a mask.
        resample: True brings channels and mask that lie on other grids onto the first channel's,
            linearly without blurring (the mask to the nearest); False refuses them.
        tolerance_mm: by how much corners of channels and mask may lie apart and still be one grid.
        same_frame: False accepts channels with different frames of reference as registered.
        follow_links: True reads through symbolic links to files.

    A 3D case is (C, columns, rows, planes), planes along their normal; in a 2D study a series is
    (C, planes, rows, columns) and a single plane (C, rows, columns).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    root: Path
    channels: dict[str, str] = field(default_factory=dict)
    match: Match = "either"
    unit: Unit = "study"
    pattern: str = ""
    key_file: Path | None = None
    labels: str = ""
    label_map: dict[int, Annotated[int, Field(ge=0, le=255)]] = field(default_factory=dict)
    labels_required: bool = True
    resample: bool = False
    tolerance_mm: Annotated[float, Field(ge=0)] = 0.1
    same_frame: bool = True
    follow_links: bool = False

    @model_validator(mode="after")
    def _sound(self) -> DicomSeries:
        if rules := self._broken_rules():
            raise RulesBroken(rules)
        return self

    def _broken_rules(self) -> list[Rule]:
        rules: list[Rule] = []
        named = {"pattern": self.pattern, "labels": self.labels}
        for key, text in {**named, **{f"channels.{name}": text for name, text in self.channels.items()}}.items():
            try:
                re.compile(text)
            except re.error as error:
                rules.append(((key, key.partition(".")[0]), f"{text!r}: no regular expression: {error}"))
        if not rules and (strange := set(re.compile(self.pattern).groupindex) - GROUPS):
            rules.append((("pattern",), f"the group {min(strange)} is none of {', '.join(sorted(GROUPS))}"))
        if self.unit == "image" and self.channels:
            rules.append((("channels", "unit"), 'series are told apart only with unit = "study"'))
        if self.key_file is not None and not self.key_file.is_absolute():
            rules.append((("key_file",), f"{self.key_file}: an absolute path wanted"))
        return rules

    @property
    def own_form(self) -> CaseForm:
        names = tuple(self.channels) or CaseForm().channels
        return CaseForm(2 if self.unit == "image" else 3, names, labels_of(self.label_map))

    def cases(self, form: CaseForm) -> tuple[CaseRef, ...]:
        self._refuse_form(form)
        self.__dict__.pop("_index", None)  # look again: files may have come since
        return tuple(found.ref for found in self._index[0].values())

    @property
    def passed_over(self) -> Mapping[str, int]:
        return self._index[1]

    def load(self, ref: CaseRef, form: CaseForm) -> Case:
        self._refuse_form(form)
        found = self._files(ref)
        if found.fault is not None:
            raise found.fault.with_traceback(None)
        if self.unit == "image" and len(found.files) > 1:
            said = f"{' and '.join(found.files[:4])} are one image"
            raise CaseError("FR-D07", said, case=ref.name, wanted="one file an image", do="take the copies away")
        headers = [header for name in found.files if (header := self._header(name, ref)) is not None]
        series = into_series(headers, Path(self.root))
        chosen = choose(series, self.channels, form.channels, self.match, ref.name)
        planes = [entry.planes[0] for entry in chosen]
        if form.dims == 2 and all(len(entry.planes) == 1 for entry in chosen):
            image = read_flat(planes, len(form.channels), ref.name, self._grids)
            return Case(ref, image, self._picture_mask(found, planes[0], form), plane_affine(planes[0]))
        volume = read_stacks(chosen, len(form.channels), ref.name, self._grids)
        target = self._volume_mask(found, volume, form)
        if form.dims == 3:
            return Case(ref, volume.image, None if target is None else Target(target), volume.affine)
        slices = np.ascontiguousarray(volume.image.transpose(0, 3, 2, 1))
        masks = None if target is None else Target(np.ascontiguousarray(target.transpose(2, 1, 0)))
        return Case(ref, slices, masks, volume.affine[:, [2, 1, 0, 3]])

    def placed(self, array: Onto, case: Case, form: CaseForm) -> tuple[Onto, F64] | None:
        """What lies on the case's grid, in the axes of its series: how a prediction is written.

        Args:
            array: (*grid), or (K, *grid).

        Returns:
            The array with columns, rows and planes as its last axes (one plane of a single picture, 1 mm
            thick), and their affine to RAS mm. None: a picture that does not say where it lies.
        """
        if form.dims == 3:
            return array, case.affine
        if len(case.grid) == 3:
            return np.swapaxes(array, -3, -1), case.affine[:, [2, 1, 0, 3]]
        first = self._header(self._files(case.ref).files[0], case.ref)
        if first is None or first.place is None:
            return None
        return np.swapaxes(array, -2, -1)[..., None], case.affine[:, [1, 0, 2, 3]]

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        found = self._files(ref)
        return listing.stamp([Path(self.root) / name for name in (*found.files, *found.labels)])

    @cached_property
    def _index(self) -> tuple[dict[str, Found], dict[str, int]]:
        if rules := self._broken_rules():  # made in Python, where nobody has checked its table
            raise DataError("FR-D03", "; ".join(f"{reads[0]}: {message}" for reads, message in rules))
        root = Path(self.root)
        names = [name for name, path in listing.walk(root) if path.is_symlink() or not path.is_dir()]
        finder = Finder(
            root=root,
            pattern=re.compile(self.pattern) if self.pattern else None,
            labels=re.compile(self.labels) if self.labels else None,
            unit=self.unit,
            key=read_key(self.key_file),
            follow_links=self.follow_links,
        )
        found = finder.find(names)
        if not any(entry.files for entry in found.values()):
            raise self._nothing(names, found, finder.passed_over)
        return found, dict(sorted(finder.passed_over.items()))

    def _nothing(self, names: list[str], found: Mapping[str, Found], passed_over: Mapping[str, int]) -> DataError:
        faults = [str(entry.fault) for entry in found.values() if entry.fault is not None][:1]
        why = [f"{count} {why}" for why, count in sorted(passed_over.items())] + faults
        return DataError(
            "FR-D02",
            f"none of {len(names)} files is of a case ({'; '.join(why) or 'the folder is empty'})",
            wanted="DICOM images" + (f" in whose path {self.pattern} is found" if self.pattern else ""),
            do="correct `root` or `pattern` in the reader's table",
            where=str(self.root),
        )

    def _files(self, ref: CaseRef) -> Found:
        found = self._index[0].get(ref.name)
        if found is None:
            raise CaseError(
                "FR-D18",
                f"no case named {ref.name}",
                case=ref.name,
                wanted=f"one of the {len(self._index[0])} of this folder",
                do="list the cases again: files may have gone",
                where=str(self.root),
            )
        return found

    @property
    def _grids(self) -> Gridding:
        return Gridding(self.resample, self.tolerance_mm, self.same_frame, self.follow_links)

    def _header(self, name: str, ref: CaseRef) -> Header | None:
        return read_header(Path(self.root) / name, ref.name, follow_links=self.follow_links)

    def _refuse_form(self, form: CaseForm) -> None:
        found = wanted = ""
        if missing := [name for name in form.channels if self.channels and name not in self.channels]:
            found, wanted = f"channel {', '.join(missing)}", f"only {', '.join(self.channels)}, as `channels` names"
        elif not self.channels and len(form.channels) not in ((1, 3) if form.dims == 2 else (1,)):
            found, wanted = f"{len(form.channels)} channels", "a series named for each in `channels`"
        elif self.unit == "image" and form.dims != 2:
            found, wanted = f"dims = {form.dims}", 'dims = 2 for unit = "image"'
        if found:
            do = "change the reader's table or [cases]"
            raise DataError("FR-D33", f"dicom_series cannot fill [cases] with {found}", wanted=wanted, do=do)
        study_values(self.label_map, form)

    def _mask_file(self, found: Found) -> Path | None:
        """The case's only mask."""
        if len(found.labels) > 1:
            said = f"{len(found.labels)} masks for one case: {', '.join(found.labels)}"
            do = "take the others away, or make `labels` narrower"
            raise CaseError("FR-D07", said, case=found.ref.name, wanted="one", do=do)
        if not found.labels and self.labels and self.labels_required:
            raise CaseError(
                "FR-D04",
                "an image without a mask",
                case=found.ref.name,
                wanted=f"a file in whose path {self.labels} is found, near the case's files",
                do="add the mask, or set labels_required = false to predict",
                where=str(Path(self.root) / found.files[0]),
            )
        return Path(self.root) / found.labels[0] if found.labels else None

    def _volume_mask(self, found: Found, volume: Volume, form: CaseForm) -> U8 | None:
        file = self._mask_file(found)
        return (
            None
            if file is None
            else read_mask(file, volume, study_values(self.label_map, form), found.ref.name, self._grids)
        )

    def _picture_mask(self, found: Found, plane: Header, form: CaseForm) -> Target | None:
        file = self._mask_file(found)
        if file is None:
            return None
        case = found.ref.name
        if file.suffix.lower() not in SUFFIXES:
            wanted = "a picture (PNG, TIFF), whose rows and columns are the image's"
            raise CaseError("FR-D12", "is no mask for a single plane", case=case, wanted=wanted, where=str(file))
        grey = grey_of(read_pixels(file, case, mask=True, follow_links=self.follow_links))
        if grey is None or grey.shape[:2] != (plane.rows, plane.columns):
            said = "a mask in colour" if grey is None else f"{grey.shape[1]} x {grey.shape[0]} pixels"
            wanted = f"one value a pixel, {plane.columns} x {plane.rows} of them"
            raise CaseError("FR-D32" if grey is None else "FR-D08", said, case=case, wanted=wanted, where=str(file))
        return Target(map_labels(grey[..., 0], study_values(self.label_map, form), case, str(file)))
