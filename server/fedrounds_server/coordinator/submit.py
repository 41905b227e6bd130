"""Submit a study: the run's folder, the app without code, one Flower run, and how it truly ended.

A run of ours is its folder; Flower's run is only what carries it out, and there may be several of them in a row.
"""

from __future__ import annotations

import fcntl
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from fedrounds_common.arrays import Arrays
from fedrounds_common.disk import write_json, write_text
from fedrounds_common.errors import DONE, PARTIAL, STOPPED, FedroundsError, NetworkError, UsageError
from fedrounds_common.study.canonical import canonical_text, digest, digest_of_text, resolved_toml, study_from_canonical
from fedrounds_common.study.parse import StudyFile
from fedrounds_common.study.study import Study
from fedrounds_server.coordinator.bundle import build_app, run_config
from fedrounds_server.coordinator.flower import Flower, FlowerRun
from fedrounds_server.coordinator.folder import CoordinatorFolder, kept_private
from fedrounds_server.coordinator.processes import end_process
from fedrounds_server.coordinator.register import read_register
from fedrounds_server.folder import RunFolder, read_json, worker_pid
from fedrounds_server.pretrained import Adapt, Origin, weights_from
from fedrounds_server.record import record_of
from fedrounds_server.release import write_model

GOING = ("submitted", "running")
ASK_FLOWER_S = 15.0


@final
@dataclass(frozen=True)
class Submitted:
    """`flower_run`: Flower's id, or None where it was only prepared; `missing`: sites of the study not enrolled.

    `origin`: what became of weights that another network or program left.
    """

    path: Path
    digest: str
    flower_run: int | None
    missing: tuple[str, ...]
    config: Path
    origin: Origin | None = None


@final
@dataclass(frozen=True)
class Start:
    """A file of weights that round 1 starts from, and how to read it (`pretrained.weights_from`)."""

    file: Path
    names: Mapping[str, str] = field(default_factory=dict)
    adapt: Adapt = "no"


def prepare_run(folder: CoordinatorFolder, file: StudyFile, start: Start | None = None) -> Submitted:
    """Make the run's folder with everything but Flower's run in it.

    Raises:
        UsageError: FR-U73 no site is enrolled, or fewer than the study's minimum.
        RunFileError: `start` names no file of weights, or one of another network.
    """
    study, text = file.study, canonical_text(file.study)
    missing = check_sites(folder, study)
    arrays, origin = (None, None) if start is None else _weights(study, start)
    with kept_private():
        path = new_run(folder.runs, study.name)
        if start is not None and arrays is not None:
            made_of = None if origin is None else origin.as_dict()
            write_model(path / "initial.safetensors", arrays, study, "", 0, made_of)
        write_text(path / "study.toml", file.text)
        write_text(path / "study.resolved.toml", resolved_toml(study, {}, file.origins))
        write_text(path / "study.json", text)
        _write_record(path, study, origin)
        _write_status(path, {"format": 1, "state": "submitted", "study": digest(study), "started": time.time()})
    config = _write_config(folder, path, text, resume=False)
    return Submitted(path, digest(study), None, missing, config, origin)


def _weights(study: Study, start: Start) -> tuple[Arrays, Origin | None]:
    from fedrounds_server.app import initial_weights

    network = study.build_network()
    return weights_from(
        start.file, initial_weights(study, study.build_task(), network), network, start.names, start.adapt
    )


def check_sites(folder: CoordinatorFolder, study: Study) -> tuple[str, ...]:
    """The study's sites that are not enrolled. Raises UsageError FR-U73: too few are for a first round."""
    cohort, register = study.cohort, read_register(folder.path)
    there = {name for name, entry in register.items() if not entry.revoked}
    training = there & set(cohort.sites) if cohort.sites else there - set(cohort.held_out)
    if len(training) < cohort.minimum:
        raise UsageError(
            "FR-U73", f"{len(training)} of the study's training sites are enrolled ({', '.join(sorted(training)) or 'none'})",
            wanted=f"cohort.minimum = {cohort.minimum}", do="fedrounds coordinator enrol SITE",
        )  # fmt: skip
    return tuple(sorted({*cohort.sites, *cohort.held_out} - there))


def start_run(folder: CoordinatorFolder, prepared: Submitted, flower: Flower, *, resume: bool = False) -> int:
    """Hand a prepared run to Flower; its id. `study.json` of the run's folder is what is carried out.

    Raises:
        NetworkError: FR-C72 Flower did not take it; the run stays as it was.
    """
    path = prepared.path
    study = study_from_canonical((path / "study.json").read_text(encoding="utf-8"))
    with kept_private(), (folder.state / "app.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # one app folder, and two people may submit at once
        flower_run = flower.start_run(build_app(folder.app, study), prepared.config)
        write_json(path / "flower.json", {"format": 1, "runs": [*flower_runs(path), flower_run]})
    folder.note(
        "resumed" if resume else "submitted", run=path.name, study=prepared.digest, flower_run=flower_run
    )  # fmt: skip
    return flower_run


def resume_run(folder: CoordinatorFolder, path: Path, flower: Flower, *, anew: bool = False) -> int:
    """The same run of ours goes on from its last checkpoint, in a new run of Flower's; that one's id.

    `anew`: begin with round 1 where every checkpoint is damaged, which is otherwise refused.

    Raises:
        UsageError: FR-U69 it is still going on, or it has ended with a consensus.
    """
    check_resumable(path, flower)
    text = (path / "study.json").read_text(encoding="utf-8")
    config = _write_config(folder, path, text, resume=True, anew=anew)
    before = read_json(RunFolder(path).status)
    _write_status(path, {**before, "state": "submitted", "exit": None, "waiting": None})
    try:
        return start_run(folder, Submitted(path, digest_of_text(text), None, (), config), flower, resume=True)
    except FedroundsError:
        _write_status(path, before)
        raise


def check_resumable(path: Path, flower: Flower) -> None:
    """Make sure that nothing carries the run out any more; a run of Flower's without its process is ended there."""
    status = read_json(RunFolder(path).status)
    if status.get("exit") in (DONE, PARTIAL):
        raise UsageError("FR-U69", f"{path.name} has ended with a consensus", do="submit the study for another run")
    if worker_pid(RunFolder(path)) is None:
        going = [run for run in flower.runs() if run.run_id in flower_runs(path) and not run.ended]
        if not going or status.get("state") != "submitted":  # it had begun, and whoever held its lock is gone
            for run in going:
                flower.stop_run(run.run_id)
            return
    raise UsageError("FR-U69", f"{path.name} is going on", do=f"wait, or: fedrounds coordinator stop {path.name}")


def stop_run(path: Path, flower: Flower) -> str:
    """End a run at Flower and say so in its folder; it can be resumed. Returns the state that it is in then.

    Raises:
        UsageError: FR-U69 it is not going on.
    """
    last = flower_runs(path)[-1:]
    found = [run for run in flower.runs() if run.run_id in last]
    if not found or found[0].ended:
        raise UsageError("FR-U69", f"{path.name} is not going on", do="`fedrounds coordinator status` shows how it is")
    flower.stop_run(found[0].run_id)
    end_worker(path)
    status = read_json(RunFolder(path).status)
    if status.get("exit") not in (DONE, PARTIAL):  # it may have come to its end meanwhile
        status = {**status, "state": "stopped", "exit": STOPPED}
        _write_status(path, status)
    return str(status["state"])


def end_worker(path: Path) -> None:
    """End the ServerApp of a run: Flower only tells it at its next heartbeat, and a resumed one may not wait for that."""
    pid = worker_pid(RunFolder(path))
    if pid:
        end_process(pid)


def follow(
    path: Path, flower_run: int, flower: Flower, listen: Callable[[dict[str, Any]], None], pause_s: float = 1.0
) -> int:
    """Wait for the end of a run and return its exit status: what its folder says, for Flower's commands say 0 of all.

    Raises:
        NetworkError: FR-C74 Flower ended the run and nothing of ours said how.
    """
    asked = time.monotonic()
    # after the last round the report is drawn, by the process that holds the run's lock
    while (status := read_json(RunFolder(path).status)).get("state") in GOING or worker_pid(RunFolder(path)):
        listen(status)
        time.sleep(pause_s)
        if time.monotonic() - asked < ASK_FLOWER_S:
            continue
        asked = time.monotonic()
        run = _asked(flower, flower_run)
        if run is not None and read_json(RunFolder(path).status).get("state") in GOING:
            raise NetworkError(
                "FR-C74", f"Flower ended the run: {run}", wanted="a ServerApp that ends by itself",
                do=f"logs/superlink.log says more; then: fedrounds coordinator resume {path.name}",
            )  # fmt: skip
    return int(status.get("exit", 1))


def _asked(flower: Flower, flower_run: int) -> str | None:
    """What Flower says of a run that has ended, or None. A SuperLink that is down for a moment says nothing."""
    try:
        run = flower.run(flower_run)
    except NetworkError:
        return None
    return f"{run.status} {run.details}".strip() if run.ended else None


def cut_off(folder: CoordinatorFolder, known: Sequence[FlowerRun]) -> tuple[str, ...]:
    """Runs whose folder says that they go on, and whose run at Flower has ended: whoever led them was killed."""
    going = {run.run_id for run in known if not run.ended}
    return tuple(
        path.name
        for path in sorted(folder.runs.glob("[0-9]*"))
        if (numbers := flower_runs(path))
        and numbers[-1] not in going
        and read_json(RunFolder(path).status).get("state") in (*GOING, "interrupted")
    )


def close_cut_off(folder: CoordinatorFolder, flower: Flower, since: float) -> None:
    """Tell Flower that runs which it takes for running are not: their processes ended with a SuperLink before this one.

    Flower would find out by itself after about a minute without a heartbeat. `since`: when this SuperLink was
    started (Unix time); what was handed over later is left alone.
    """
    known = {run.run_id: run for run in flower.runs() if run.status == "running"}
    for path in folder.runs.glob("[0-9]*"):
        numbers = flower_runs(path)
        if numbers and numbers[-1] in known and (path / "flower.json").stat().st_mtime < since:
            flower.stop_run(numbers[-1])


def flower_runs(path: Path) -> list[int]:
    """Flower's runs that carried this run of ours, in their order."""
    file = path / "flower.json"
    return [int(number) for number in read_json(file)["runs"]] if file.exists() else []


def new_run(runs: Path, name: str) -> Path:
    """`runs/0007-name`, one above the highest number there, made at once so that two runs never share one."""
    while True:
        numbers = [int(entry.name[:4]) for entry in runs.iterdir() if entry.name[:4].isdigit()]
        path = runs / f"{max(numbers, default=0) + 1:04d}-{name}"
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        fresh = runs / f".latest.{secrets.token_hex(4)}"
        fresh.symlink_to(path.name)
        fresh.replace(runs / "latest")
        return path


def _write_config(folder: CoordinatorFolder, path: Path, text: str, *, resume: bool, anew: bool = False) -> Path:
    initial = path / "initial.safetensors"
    return run_config(
        path / "run-config.toml",
        {
            "study": text,
            "run": str(path),
            "coordinator": str(folder.path),
            "initial": str(initial) if initial.exists() else "",
            "resume": resume,
            "anew": anew,
        },
    )


def _write_status(path: Path, status: dict[str, Any]) -> None:
    with kept_private():
        write_json(RunFolder(path).status, {name: value for name, value in status.items() if value is not None})


def _write_record(path: Path, study: Study, origin: Origin | None) -> None:
    write_json(
        RunFolder(path).record,
        {
            **record_of(path.name, datetime.now(UTC).isoformat(timespec="seconds"), study, study.build_task()),
            "data": "each site's own, read there only",
            "unit": "patient",
            "engine": {"name": "flower"},
            "baselines": [],
            "outside_code": {},
            **({} if origin is None else {"initial": origin.as_dict()}),
        },
    )
