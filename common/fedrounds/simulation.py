"""A study made ready to be simulated: read and checked with its rehearsal half, or taken from a run's own folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from fedrounds.origin import origin_of, refuse_real
from fedrounds_client.site import Parts, build_parts
from fedrounds_common.errors import Fault, RunFileError, UsageError
from fedrounds_common.network import Network
from fedrounds_common.strategy import Strategy
from fedrounds_common.study.canonical import canonical_text
from fedrounds_common.study.parse import StudyFile, read_study
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import Table
from fedrounds_common.task import Task
from fedrounds_server.folder import RunFolder, read_json
from fedrounds_sites.simulation import Simulation, read_simulation


@final
@dataclass(frozen=True)
class Given:
    """Objects from Python instead of names in the study; they work in this process only."""

    task: Task | None = None
    network: Network | None = None
    strategy: Strategy | None = None

    @property
    def any(self) -> bool:
        return any(part is not None for part in (self.task, self.network, self.strategy))

    @property
    def names(self) -> dict[str, str]:
        parts = {"task": self.task, "network": self.network, "strategy": self.strategy}
        return {name: f"{type(part).__module__}.{type(part).__qualname__}" for name, part in parts.items() if part}


@final
@dataclass(frozen=True)
class Prepared:
    """A study read and checked for simulation, with its rehearsal half."""

    file: StudyFile
    study: Study
    simulation: Simulation
    plugins: tuple[Path, ...] = ()
    given: Given = field(default_factory=Given)

    @property
    def text(self) -> str:
        return canonical_text(self.study)

    @property
    def parts(self) -> Parts:
        given = self.given
        return build_parts(self.study, self.plugins, given.task, given.network, given.strategy, self.simulation.device)


def prepare(
    study: Path | str,
    overrides: Sequence[str] = (),
    plugins: Sequence[Path | str] = (),
    given: Given | None = None,
) -> Prepared:
    """Read a study and its rehearsal half; every fault of both at once.

    Raises:
        StudyError, UsageError: see `read_study`; objects with more than this one process.
    """
    folders = tuple(Path(folder).resolve() for folder in plugins)
    folder = Path(study).resolve().parent

    def faults_of_rehearsal(table: Table, checked: Study | None) -> list[Fault]:
        return read_simulation(table, folder, folders)[1]

    file = read_study(study, overrides, folders, faults_of_rehearsal)
    simulation, _ = read_simulation(file.simulation, folder, folders)
    assert simulation is not None  # its faults would have been raised with the study's
    if given is not None and given.any and (simulation.workers or simulation.engine != "inline"):
        raise UsageError(
            "FR-U22", f"an object from Python, engine {simulation.engine} and workers = {simulation.workers}",
            wanted='engine = "inline" and workers = 0',
            do="or put the class into a file below a folder given with plugins=",
        )  # fmt: skip
    return Prepared(file, file.study, simulation, folders, given or Given())


def prepared_of(run: Path) -> Prepared:
    """The study and rehearsal that a run was made of, as its folder holds them.

    Raises:
        RunFileError: it was run with an object from Python, which no folder holds; or between hospitals.
    """
    refuse_real(run, "it cannot be run again here")
    outside = read_json(RunFolder(run).record).get("outside_code", {})
    objects = {part: name for part, name in outside.items() if part != "plugins_sha256"}
    if objects:
        named = ", ".join(f"{part} {name}" for part, name in objects.items())
        raise RunFileError(
            "FR-F33", f"the run used objects from Python: {named}", wanted="a study that names all of its parts",
            do="run it again where those objects are",
        )  # fmt: skip
    origin = origin_of(run)
    simulation, faults = read_simulation(origin.simulation, run, origin.plugins)
    if simulation is None:
        raise RunFileError("FR-F34", f"rehearsal.json: {'; '.join(map(str, faults))}", do="start the study anew")
    study = origin.study
    text = (run / "study.toml").read_text(encoding="utf-8")
    file = StudyFile(study, origin.simulation, text, {}, run / "study.toml")
    return Prepared(file, study, simulation, origin.plugins)
