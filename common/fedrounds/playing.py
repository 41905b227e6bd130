"""Play a federation on this machine: coordinator and hospitals, each with its own folder.

The ServerApp and the ClientApp are those of a real federation; only the Grid between them has no
network. What is not in a real one (baselines, hospitals played by worker processes) is here.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from fedrounds.baselines import run_baselines
from fedrounds.layout import lay_out, lock, new_folder, refuse_other_study
from fedrounds.lazily import sites_lazily
from fedrounds.record import note_start
from fedrounds.run import Run
from fedrounds.sessions import session
from fedrounds.simulation import Prepared
from fedrounds.times import Stopwatch, stopwatch
from fedrounds_client.scoring import assemble_cases_csv
from fedrounds_common.arrays import Arrays
from fedrounds_common.case import CaseRef
from fedrounds_common.disk import write_json
from fedrounds_common.errors import DataError
from fedrounds_server.app import Afterwards, Objects, ended_by, initial_weights, server_app
from fedrounds_server.closing import close_run
from fedrounds_server.engines.inline import SERVER_NODE, InlineGrid
from fedrounds_server.engines.pool import InProcess, Job, Pool, Workers, programs
from fedrounds_server.folder import RunFolder
from fedrounds_server.plan import Listener, Plan
from fedrounds_server.pretrained import weights_from
from fedrounds_server.release import write_model
from fedrounds_server.rounds import Outcome
from fedrounds_sites.cache_lock import in_use
from fedrounds_sites.hospitals import assign, forget, leave_one_out, open_hospital


def carry_out(
    prepared: Prepared, runs: Path, name: str | None, resume: Path | None, strict: bool, listen: Listener,
    profile_time: bool = False,
) -> Run:  # fmt: skip
    """Run a prepared study from its cases to its report.

    Args:
        resume: an interrupted run's folder, to go on from its last checkpoint.
        strict: refuse to start when a case cannot be used.
        listen: called with an event's name and facts: plan, hello, round-start, site, round, score,
            baseline, floor, warning, end.
        profile_time: write where the time of this session went (`times.py`).

    Returns:
        The finished run; `run.exit` tells whether all sites and cases took part.

    Raises:
        FedroundsError: the data, too few sites, or a folder of another study; `status.json` says how far it came.
    """
    sites = assign(prepared.simulation, prepared.study, prepared.plugins)
    prepared = replace(prepared, study=leave_one_out(prepared.study, tuple(sites)))
    if resume is not None:
        refuse_other_study(resume, prepared)
    folder = RunFolder(new_folder(runs, name or prepared.study.name) if resume is None else resume.resolve())
    with lock(folder.path), in_use(prepared.simulation.cache):
        with session(folder), stopwatch(profile_time) as watch:
            try:
                with sites_lazily(folder.path, syncs=True):
                    lay_out(prepared, folder, sites)
                    _play(prepared, folder, sites, resume is not None, strict, listen, watch)
                watch.write(folder.path)
            except BaseException as error:
                if not folder.status.exists():  # the coordinator had not begun, which writes it otherwise
                    # without the message: that of --strict names files of hospitals
                    write_json(folder.status, {"format": 1, **ended_by(error), "message": ""})
                raise
            finally:
                forget()
        with sites_lazily(folder.path, syncs=True):
            return _finished(prepared, folder, sites, listen)


def _play(
    prepared: Prepared, folder: RunFolder, sites: Mapping[str, Sequence[CaseRef]], resume: bool, strict: bool,
    listen: Listener, watch: Stopwatch,
) -> None:  # fmt: skip
    """Coordinator and hospitals, from the first hello to the last score."""
    with pool_of(prepared, folder) as pool:
        watch.watch(pool)
        start = _start_weights(prepared, folder, pool, resume, listen)
        if strict:
            _refuse_bad_cases(tuple(sites), folder)
        grid = InlineGrid(pool, tuple(sites), _run_config(prepared, folder, start, resume))
        given = prepared.given
        objects = Objects(
            given.task, given.network, given.strategy, listen,
            lambda grid, plan, outcome: _after(prepared, pool, grid, plan, outcome),
        )  # fmt: skip
        server_app(objects)(grid, Context(1, SERVER_NODE, {}, RecordDict(), grid.run_config))


def _finished(prepared: Prepared, folder: RunFolder, sites: Mapping[str, Sequence[CaseRef]], listen: Listener) -> Run:
    """What is made of the files that coordinator and hospitals left."""
    for site in sites:
        assemble_cases_csv(folder.path / "sites" / site)
        shutil.rmtree(folder.path / "sites" / site / "cache", ignore_errors=True)
    run = Run(folder.path, prepared.given.task, prepared.given.network)
    close_run(folder, listen, report=prepared.simulation.report, with_sites=True)
    return run


def pool_of(prepared: Prepared, folder: RunFolder) -> Pool:
    """Who does the work, as `[simulation]` says: Ray, processes of this machine, or this process."""
    if prepared.simulation.engine == "ray":
        from fedrounds.on_ray import pool_on_ray

        return pool_on_ray(prepared.simulation, folder.path)
    if prepared.simulation.workers:
        command = [sys.executable, "-m", "fedrounds.worker", str(folder.path)]
        return Workers(programs(command), prepared.simulation.workers)
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
        note_start(folder, file)
        return str(file) if given or initial_sites else ""
    if given is not None:
        _write_given(prepared, given, random, file, listen)
        note_start(folder, file)
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


def _write_given(prepared: Prepared, given: Path, random: Arrays, file: Path, listen: Listener) -> None:
    """The weights in the file that the study names; of another network or program, with a word on what became of it."""
    names, adapt = prepared.simulation.initial_names, prepared.simulation.initial_adapt
    arrays, origin = weights_from(given, random, prepared.parts.network, names, adapt)
    write_model(file, arrays, prepared.study, "", 0, None if origin is None else origin.as_dict())
    if origin is not None:
        listen("warning", {"text": str(origin)})


def _after(prepared: Prepared, pool: Pool, grid: Grid, plan: Plan, outcome: Outcome) -> Afterwards:
    if not prepared.simulation.baselines:
        return Afterwards()
    return run_baselines(pool, grid, plan, outcome, prepared.simulation)


def _refuse_bad_cases(sites: Sequence[str], folder: RunFolder) -> None:
    bad = {name: open_hospital(folder.path, name).open_all().left_out for name in sites}
    lines = [f"{name}: {error}" for name, errors in bad.items() for error in errors.values()]
    if lines:
        raise DataError(
            "FR-H06", f"{len(lines)} cases cannot be used\n" + "\n".join(lines), do="mend them, or run without --strict"
        )
