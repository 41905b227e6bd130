"""Which files of a folder are of which case: by their paths, or by what the files say of themselves."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, final

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import CaseError
from fedrounds_sites.dicom.identity import Identity, read_identity
from fedrounds_sites.listing import plain
from fedrounds_sites.pictures import SUFFIXES

Unit = Literal["study", "image"]
# what commonly lies beside DICOM files; everything else is opened to see
NOT_DICOM = frozenset(
    (".nii", ".gz", ".zip", ".json", ".txt", ".csv", ".tsv", ".xml", ".html", ".md", ".pdf", ".png", ".jpg", ".tif")
)
MASKS = (".nii", ".nii.gz", *SUFFIXES)
TOLD_BY_PATH = {"case", "patient"}  # with both groups in the pattern no file is opened to list the cases


@final
@dataclass
class Found:
    """The files of one case, paths from the root; `fault` is raised when it is loaded."""

    ref: CaseRef
    files: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    fault: CaseError | None = None


@final
@dataclass
class Finder:
    """Goes once through the names of a folder; the settings are `DicomSeries`'s fields of these names.

    After `find`, `passed_over` says how many files were left aside, and why.
    """

    root: Path
    pattern: re.Pattern[str] | None
    labels: re.Pattern[str] | None
    unit: Unit
    key: bytes
    follow_links: bool
    passed_over: Counter[str] = field(default_factory=Counter)
    _found: dict[str, Found] = field(default_factory=dict)

    def find(self, names: Sequence[str]) -> dict[str, Found]:
        """Case name → its files, in order of names. What belongs to no case becomes one with a fault."""
        masks = [name for name in names if self.labels and name.lower().endswith(MASKS) and self.labels.search(name)]
        broken: dict[str, CaseError] = {}
        for name in sorted(set(names) - set(masks)):
            try:
                self._take(name)
            except CaseError as error:
                broken[name] = error
        for name, fault in broken.items():
            self._blame(name, fault)
        near = self._alike() if self.unit == "image" else self._below()
        for name in masks:
            self._give(name, self._owner(name, near))
        return dict(sorted(self._found.items()))

    def _take(self, name: str) -> None:
        """Add a file to its case.

        Raises:
            CaseError: FR-D50 damaged, FR-D53 it does not say whose it is.
        """
        groups = self._groups(name)
        if groups is None or PurePosixPath(name).suffix.lower() in NOT_DICOM:
            self.passed_over["outside the pattern" if groups is None else "no DICOM"] += 1
            return
        identity = Identity("", "", "")
        if not groups.keys() >= TOLD_BY_PATH:
            told = read_identity(self.root / name, self.key, follow_links=self.follow_links)
            if told is None:
                self.passed_over["no DICOM image"] += 1
                return
            identity = told
        ref = self._ref(groups, identity)
        found = self._found.setdefault(ref.name, Found(ref))
        found.files.append(name)
        if found.ref != ref and found.fault is None:
            said = "holds files of two patients"
            do = "give the pattern a group patient, or sort the files"
            found.fault = CaseError("FR-D53", said, case=ref.name, wanted="one patient a case", do=do)

    def _groups(self, name: str) -> dict[str, str] | None:
        if self.pattern is None:
            return {}
        match = self.pattern.search(name)
        return None if match is None else {group: text for group, text in match.groupdict().items() if text}

    def _ref(self, groups: Mapping[str, str], identity: Identity) -> CaseRef:
        visit = plain(groups["case"]) if "case" in groups else self._own(identity)
        person = plain(groups["patient"]) if "patient" in groups else identity.patient
        if not visit or not person:
            raise CaseError(
                "FR-D53",
                "the file does not say which " + ("patient it is of" if not person else f"{self.unit} it is of"),
                wanted="PatientID, StudyInstanceUID and SOPInstanceUID, or folders that tell",
                do="give `pattern` the groups patient and case",
            )
        site = plain(groups["site"]) if "site" in groups else None
        lead = f"{site}_" if site else ""
        # visits are often numbered anew for each patient, so a case is named after both
        own = visit if "case" in groups and "patient" not in groups else f"{person}_{visit}"
        return CaseRef(lead + own, lead + person, site)

    def _own(self, identity: Identity) -> str:
        return identity.image if self.unit == "image" else identity.study

    def _blame(self, name: str, error: CaseError) -> None:
        """Put a file that cannot be read to the case of its folder, or else make it a case of its own."""
        folder = PurePosixPath(name).parent
        there = {
            case
            for case, found in self._found.items()
            if any(PurePosixPath(file).parent == folder for file in found.files)
        }
        if len(there) == 1 and self.unit == "study":
            found = self._found[there.pop()]
        else:
            called = plain("unreadable_" + (name if self.unit == "image" else str(folder)).replace("/", "_"))
            found = self._found.setdefault(called, Found(CaseRef(called, called)))
        if found.fault is None:
            parts = {"wanted": error.wanted, "do": error.do, "where": error.where or str(self.root / name)}
            found.fault = CaseError(error.code, error.found, case=found.ref.name, **parts)

    def _below(self) -> dict[str, set[str]]:
        """Folder → the cases with a file in it, however deep; "." is the root."""
        below: dict[str, set[str]] = defaultdict(set)
        for case, found in self._found.items():
            for file in found.files:
                for folder in _folders_above(file):
                    below[folder].add(case)
        return below

    def _alike(self) -> dict[str, set[str]]:
        """Path without suffix → the cases with such a file."""
        alike: dict[str, set[str]] = defaultdict(set)
        for case, found in self._found.items():
            for file in found.files:
                alike[str(PurePosixPath(file).with_suffix(""))].add(case)
        return alike

    def _owner(self, mask: str, near: Mapping[str, set[str]]) -> Found | None:
        """The case that the mask's path tells, or whose image its name begins with, or that alone is nearest."""
        groups = self._groups(mask) or {}
        if groups.keys() >= TOLD_BY_PATH:
            return self._found.get(self._ref(groups, Identity("", "", "")).name)
        steps = (mask[:end] for end in range(len(mask), 0, -1)) if self.unit == "image" else _folders_above(mask)
        cases = next((near[step] for step in steps if near.get(step)), set())
        return self._found[min(cases)] if len(cases) == 1 else None

    def _give(self, mask: str, owner: Found | None) -> None:
        if owner is not None:
            owner.labels.append(mask)
            return
        called = plain(mask.replace("/", "_"))
        fault = CaseError(
            "FR-D05",
            "a mask of which no image can be told",
            case=called,
            wanted="a case alone in the folder that the mask lies in or near",
            do="give `pattern` the groups patient and case, or take the mask away",
            where=str(self.root / mask),
        )
        self._found[called] = Found(CaseRef(called, called), fault=fault)


def _folders_above(file: str) -> Iterator[str]:
    """The file's folder, the one above it, and so on to the root, which is "."."""
    for folder in PurePosixPath(file).parents:
        yield str(folder)
