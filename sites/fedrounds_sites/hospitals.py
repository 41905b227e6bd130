"""Hospitals of a simulation: who holds which cases, and one hospital's cases opened, prepared and split.

A run's `rehearsal.json` names the hospitals and how their files are read; which cases a hospital
holds stands in that hospital's own folder, `sites/<site>/cases.json`, and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, final

from fedrounds_common.case import Case, CaseRef
from fedrounds_common.disk import add_text, write_json
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.rng import share
from fedrounds_common.spans import timed
from fedrounds_common.study.canonical import study_from_canonical
from fedrounds_common.study.study import Study
from fedrounds_sites.cache import CaseStore
from fedrounds_sites.keeping import Keeper
from fedrounds_sites.listing import passed_over_lines
from fedrounds_sites.reader import Reader, load_case
from fedrounds_sites.simulation import Simulation, read_simulation
from fedrounds_sites.splits import Split, parts, read_split, some, split, write_split
from fedrounds_sites.targets import stratum_of

Role = Literal["train", "held-out"]
FORMAT = 1


@final
@dataclass(frozen=True)
class Opened:
    """A hospital's usable cases, prepared; `left_out` names each bad one with its error."""

    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    held_out: tuple[Case, ...]
    left_out: Mapping[str, CaseError]


@final
@dataclass(frozen=True)
class Hospital:
    name: str
    role: Role
    folder: Path
    refs: tuple[CaseRef, ...]
    reader: Reader
    simulation: Simulation
    study: Study
    _opened: dict[str, Opened] = field(default_factory=dict, compare=False)

    @property
    def pictures(self) -> int:
        return self.simulation.pictures

    @timed("data")
    def open_all(self) -> Opened:
        """Every case, read once a process and prepared once; a store keeps them.

        Raises:
            MachineError: FR-E60 the disk has not the room for them.
        """
        if "all" not in self._opened:
            self._opened["all"] = self._open()
        return self._opened["all"]

    def cohort(self, name: str) -> tuple[Case, ...]:
        """The cases of "train", "local-val" or "held-out", cut to the study's `cases_per_site`."""
        opened = self.open_all()
        cases = {"train": opened.training, "local-val": opened.validation, "held-out": opened.held_out}[name]
        by_ref = {case.ref: case for case in cases}
        kept = some(list(by_ref), self.study.evaluation.cases_per_site, self.name, self.study.seed)
        return tuple(by_ref[ref] for ref in kept)

    def original(self, name: str) -> Case:
        """The case as acquired, before `prepare`."""
        ref = next((ref for ref in self.refs if ref.name == name), None)
        if ref is None:
            raise DataError("FR-H02", f"{self.name} holds no case of that name")
        return self._keeper.acquired(ref)

    def would_take(self, cases: int) -> int:
        """Bytes on disk of so many prepared cases like the first here; that one is made. 0: none can be."""
        return self._keeper.would_take(self.refs, cases)

    def missing(self) -> int:
        """How many of its cases are not kept yet, prepared as this study wants them."""
        return self._keeper.missing(self.refs)

    @property
    def store(self) -> CaseStore:
        """Where this hospital's prepared cases are kept."""
        return self._keeper.store

    @property
    def _keeper(self) -> Keeper:
        return Keeper(self.name, self.folder, self.reader, self.simulation, self.study)

    def _open(self) -> Opened:
        usable, left_out = self._keeper.open_all(self.refs)
        _log_left_out(self.folder / "log", left_out)
        log_passed_over(self.folder / "log", self.reader)
        if self.role == "held-out":
            return Opened((), (), tuple(usable.values()), left_out)
        both = self._split(usable)
        return Opened(tuple(usable[r] for r in both.train), tuple(usable[r] for r in both.validation), (), left_out)

    def _split(self, usable: Mapping[CaseRef, Case]) -> Split:
        rule, file = self.study.evaluation, self.folder / "splits.json"
        folds = rule.folds if rule.by == "patient" else 0
        strata = {ref.patient: stratum_of(case.target) for ref, case in usable.items()} if folds else None
        kept = parts(
            usable, self.name, self.study.seed, rule.local_validation,
            folds=folds, strata=strata, written=read_split(file, self.name),
        )  # fmt: skip
        write_split(file, self.name, kept)
        return split(
            usable, self.name, self.study.seed, rule.local_validation, folds=folds, fold=rule.fold, written=kept
        )


@final
@dataclass(frozen=True)
class Rehearsal:
    """A run's simulated federation: the study's canonical text, how files are read, and the hospitals' roles."""

    folder: Path
    study_text: str
    study_digest: str
    simulation: Mapping[str, Any]
    plugins: tuple[Path, ...]
    sites: Mapping[str, Role]


def assign(simulation: Simulation, study: Study, plugins: Sequence[Path] = ()) -> dict[str, tuple[CaseRef, ...]]:
    """Which hospital holds which cases: the reader lists them, the partition deals them out by patient.

    Raises:
        DataError: the folder cannot be used, or a held-out or listed site has no case at all.
    """
    reader = simulation.build_reader(plugins)
    refs = reader.cases(study.cases)
    partition = simulation.build_partition(plugins)
    apart, rest = _set_apart(reader, refs, study)
    strata = _strata(reader, rest, study) if partition.needs_strata else None
    sites = partition.assign(rest, study.seed, strata)
    if both := sorted(set(apart) & set(sites)):
        do = "let the partition call its sites otherwise"
        raise DataError("FR-H09", f"{', '.join(both)}: a site that the data set apart, and one that is dealt", do=do)
    sites |= apart
    wanted = {*study.cohort.sites, *study.cohort.held_out, *study.cohort.initial_sites}
    missing = sorted(wanted - set(sites))
    if missing:
        raise DataError(
            "FR-H03",
            f"no cases for {', '.join(missing)}",
            wanted=f"sites among {', '.join(sorted(sites)[:12])}{' …' if len(sites) > 12 else ''}",
            do="correct [cohort], or [simulation.partition]",
        )
    return dict(sorted(sites.items()))


def _set_apart(
    reader: Reader, refs: Sequence[CaseRef], study: Study
) -> tuple[dict[str, tuple[CaseRef, ...]], tuple[CaseRef, ...]]:
    """Site → the cases that the data themselves set apart for it; and all other cases, which a partition may deal.

    Raises:
        DataError: FR-H09 such a site would train: its cases were kept from training by those who made the data.
    """
    apart = {
        name: tuple(sorted(ref for ref in refs if ref.site == name))
        for name in sorted(reader.set_apart & {ref.site for ref in refs})
    }
    cohort = study.cohort
    training = [name for name in apart if name not in cohort.held_out and (not cohort.sites or name in cohort.sites)]
    if training:
        raise DataError(
            "FR-H09",
            f"{', '.join(training)}: set apart by the data, and would train",
            wanted=f"held_out = {json.dumps(sorted({*cohort.held_out, *training}))} in [cohort]",
            do="hold it out, or let the reader deal it out with the others",
        )
    return apart, tuple(ref for ref in refs if ref.site not in apart)


def leave_one_out(study: Study, sites: Sequence[str]) -> Study:
    """With folds by site: the study whose held-out sites are those of its fold, dealt out by the seed."""
    rule = study.evaluation
    if rule.by != "site" or rule.folds < 2:
        return study
    if rule.folds > len(sites):
        raise DataError("FR-H07", f"{len(sites)} sites and {rule.folds} folds", wanted="at most one fold a site")
    dealt = sorted(sites, key=lambda name: share(study.seed, "folds", name))
    held_out = tuple(sorted(dealt[rule.fold :: rule.folds]))
    initial = tuple(name for name in study.cohort.initial_sites if name not in held_out)
    listed = tuple(name for name in study.cohort.sites if name not in held_out)
    return replace(study, cohort=replace(study.cohort, held_out=held_out, initial_sites=initial, sites=listed))


def _strata(reader: Reader, refs: Sequence[CaseRef], study: Study) -> dict[str, int]:
    """Patient → which labels its targets hold, as one number: what a label-skewed partition sorts by."""
    strata: dict[str, int] = {}
    for ref in refs:
        try:
            target = load_case(reader, ref, study.cases).target
        except CaseError:
            continue
        if target is not None:
            strata[ref.patient] = max(strata.get(ref.patient, 0), stratum_of(target))
    return strata


def write_rehearsal(rehearsal: Rehearsal, sites: Mapping[str, Sequence[CaseRef]]) -> Path:
    """Lay the folders out; returns `rehearsal.json`."""
    for name, refs in sites.items():
        write_json(rehearsal.folder / "sites" / name / "cases.json", [asdict(ref) for ref in refs])
    file = rehearsal.folder / "rehearsal.json"
    write_json(
        file,
        {
            "format": FORMAT,
            "study": rehearsal.study_text,
            "digest": rehearsal.study_digest,
            "simulation": dict(rehearsal.simulation),
            "plugins": [str(folder) for folder in rehearsal.plugins],
            "sites": dict(rehearsal.sites),
        },
    )
    forget()
    return file


def forget() -> None:
    """Close every hospital that this process has open: their cases, and what was read of their run's rehearsal.

    A resumed run may be laid out anew, and a finished one's cases are gone from disk but not from memory.
    """
    for remembered in (open_hospital, _shared, read_rehearsal):
        remembered.cache_clear()


@lru_cache(maxsize=4)
def read_rehearsal(file: Path) -> Rehearsal:
    """Raises DataError FR-H04: it is not there, or not as a run writes it."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        return Rehearsal(
            file.parent,
            table["study"],
            table["digest"],
            table["simulation"],
            tuple(Path(folder) for folder in table["plugins"]),
            table["sites"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(file, error) from error


@lru_cache(maxsize=4096)
def open_hospital(run: Path, name: str) -> Hospital:
    """One hospital of the run in that folder; opened once a process."""
    rehearsal = read_rehearsal(run / "rehearsal.json")
    study, simulation, reader = _shared(run)
    folder = run / "sites" / name
    try:
        refs = tuple(CaseRef(**entry) for entry in json.loads((folder / "cases.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(folder / "cases.json", error) from error
    return Hospital(name, rehearsal.sites[name], folder, refs, reader, simulation, study)


@lru_cache(maxsize=4)
def _shared(run: Path) -> tuple[Study, Simulation, Reader]:
    rehearsal = read_rehearsal(run / "rehearsal.json")
    simulation, faults = read_simulation(dict(rehearsal.simulation), run, rehearsal.plugins)
    if simulation is None:
        raise DataError("FR-H04", f"rehearsal.json: {'; '.join(map(str, faults))}", do="start the run anew")
    return (
        study_from_canonical(rehearsal.study_text, rehearsal.plugins),
        simulation,
        simulation.build_reader(rehearsal.plugins),
    )


def _unusable(file: Path, error: Exception) -> DataError:
    return DataError(
        "FR-H04", f"cannot be read ({type(error).__name__})", wanted="the file as the run wrote it",
        do="restore it, or start the run anew", where=str(file),
    )  # fmt: skip


def log_passed_over(file: Path, reader: Reader) -> None:
    """In a simulation whose hospitals share a folder, each log tells of the whole folder's."""
    lines = passed_over_lines(reader.passed_over, reader.passed_over_names)
    if lines:
        add_text(file, "\n".join(lines))


def _log_left_out(file: Path, left_out: Mapping[str, CaseError]) -> None:
    if left_out:
        add_text(file, "\n".join(f"left out {name}: {error}" for name, error in left_out.items()))
