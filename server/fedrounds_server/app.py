"""The ServerApp: a study from the run's configuration, the rounds, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from traceback import walk_tb
from typing import Any, final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrounds_common.allocator import keep_freed_memory
from fedrounds_common.arrays import Arrays, digest, of_module, packed
from fedrounds_common.disk import write_json
from fedrounds_common.errors import (
    DONE,
    INTERRUPTED,
    PARTIAL,
    BudgetError,
    FedroundsError,
    MachineError,
    RoundError,
    UsageError,
    disk_is_full,
)
from fedrounds_common.freezing import freeze, trained_of
from fedrounds_common.network import Network
from fedrounds_common.rng import derive, seeded
from fedrounds_common.signing import SigningKey
from fedrounds_common.strategy import Strategy
from fedrounds_common.study.canonical import digest_of_text, study_from_canonical
from fedrounds_common.study.study import Study
from fedrounds_common.task import Task
from fedrounds_server.closing import close_run
from fedrounds_server.folder import RunFolder, worked_on
from fedrounds_server.judging import gather_metrics, gather_withheld
from fedrounds_server.keys import Keys
from fedrounds_server.missing import in_words
from fedrounds_server.plan import Listener, Plan, nobody
from fedrounds_server.release import read_model, write_model
from fedrounds_server.rounds import Outcome, run

MOST_WARNINGS = 1000

keep_freed_memory()  # every update of a round has the size of the one before


@final
@dataclass(frozen=True)
class Afterwards:
    """What was missing of what came after the rounds: sites, and models that could not be made; name → state."""

    sites: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


After = Callable[[Grid, Plan, Outcome], Afterwards]


@final
@dataclass(frozen=True)
class Objects:
    """Plug-ins handed in as objects, and who listens: only a simulation has any."""

    task: Task | None = None
    network: Network | None = None
    strategy: Strategy | None = None
    listen: Listener = nobody
    after: After = lambda grid, plan, outcome: Afterwards()


def server_app(objects: Objects | None = None) -> ServerApp:
    """A ServerApp. Its run configuration holds `study` (canonical text), `run` (folder), `initial` (weights to
    start from), `resume`, `anew`, and `plugins` for a simulation or `coordinator` (folder) between hospitals."""
    given = objects or Objects()
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        plan = make_plan(dict(context.run_config), given)
        # a simulation holds the run's lock itself, around everything that it does
        with worked_on(plan.folder) if plan.keys is not None else nullcontext():
            carry_out(grid, plan, given.after)
            if plan.keys is not None:
                close_run(plan.folder, plan.listen, report=True, with_sites=False)

    return app


def make_plan(config: dict[str, Any], given: Objects) -> Plan:
    text = str(config.get("study", ""))
    if not text:
        raise UsageError("FR-U30", "the run's configuration holds no study", do="start it with `fedrounds`")
    folders = tuple(Path(part) for part in str(config.get("plugins", "")).split("\n") if part)
    study = study_from_canonical(text, folders)
    task = given.task or study.build_task(folders)
    network = given.network or study.build_network(folders)
    start = initial_weights(study, task, network)
    file = str(config.get("initial", ""))
    return Plan(
        study=study,
        text=text,
        digest=digest_of_text(text),
        folder=RunFolder(Path(str(config.get("run") or "run"))),
        task=task,
        strategy=given.strategy or study.build_strategy(folders),
        codec=study.build_codec(folders),
        initial=packed(read_model(Path(file), start) if file else start),  # as it is sent in round 1
        start_model="initial" if file else "untrained",
        resume=bool(config.get("resume", False)),
        listen=given.listen,
        anew=bool(config.get("anew", False)),
        keys=coordinator_keys(str(config.get("coordinator", ""))),
        network=network,
        down=study.build_down(folders),
        trained=None if study.noisy_sum(folders) is None else trained_weights(study, task, network),
        measures=study.build_privacy(folders),
    )


def coordinator_keys(folder: str) -> Keys | None:
    """The coordinator's key and its register, from its folder; None in a simulation, which has none."""
    if not folder:
        return None
    from fedrounds_server.coordinator.folder import CoordinatorFolder
    from fedrounds_server.coordinator.register import read_register

    where = CoordinatorFolder(Path(folder))
    return Keys(SigningKey.load(where.signing_key), lambda: read_register(where.path))


def initial_weights(study: Study, task: Task, network: Network) -> Arrays:
    """Weights drawn from the study's seed: the same on every machine of one kind.

    Raises:
        UsageError: FR-U49 `training.freeze` names what the network has not.
    """
    with seeded(derive(study.seed, "weights")):
        module = task.network(network, study.cases)
    freeze(module, network, study.training.freeze)  # what it refuses is told here, before a site is asked
    return of_module(module)


def trained_weights(study: Study, task: Task, network: Network) -> frozenset[str]:
    """The names of the weights that training changes and that leave the sites."""
    with seeded(0):
        module = freeze(task.network(network, study.cases), network, study.training.freeze)
    return trained_of(module) - set(task.at_site(list(module.state_dict())))


def carry_out(grid: Grid, plan: Plan, after: After) -> Outcome:
    """Run the rounds, write what a run leaves, and say in `status.json` how it ended, whatever happens.

    `after` is called with the consensus written: a simulation trains its baselines there.
    """
    started = time.time()
    status: dict[str, Any] = {"format": 1, "state": "running", "study": plan.digest, "started": started}
    write_json(plan.folder.status, status)
    warnings: list[str] = []
    plan = replace(plan, listen=_noting(plan, warnings, status))
    try:
        with no_exit_of_plugins():
            outcome = run(grid, plan)
            write_model(plan.folder.consensus, outcome.consensus.arrays, plan.study, plan.digest, outcome.rounds)
            afterwards = after(grid, plan, outcome)
        gather_metrics(plan.folder)
        status |= _ended(outcome, afterwards, gather_withheld(plan.folder))
        network = plan.network or plan.study.build_network()
        told = network.told(outcome.consensus.arrays, plan.study.cases)
        status |= {"network": list(told)} if told else {}
    except BaseException as error:
        status |= ended_by(error)
        raise
    finally:
        status.pop("waiting", None)
        status |= {"warnings": warnings} if warnings else {}
        write_json(plan.folder.status, {**status, "seconds": time.time() - started})
    plan.listen("end", status)
    return outcome


def _noting(plan: Plan, warnings: list[str], status: dict[str, Any]) -> Listener:
    """The same listener, and what it is warned of stays: between hospitals nobody may be watching.

    Who is waited for, and until when, stands in `status.json` for as long as it lasts.
    """
    listen = plan.listen

    def both(event: str, facts: Mapping[str, Any]) -> None:
        if event == "warning" and len(warnings) < MOST_WARNINGS:
            warnings.append(str(facts.get("text", "")))
        if event == "waiting":
            status.pop("waiting", None)
            status.update(_waiting(facts) if facts["sites"] else {})
            write_json(plan.folder.status, status)
        listen(event, facts)

    return both


def _waiting(facts: Mapping[str, Any]) -> dict[str, Any]:
    until = datetime.now(UTC) + timedelta(seconds=facts["seconds"])
    sites = {name: in_words(state) for name, state in facts["sites"].items()}
    return {"waiting": {"for": sites, "until": until.isoformat(timespec="seconds")}}


def _ended(outcome: Outcome, afterwards: Afterwards, withheld: Mapping[str, str]) -> dict[str, Any]:
    failed = {**afterwards.sites, **{name: state for name, state in outcome.states.items() if state != "ok"}}
    left_out = {name: dict(hello.left_out) for name, hello in outcome.roster.hellos.items() if hello.left_out}
    whole = not failed and not left_out and not afterwards.models and not outcome.stopped
    planned = sorted({*outcome.roster.planned, *outcome.roster.held_out, *outcome.roster.absent})
    return {
        "state": "done" if whole else "partial",
        "exit": DONE if whole else BudgetError.exit_status if outcome.stopped else PARTIAL,
        **({"code": outcome.stopped.partition(" ")[0], "message": outcome.stopped} if outcome.stopped else {}),
        "rounds": outcome.rounds,
        "planned": len(planned),
        "finished": len(planned) - len(failed),
        "failed": dict(sorted(failed.items())),
        "left_out_cases": dict(sorted(left_out.items())),
        **({"failed_models": dict(sorted(afterwards.models.items()))} if afterwards.models else {}),
        **({"withheld": withheld} if withheld else {}),
        **({"not_bit_exact": dict(sorted(outcome.unlike.items()))} if outcome.unlike else {}),
        "consensus": digest(outcome.consensus.arrays),
    }


@contextmanager
def no_exit_of_plugins() -> Iterator[None]:
    """Around a run: a strategy or a task that calls sys.exit must not pass for a person who stopped it, nor for success.

    Raises:
        RoundError: FR-R06 it did; which function, and where. SystemExit: Flower's own, when the run is stopped.
    """
    try:
        yield
    except SystemExit as error:
        *_, (frame, line) = walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).startswith("flwr."):
            raise
        who = f"{frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}, line {line})"
        raise RoundError(
            "FR-R06", f"{who} called sys.exit({error.code!r})", wanted="an error that it raises",
            do="mend it, then go on with the run from its last checkpoint",
        ) from error  # fmt: skip


def ended_by(error: BaseException) -> dict[str, Any]:
    """What `status.json` says of a run that an error ended; of an unknown one its type only."""
    # Flower's own word for a run that was stopped from outside is private to it
    if isinstance(error, KeyboardInterrupt | SystemExit) or type(error).__name__ == "RunNotRunningException":
        return {"state": "interrupted", "exit": INTERRUPTED}
    if isinstance(error, FedroundsError):
        return {"state": "failed", "exit": error.exit_status, "code": error.code, "message": str(error)}
    if disk_is_full(error):
        full = "FR-E01 the disk is full; make room, then go on with the run: what had come of its round is kept"
        return {"state": "failed", "exit": MachineError.exit_status, "code": "FR-E01", "message": full}
    return {"state": "failed", "exit": 1, "code": "FR-R01", "message": type(error).__name__}


app = server_app()
