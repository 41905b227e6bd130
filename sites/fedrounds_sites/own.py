"""The hospital of a real site: its own reader's cases, in the role the study gives it, without who withdrew.

Which cases a run uses is written down when the run begins: a round asked twice, today and tomorrow,
must find the same ones, although new images came meanwhile. Patients who withdraw are left out at once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import final

from fedrounds_common.case import CaseRef
from fedrounds_common.disk import write_json
from fedrounds_common.errors import DataError
from fedrounds_common.study.canonical import digest
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import Table
from fedrounds_sites.cache import case_key
from fedrounds_sites.hospitals import Hospital, Role
from fedrounds_sites.reader import Reader
from fedrounds_sites.simulation import READERS, Simulation

FORMAT = 1


@final
@dataclass(frozen=True)
class Own:
    """Where a site's cases come from: its name, its reader's table, and which of the reader's groups it is ("": all).

    `cache`: the folder that keeps prepared cases from run to run; None: they go with the run.
    """

    name: str
    data: Table
    only: str = ""
    plugins: tuple[Path, ...] = ()
    cache: Path | None = None

    def reader(self) -> Reader:
        return READERS.load(self.data, self.plugins)

    def cases(self, study: Study) -> tuple[CaseRef, ...]:
        """Every case the reader finds for this site.

        Raises:
            DataError: the folder cannot be used, or no case in it is of the group `only`.
        """
        reader = self.reader()
        return self.of_group(reader.cases(study.cases), reader.set_apart)

    def of_group(self, found: Sequence[CaseRef], apart: Collection[str] = ()) -> tuple[CaseRef, ...]:
        """Those of the group `only`, sorted; without it all but those set apart. Raises DataError FR-H08: none is."""
        mine = tuple(sorted(ref for ref in found if (ref.site == self.only if self.only else ref.site not in apart)))
        if not mine:
            groups = sorted({ref.site for ref in found if ref.site})
            raise DataError(
                "FR-H08", f"none of {len(found)} cases is of the group {self.only!r}",
                wanted=f"one of {', '.join(groups[:12]) or 'none: this reader makes no groups'}",
                do="correct data.only in site.toml",
            )  # fmt: skip
        return mine


@final
@dataclass(frozen=True)
class OwnHospital:
    """The hospital, and how many of its cases are left out because their patients withdrew."""

    hospital: Hospital
    withdrawn: int


def open_own(own: Own, study: Study, folder: Path, withdrawn: Collection[str] = ()) -> OwnHospital:
    """The hospital as one run sees it; `folder` is that run's at this site.

    Args:
        withdrawn: patients, by the reader's pseudonym, whose cases are not opened.

    Raises:
        DataError: the data cannot be listed.
    """
    reader = own.reader()
    asked = case_key(own.name, own.data, own.only, digest(study))
    refs = _listed(own, reader, study, folder / "cases.json", asked)
    gone = called(refs, withdrawn)
    kept = tuple(ref for ref in refs if ref.patient not in gone)
    wanted = _Wanted(own.name, folder, kept, asked, own.cache, reader, own.data, study)
    return OwnHospital(_hospital(wanted), len(refs) - len(kept))


def called(refs: Collection[CaseRef], names: Collection[str]) -> frozenset[str]:
    """The patients among these that somebody means by these names: as the reader calls them, or without the group
    that readers put before (`p1` for `a_p1`): a patient left out too many harms nobody, one too few does."""
    wanted = frozenset(names)
    return frozenset(
        ref.patient
        for ref in refs
        if ref.patient in wanted or (ref.site and ref.patient.removeprefix(f"{ref.site}_") in wanted)
    )


def _listed(own: Own, reader: Reader, study: Study, file: Path, asked: str) -> tuple[CaseRef, ...]:
    """The cases written down when the run began; listed anew where site.toml has changed since."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["format"] == FORMAT and kept["asked"] == asked:
            return tuple(CaseRef(**entry) for entry in kept["cases"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or not whole: both mean to look
    refs = own.of_group(reader.cases(study.cases), reader.set_apart)
    write_json(file, {"format": FORMAT, "asked": asked, "cases": [asdict(ref) for ref in refs]})
    return refs


@final
@dataclass(frozen=True)
class _Wanted:
    """What makes one opened hospital another one; the rest follows from it."""

    name: str
    folder: Path
    refs: tuple[CaseRef, ...]
    asked: str
    cache: Path | None
    reader: Reader = field(compare=False)
    data: Table = field(compare=False)
    study: Study = field(compare=False)


@lru_cache(maxsize=2)
def _hospital(wanted: _Wanted) -> Hospital:
    role: Role = "held-out" if wanted.name in wanted.study.cohort.held_out else "train"
    rehearsed = Simulation(reader=wanted.data, cache=wanted.cache)
    return Hospital(wanted.name, role, wanted.folder, wanted.refs, wanted.reader, rehearsed, wanted.study)
