"""Whether cases that should be new to a model were among those it was trained on.

Only a run's own folder can tell, and only in a simulation, where the hospitals' lists of cases lie in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from fedrounds.origin import is_real
from fedrounds_client.output import files_of
from fedrounds_client.outside import Folder
from fedrounds_common.case import CaseRef
from fedrounds_common.errors import FedroundsError
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import CaseForm
from fedrounds_server.manifest import sha256_of
from fedrounds_sites.hospitals import Hospital, open_hospital, read_rehearsal
from fedrounds_sites.reader import Reader
from fedrounds_sites.splits import VALIDATION, read_split


@final
@dataclass(frozen=True)
class Seen:
    """Cases of the folder whose patient trained the model by name (`patients`), or whose file did (`files`).

    `files_compared`: the run's own files are still where they were, so that the second could be told.
    `at_hospitals`: neither can be told, for no list of the run's cases is here.
    """

    patients: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    files_compared: bool = True
    at_hospitals: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        found = []
        if self.at_hospitals:
            found.append("the model was trained at hospitals: whether on these cases too cannot be told here")
        if self.files:
            found.append(f"not unseen: {_some(self.files)}: the very files the model was trained on")
        if self.patients:
            found.append(
                f"not unseen, unless names coincide: {_some(self.patients)}: patients so named trained the model"
            )
        if not self.files_compared:
            found.append(
                "the files that the run was trained on are not here any more: patients' names were compared only"
            )
        return tuple(found)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more} ({len(names)} case{'s' if len(names) != 1 else ''})"


def seen_by(run: Path, study: Study, folder: Folder) -> Seen:
    """Compare a folder's cases with the run's training cases, by patients' names and by their files' bytes."""
    if is_real(run):
        return Seen(at_hospitals=True)
    rehearsal = read_rehearsal(run / "rehearsal.json")
    hospitals = [open_hospital(run, name) for name, role in rehearsal.sites.items() if role == "train"]
    trained = [(hospital, ref) for hospital in hospitals for ref in _training(hospital, study)]
    named = {ref.patient for _, ref in trained}
    ours = {ref: _files(folder.reader, ref, study.cases) for ref in folder.refs}
    if not any(ours.values()):  # cases that are made, not read: equal names mean one case if their makers are equal
        same_maker = any(hospital.reader == folder.reader for hospital in hospitals)
        return Seen(files=tuple(ref.name for ref in ours if same_maker and ref.patient in named))
    theirs = [_files(hospital.reader, ref, study.cases) for hospital, ref in trained]
    known = _Bytes([file for files in theirs for file in files])
    same = {ref.name for ref, files in ours.items() if any(known.hold(file) for file in files)}
    alike = tuple(ref.name for ref in ours if ref.patient in named and ref.name not in same)
    return Seen(alike, tuple(sorted(same)), all(theirs))


def _training(hospital: Hospital, study: Study) -> list[CaseRef]:
    rule = study.evaluation
    parts = read_split(hospital.folder / "splits.json", hospital.name) or {}
    kept = {VALIDATION, f"{rule.fold}/{rule.folds}"}
    return [ref for ref in hospital.refs if parts.get(ref.patient, VALIDATION) not in kept]


def _files(reader: Reader, ref: CaseRef, form: CaseForm) -> tuple[Path, ...]:
    """The files of a case that are there to be read; none where the reader names none."""
    try:
        return tuple(file for file in files_of(reader, ref, form) if file.is_file())
    except FedroundsError:  # the folder has gone, or a file of it
        return ()


@final
class _Bytes:
    """Files by what is in them. Only files of one size are read: most need not be."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._by_size: dict[int, list[Path]] = defaultdict(list)
        for file in files:
            self._by_size[file.stat().st_size].append(file)
        self._digests: dict[int, set[str]] = {}

    def hold(self, file: Path) -> bool:
        size = file.stat().st_size
        if size not in self._by_size:
            return False
        if size not in self._digests:
            self._digests[size] = {sha256_of(other) for other in self._by_size[size]}
        return sha256_of(file) in self._digests[size]
