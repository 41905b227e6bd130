"""The ServerApp: a study from the run's configuration, the rounds, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrounds_common.arrays import Arrays, digest, of_module
from fedrounds_common.disk import write_json
from fedrounds_common.errors import DONE, INTERRUPTED, PARTIAL, FedroundsError, UsageError
from fedrounds_common.network import Network
from fedrounds_common.rng import derive, seeded
from fedrounds_common.strategy import Strategy
from fedrounds_common.study.canonical import digest_of_text, study_from_canonical
from fedrounds_common.study.study import Study
from fedrounds_common.task import Task
from fedrounds_server.folder import RunFolder
from fedrounds_server.judging import gather_metrics
from fedrounds_server.plan import Listener, Plan, nobody
from fedrounds_server.release import read_model, write_model
from fedrounds_server.rounds import Outcome, run


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
    """A ServerApp. Its run configuration holds `study` (canonical text), `run` (folder), and for a
    simulation `plugins`, `initial` (weights to start from), `start_model`, `resume`."""
    given = objects or Objects()
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        plan = make_plan(dict(context.run_config), given)
        carry_out(grid, plan, given.after)

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
        initial=read_model(Path(file), start) if file else start,
        start_model="initial" if file else "untrained",
        resume=bool(config.get("resume", False)),
        listen=given.listen,
    )


def initial_weights(study: Study, task: Task, network: Network) -> Arrays:
    """Weights drawn from the study's seed: the same on every machine of one kind."""
    with seeded(derive(study.seed, "weights")):
        return of_module(task.network(network, study.cases))


def carry_out(grid: Grid, plan: Plan, after: After) -> Outcome:
    """Run the rounds, write what a run leaves, and say in `status.json` how it ended, whatever happens.

    `after` is called with the consensus written: a simulation trains its baselines there.
    """
    started = time.time()
    status: dict[str, Any] = {"format": 1, "state": "running", "study": plan.digest, "started": started}
    write_json(plan.folder.status, status)
    try:
        outcome = run(grid, plan)
        write_model(plan.folder.consensus, outcome.consensus.arrays, plan.study, plan.digest, outcome.rounds)
        afterwards = after(grid, plan, outcome)
        gather_metrics(plan.folder)
        status |= _ended(outcome, afterwards)
    except BaseException as error:
        status |= ended_by(error)
        raise
    finally:
        write_json(plan.folder.status, {**status, "seconds": time.time() - started})
    plan.listen("end", status)
    return outcome


def _ended(outcome: Outcome, afterwards: Afterwards) -> dict[str, Any]:
    failed = {**afterwards.sites, **{name: state for name, state in outcome.states.items() if state != "ok"}}
    left_out = {name: dict(hello.left_out) for name, hello in outcome.roster.hellos.items() if hello.left_out}
    whole = not failed and not left_out and not afterwards.models
    planned = sorted({*outcome.roster.planned, *outcome.roster.held_out, *outcome.roster.absent})
    return {
        "state": "done" if whole else "partial",
        "exit": DONE if whole else PARTIAL,
        "rounds": outcome.rounds,
        "planned": len(planned),
        "finished": len(planned) - len(failed),
        "failed": dict(sorted(failed.items())),
        "left_out_cases": dict(sorted(left_out.items())),
        **({"failed_models": dict(sorted(afterwards.models.items()))} if afterwards.models else {}),
        "consensus": digest(outcome.consensus.arrays),
    }


def ended_by(error: BaseException) -> dict[str, Any]:
    """What `status.json` says of a run that an error ended; of an unknown one its type only."""
    if isinstance(error, KeyboardInterrupt):
        return {"state": "interrupted", "exit": INTERRUPTED}
    if isinstance(error, FedroundsError):
        return {"state": "failed", "exit": error.exit_status, "code": error.code, "message": str(error)}
    return {"state": "failed", "exit": 1, "code": "FR-R01", "message": type(error).__name__}


app = server_app()
