r"""A folder for each class, with an image a case in it; or a tar archive of such folders, read as it is."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal, final

from pydantic import ConfigDict, Field, model_validator

from fedrounds_common.case import Case, CaseRef
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import STRICT, RulesBroken
from fedrounds_common.study.tables import CaseForm, Name, Rule
from fedrounds_sites import listing
from fedrounds_sites.archive import is_archive, members
from fedrounds_sites.classes import class_target, set_apart, unknown_class
from fedrounds_sites.images import PICTURES, Reading, is_image, picture, read_image
from fedrounds_sites.listing import plain
from fedrounds_sites.pictures import pixels_of
from fedrounds_sites.reader import Reader


@final
@dataclass(frozen=True)
class Found:
    """One case: its file below the root, and the name of its class's folder."""

    file: str
    ref: CaseRef
    folder: str


@final
@dataclass(frozen=True)
class ClassFolders(Reader):
    r"""PNG, TIFF and JPEG pictures, NIfTI volumes or DICOM stills, whose folder says what they show.

    Args:
        root: the folder, or a .tar, .tar.gz, .tar.bz2, .tar.xz of pictures: it is read into memory, never unpacked.
        pattern: a regular expression matched whole against a file's path below `root`, with the group `class`, and
            `patient`, `site` and `part` as there are: what is split is the patient, or each image where none is told.
        class_map: folder → the study's class, where they are called otherwise.
        leave: classes' folders that are passed over. Any other that the study does not know is an error.
        apart: what the pattern's group `part` says of images that the data's makers set apart: a site of that name,
            for the study to hold out. Images of other parts are dealt out together.
        test_share: of each class's patients, a site `test` for the study to hold out; always the same ones,
            chosen by a hash of their names.
        grey_from_rgb: what becomes of colour in a study of one channel, unless its colours are equal.
        spacing_mm: between rows and between columns of a picture (else 1).
        follow_links: True reads through symbolic links to files.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    root: Path
    pattern: str = r"(?:.*/)?(?P<class>[^/]+)/[^/]+"
    class_map: dict[str, str] = field(default_factory=dict)
    leave: tuple[str, ...] = ()
    apart: tuple[Name, ...] = ("test",)
    test_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    grey_from_rgb: Literal["refuse", "luminance"] = "refuse"
    spacing_mm: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=2)] = ()
    follow_links: bool = False

    @model_validator(mode="after")
    def _sound(self) -> ClassFolders:
        if rules := self._broken_rules():
            raise RulesBroken(rules)
        return self

    def _broken_rules(self) -> list[Rule]:
        try:
            if "class" not in re.compile(self.pattern).groupindex:
                return [(("pattern",), "has no group (?P<class>...)")]
        except re.error as error:
            return [(("pattern",), f"no regular expression: {error}")]
        return []

    @property
    def split_by(self) -> Literal["patient", "image"]:
        return "patient" if "(?P<patient>" in self.pattern else "image"

    @property
    def own_form(self) -> CaseForm:
        return CaseForm(dims=2)

    @property
    def set_apart(self) -> frozenset[str]:
        told = self.apart if "(?P<part>" in self.pattern else ()
        return frozenset((*told, *(("test",) if self.test_share else ())))

    @property
    def passed_over(self) -> Mapping[str, int]:
        return listing.counted(self._listed[1])

    @property
    def passed_over_names(self) -> Mapping[str, tuple[str, ...]]:
        return listing.named(self._listed[1])

    def cases(self, form: CaseForm) -> tuple[CaseRef, ...]:
        self.__dict__.pop("_listed", None)  # the folder may have grown since it was listed
        for found in self._listed[0].values():
            if form.classes and self._class(found) not in form.classes:
                do = "name its class in class_map, list it in leave, or add it to [cases] classes"
                raise unknown_class(self._class(found), form, do, f"{self.root}/{found.file}")
        return tuple(sorted(found.ref for found in self._listed[0].values()))

    def load(self, ref: CaseRef, form: CaseForm) -> Case:
        found = self._found(ref)
        how = Reading(self.grey_from_rgb, self.spacing_mm, self.follow_links)
        if is_archive(Path(self.root)):
            case = self._from_archive(found.file, ref, form, how)
        else:
            case = read_image(Path(self.root) / found.file, ref, form, how)
        if not form.classes:
            return case
        return case.with_image(case.image, class_target([form.classes.index(self._class(found))], form))

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        root = Path(self.root)
        return listing.stamp([root]) if is_archive(root) else listing.stamp([root / self._found(ref).file])

    def _class(self, found: Found) -> str:
        return self.class_map.get(found.folder, found.folder)

    def _found(self, ref: CaseRef) -> Found:
        found = self._listed[0].get(ref.name)
        if found is None:
            raise CaseError(
                "FR-D18",
                f"no case named {ref.name}",
                case=ref.name,
                wanted=f"one of the {len(self._listed[0])} of this folder",
                do="list the cases again: files may have gone",
                where=str(self.root),
            )
        return found

    def _from_archive(self, file: str, ref: CaseRef, form: CaseForm, how: Reading) -> Case:
        where = f"{self.root}/{file}"
        if not file.lower().endswith(PICTURES):
            do = f"unpack the archive (tar -xf {Path(self.root).name}), and name the folder"
            raise CaseError("FR-D45", "a volume in an archive", case=ref.name, wanted="pictures", do=do, where=where)
        return picture(pixels_of(io.BytesIO(members(Path(self.root))[file]), ref.name, where), ref, form, how, where)

    @cached_property
    def _listed(self) -> tuple[dict[str, Found], tuple[str, ...]]:
        """By name of the case; and the files that belong to no case."""
        if rules := self._broken_rules():  # made in Python, where nobody has checked its table
            raise DataError("FR-D03", "; ".join(message for _, message in rules))
        pattern = re.compile(self.pattern)
        listed: dict[str, Found] = {}
        others: list[str] = []
        for file in self._files():
            match = pattern.fullmatch(file)
            if match is None or not is_image(file) or match["class"] in self.leave:
                others.append(file)
                continue
            found = Found(file, self._ref(file, match.groupdict()), match["class"])
            if found.ref.name in listed:
                said = f"{listed[found.ref.name].file} and {file} would be one case"
                raise DataError("FR-D07", said, wanted="a name each", do="rename one", where=str(self.root))
            listed[found.ref.name] = found
        if not listed:
            example = f", e.g. {others[0]}" if others else ""
            said = f"none of {len(others)} files is an image in a class's folder{example}"
            raise DataError("FR-D02", said, wanted=self.pattern, do="check root and pattern", where=str(self.root))
        return self._with_test(listed), tuple(others)

    def _files(self) -> list[str]:
        root = Path(self.root)
        if is_archive(root):
            return sorted(members(root))
        return [name for name, path in listing.walk(root) if path.is_symlink() or not path.is_dir()]

    def _ref(self, file: str, groups: Mapping[str, str | None]) -> CaseRef:
        path = PurePosixPath(file)
        stem = path.name[:-3] if path.name.lower().endswith(".nii.gz") else path.name
        name = "_".join(map(plain, (*path.parent.parts, PurePosixPath(stem).stem)))
        site, patient, part = groups.get("site"), groups.get("patient"), groups.get("part")
        lead = f"{plain(site)}_" if site else ""
        place = part if part in self.apart else plain(site) if site else None
        return CaseRef(name, lead + plain(patient) if patient else name, place)

    def _with_test(self, listed: dict[str, Found]) -> dict[str, Found]:
        if not self.test_share:
            return listed
        # a patient with images of two classes counts in the first: all of them go one way
        home: dict[str, str] = {}
        for found in listed.values():
            home.setdefault(found.ref.patient, found.folder)
        by_class: dict[str, list[str]] = {}
        for patient, folder in home.items():
            by_class.setdefault(folder, []).append(patient)
        apart = set_apart(self.test_share, by_class, "class_folders")
        return {
            name: replace(found, ref=replace(found.ref, site="test")) if found.ref.patient in apart else found
            for name, found in listed.items()
        }
