"""A hospital's cases, each read and prepared once: kept while a run lasts, or from run to run in a folder of its own.

A case is found again by a digest of all that makes it: its files (names, sizes, times), the reader's table and source,
the study's `[cases]`, and the version of the arithmetic. What changes one of them is made anew, beside the old one.
"""

from __future__ import annotations

import hashlib
import inspect
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

from fedrounds_common.case import Case, CaseRef
from fedrounds_common.errors import CaseError, FedroundsError, MachineError, to_keep
from fedrounds_common.study.study import Study
from fedrounds_sites.cache import CaseStore, case_key, stored_bytes
from fedrounds_sites.prepare import prepare, refuse_blank
from fedrounds_sites.reader import Reader, load_case
from fedrounds_sites.simulation import Simulation

MB = 10**6


@final
@dataclass(frozen=True)
class Keeper:
    """Of the hospital `site`, whose folder in a run is `folder`."""

    site: str
    folder: Path
    reader: Reader
    simulation: Simulation
    study: Study

    def acquired(self, ref: CaseRef) -> Case:
        """The case as acquired, before `prepare`."""
        return acquired(ref, self.reader, self.simulation, self.study, self.site)

    def open_all(self, refs: Sequence[CaseRef]) -> tuple[dict[CaseRef, Case], dict[str, CaseError]]:
        """Every usable case, prepared; and those that are not, by name.

        Raises:
            MachineError: FR-E60 the disk has no room for those that are still to be made.
        """
        usable: dict[CaseRef, Case] = {}
        left_out: dict[str, CaseError] = {}
        self.store.sweep()
        to_make = True  # until one was made nobody knows how large they are
        for index, ref in enumerate(refs):
            try:
                case, made = self._found_or_made(ref)
            except CaseError as error:
                left_out[ref.name] = to_keep(error)
                continue
            usable[ref] = case
            if made and to_make:
                require_room(self.store.folder, stored_bytes(case) * self.missing(refs[index + 1 :]))
                to_make = False
        return usable, left_out

    def would_take(self, refs: Sequence[CaseRef], cases: int) -> int:
        """Bytes that so many cases take on disk, told by the first of these that can be prepared; 0: none can.

        That one is made, and kept.
        """
        for ref in refs:
            try:
                return stored_bytes(self._found_or_made(ref)[0]) * cases
            except FedroundsError:  # whatever it is, it is told when the hospital opens its cases
                continue
        return 0

    def missing(self, refs: Sequence[CaseRef]) -> int:
        """How many of these are not kept yet."""
        return sum(not self._is_kept(ref) for ref in refs) if self.store.folder.is_dir() else len(refs)

    @property
    def store(self) -> CaseStore:
        lasting = self.simulation.cache
        return CaseStore(self.folder / "cache" if lasting is None else lasting)

    def _is_kept(self, ref: CaseRef) -> bool:
        try:
            return self.store.get(self._key(ref)) is not None
        except CaseError:  # its turn comes, and it is then left out by name
            return False

    def _found_or_made(self, ref: CaseRef) -> tuple[Case, bool]:
        """The case, and whether it had to be made."""
        store, key = self.store, self._key(ref)
        # a run's own files are this run's work; of older ones nobody knows what happened to the disk since
        found = store.get(key, checked=self.simulation.cache is not None)
        if found is not None:
            return found, False
        form = self.study.cases
        store.put(key, prepare(refuse_blank(self.acquired(ref), form), form))
        case = store.get(key)
        assert case is not None  # just put there
        return case, True

    def _key(self, ref: CaseRef) -> str:
        form, unlike = self.study.cases, self.simulation.unlike
        # how a hospital's images are made unlike others' depends on who it is
        who = None if unlike is None else (unlike, self.site, self.study.seed)
        stamp = self.reader.stamp(ref, form)
        # a reader that cannot tell when files change: what it read holds for one run
        run = str(self.folder) if self.simulation.cache is not None and not stamp else ""
        return case_key(self.simulation.reader, source_digest(type(self.reader)), stamp, ref, form, who, run)


def acquired(ref: CaseRef, reader: Reader, simulation: Simulation, study: Study, site: str) -> Case:
    """A case as this hospital acquired it: as read, and changed where the rehearsal makes hospitals unlike."""
    case = load_case(reader, ref, study.cases)
    return case if simulation.unlike is None else simulation.unlike.apply(case, site, study.seed)


def require_room(folder: Path, needed: int) -> None:
    """Raises MachineError FR-E60: the disk that `folder` lies on has less left."""
    free = free_bytes(folder)
    if needed > free:
        raise MachineError(
            "FR-E60", f"prepared cases would take {needed // MB:,} MB more, and {free // MB:,} MB are free",
            wanted="room for all of them", do="free some, or keep them on another disk ([simulation] cache, or [machine] cache)",
            where=str(folder),
        )  # fmt: skip


def free_bytes(folder: Path) -> int:
    """What is left of the disk that a folder lies on, or will."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    return there


@lru_cache(maxsize=64)
def source_digest(kind: type) -> str:
    """SHA-256 of the file that a class is written in; "" where there is none (a class of a notebook)."""
    try:
        file = inspect.getsourcefile(kind)
        return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""
