"""Launch a federation on this machine: coordinator and hospitals, each with its own folder.

The ServerApp and the ClientApp are those of a real federation; only the Grid between them has no
network. What is not in a real one (baselines, hospitals played by worker processes) is here.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

from flwr.app import Context, RecordDict

from fedrounds import baselines as alone
from fedrounds.manifest import write_manifest
from fedrounds.record import write_record
from fedrounds.run import Run
from fedrounds_client.scoring import assemble_cases_csv
from fedrounds_client.site import Parts, build_parts
from fedrounds_common.errors import DataError, Fault, FedroundsError, RunFileError, UsageError
from fedrounds_common.network import Network
from fedrounds_common.plugins import digest_of_folders
from fedrounds_common.strategy import Strategy
from fedrounds_common.study.canonical import canonical_text, digest, resolved_toml, study_from_canonical
from fedrounds_common.study.parse import StudyFile, read_study
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import Table
from fedrounds_common.task import Task
from fedrounds_server.app import Objects, initial_weights, server_app
from fedrounds_server.engines.inline import SERVER_NODE, InlineGrid
from fedrounds_server.engines.pool import InProcess, Job, Pool, Workers
from fedrounds_server.folder import RunFolder, read_json
from fedrounds_server.plan import Listener, Plan
from fedrounds_server.release import read_model, write_model
from fedrounds_server.rounds import Outcome
from fedrounds_sites.hospitals import Rehearsal, Role, assign, leave_one_out, write_rehearsal
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
        return build_parts(self.study, self.plugins, self.given.task, self.given.network, self.given.strategy)


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
    if given is not None and given.any and simulation.workers:
        raise UsageError(
            "FR-U22", f"an object from Python and workers = {simulation.workers}", wanted="workers = 0",
            do="or put the class into a file below a folder given with plugins=",
        )  # fmt: skip
    return Prepared(file, file.study, simulation, folders, given or Given())


def prepared_of(run: Path) -> Prepared:
    """The study and rehearsal that a run was made of, as its folder holds them.

    Raises:
        RunFileError: it was run with an object from Python, which no folder holds.
    """
    outside = read_json(RunFolder(run).record).get("outside_code", {})
    objects = {part: name for part, name in outside.items() if part != "plugins_sha256"}
    if objects:
        named = ", ".join(f"{part} {name}" for part, name in objects.items())
        raise RunFileError(
            "FR-F33", f"the run used objects from Python: {named}", wanted="a study that names all of its parts",
            do="run it again where those objects are",
        )  # fmt: skip
    rehearsal = read_json(run / "rehearsal.json")
    plugins = tuple(Path(folder) for folder in rehearsal["plugins"])
    simulation, faults = read_simulation(rehearsal["simulation"], run, plugins)
    if simulation is None:
        raise RunFileError("FR-F34", f"rehearsal.json: {'; '.join(map(str, faults))}", do="start the study anew")
    study = study_from_canonical(rehearsal["study"], plugins)
    text = (run / "study.toml").read_text(encoding="utf-8")
    file = StudyFile(study, rehearsal["simulation"], text, {}, run / "study.toml")
    return Prepared(file, study, simulation, plugins)


def simulate(
    study: Path | str,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[Path | str] = (),
    task: Task | None = None,
    network: Network | None = None,
    strategy: Strategy | None = None,
    runs: Path | str = "runs",
    name: str | None = None,
    resume: Path | str | None = None,
    strict: bool = False,
    listen: Listener = lambda event, facts: None,
) -> Run:
    """Run a study from its file to its report.

    Args:
        overrides: `key=value` each, as `-s` on the command line.
        task, network, strategy: objects instead of what the study names.
        runs: folder in which the run's own folder is made.
        resume: an interrupted run's folder, to go on from its last checkpoint.
        strict: refuse to start when a case cannot be used.
        listen: called with an event's name and facts: plan, hello, round-start, site, round, score,
            baseline, floor, warning, end.

    Returns:
        The finished run; `run.exit` tells whether all sites and cases took part.

    Raises:
        FedroundsError: the study, the data, or too few sites; `status.json` says how far it came.
    """
    prepared = prepare(study, overrides, plugins, Given(task, network, strategy))
    return carry_out(prepared, Path(runs), name, None if resume is None else Path(resume), strict, listen)


def carry_out(
    prepared: Prepared, runs: Path, name: str | None, resume: Path | None, strict: bool, listen: Listener
) -> Run:
    """As `simulate`, for a study that has been prepared."""
    sites = assign(prepared.simulation, prepared.study, prepared.plugins)
    prepared = replace(prepared, study=leave_one_out(prepared.study, tuple(sites)))
    folder = RunFolder(new_folder(runs, name or prepared.study.name) if resume is None else resume.resolve())
    lay_out(prepared, folder, sites, resume is not None)
    with lock(folder.path), pool_of(prepared, folder) as pool:
        start = _start_weights(prepared, folder, pool, resume is not None, listen)
        if strict:
            _refuse_bad_cases(pool, tuple(sites), folder)
        grid = InlineGrid(pool, tuple(sites), _run_config(prepared, folder, start, resume is not None))
        objects = Objects(
            prepared.given.task, prepared.given.network, prepared.given.strategy, listen,
            lambda grid, plan, outcome: _after(prepared, pool, grid, plan, outcome),
        )  # fmt: skip
        context = Context(1, SERVER_NODE, {}, RecordDict(), grid.run_config)
        server_app(objects)(grid, context)
    for site in sites:
        assemble_cases_csv(folder.path / "sites" / site)
        shutil.rmtree(folder.path / "sites" / site / "cache", ignore_errors=True)
    run = Run(folder.path)
    if prepared.simulation.report:
        run.write_report()
    write_manifest(run.path)
    return run


def new_folder(runs: Path, name: str) -> Path:
    """`runs/0007-name`, one above the highest number there, made at once so that two runs never share one."""
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        numbers = [int(entry.name[:4]) for entry in runs.iterdir() if entry.name[:4].isdigit()]
        folder = runs.resolve() / f"{max(numbers, default=0) + 1:04d}-{name}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        _point_latest(runs, folder)
        return folder


def _point_latest(runs: Path, folder: Path) -> None:
    link = runs / "latest"
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)


def lay_out(prepared: Prepared, folder: RunFolder, sites: Mapping[str, Sequence[Any]], resume: bool) -> None:
    """Write what the run is, before anything of it happens."""
    text = prepared.text
    old = folder.path / "rehearsal.json"
    held_out = set(prepared.study.cohort.held_out)
    roles: dict[str, Role] = {name: "held-out" if name in held_out else "train" for name in sites}
    if resume and not old.exists():
        raise UsageError("FR-U23", f"{folder.path.name} is not a run's folder", wanted="one with rehearsal.json")
    rehearsal = Rehearsal(
        folder.path, text, digest(prepared.study), _plain(prepared.simulation), prepared.plugins, roles
    )
    write_rehearsal(rehearsal, sites)
    if not resume:
        (folder.path / "study.toml").write_text(prepared.file.text, encoding="utf-8")
    resolved = resolved_toml(prepared.study, prepared.file.simulation, prepared.file.origins)
    (folder.path / "study.resolved.toml").write_text(resolved, encoding="utf-8")
    write_record(folder, prepared.study, prepared.simulation, prepared.plugins, _code(prepared))


def _plain(simulation: Simulation) -> dict[str, Any]:
    table = {name: value for name, value in asdict(simulation).items() if value is not None}
    return {name: str(value) if isinstance(value, Path) else value for name, value in table.items()}


def _code(prepared: Prepared) -> dict[str, Any]:
    """What of the code is not ours: a digest of the user's folders, and the names of objects."""
    found: dict[str, Any] = dict(prepared.given.names)
    if prepared.plugins:
        found["plugins_sha256"] = digest_of_folders(prepared.plugins)
    return found


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """One process at a time may work on a run; the lock goes with the process, however that ends."""
    import fcntl

    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                "FR-U24", f"{folder.name} is being worked on by another process", do="wait for it"
            ) from error
        yield


def pool_of(prepared: Prepared, folder: RunFolder) -> Pool:
    if prepared.simulation.workers:
        command = [sys.executable, "-m", "fedrounds.worker", str(folder.path)]
        return Workers(command, prepared.simulation.workers)
    from fedrounds.worker import handler

    return InProcess(handler(folder.path, prepared.parts if prepared.given.any else None))


def _run_config(prepared: Prepared, folder: RunFolder, start: str, resume: bool) -> dict[str, str | int | float | bool]:
    return {
        "study": prepared.text,
        "run": str(folder.path),
        "simulation": str(folder.path / "rehearsal.json"),
        "plugins": "\n".join(str(path) for path in prepared.plugins),
        "initial": start,
        "resume": resume,
    }


def _start_weights(prepared: Prepared, folder: RunFolder, pool: Pool, resume: bool, listen: Listener) -> str:
    """Write `initial.safetensors`, what round 1 starts from; "" when those are random weights.

    From a file, or trained on the pooled cases of `cohort.initial_sites`.
    """
    study, file = prepared.study, folder.path / "initial.safetensors"
    random = initial_weights(study, prepared.parts.task, prepared.parts.network)
    given, initial_sites = prepared.simulation.initial_weights, study.cohort.initial_sites
    if resume and file.exists():
        return str(file) if given or initial_sites else ""
    if given is not None:
        write_model(file, read_model(given, random), study, "", 0)
        return str(file)
    untrained = folder.path / "untrained.safetensors" if initial_sites else file
    write_model(untrained, random, study, "", 0)
    if not initial_sites:
        return ""
    listen("baseline", {"model": "initial", "site": "all", "state": "training"})
    scalars = {
        "sites": initial_sites, "steps": study.cohort.initial_steps, "name": "initial/all",
        "file": str(file), "start": untrained.name,
    }  # fmt: skip
    pool.submit(Job("train", scalars, lane="initial all"))
    while (found := pool.next_done(wait_s=0.5)) is None:
        pass
    if found[1].error:
        raise DataError("FR-H05", f"the initial model could not be trained ({found[1].error})", do="see the run's logs")
    listen("baseline", {"model": "initial", "site": "all", "state": "ok"})
    return str(file)


def _after(prepared: Prepared, pool: Pool, grid: Any, plan: Plan, outcome: Outcome) -> dict[str, str]:
    return alone.run_baselines(pool, grid, plan, outcome, prepared.simulation) if prepared.simulation.baselines else {}


def _refuse_bad_cases(pool: Pool, sites: Sequence[str], folder: RunFolder) -> None:
    from fedrounds_sites.hospitals import open_hospital

    bad = {name: open_hospital(folder.path, name).open_all().left_out for name in sites}
    lines = [f"{name}: {error}" for name, errors in bad.items() for error in errors.values()]
    if lines:
        raise DataError(
            "FR-H06", f"{len(lines)} cases cannot be used\n" + "\n".join(lines), do="mend them, or run without --strict"
        )


def stop_reason(error: BaseException) -> int:
    """The exit status that goes with an error."""
    return error.exit_status if isinstance(error, FedroundsError) else 1


def default_workers() -> int:
    return os.cpu_count() or 1
