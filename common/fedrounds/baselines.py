"""What federating is held against: models trained on pooled cases, or at one hospital alone.

Equal effort: `pooled` and `local-only-long` take as many optimiser steps as all sites took together,
of the same batch, with the same optimiser and the same schedule over their own progress; `local-only`
takes the site's own share. All start from the weights of round 1, with the study's one learning rate.

Only a simulation can do this: it opens several hospitals' cases at once.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

from flwr.serverapp import Grid

from fedrounds import floor
from fedrounds_client.ahead import spare_core
from fedrounds_client.gathering import gather_sums
from fedrounds_client.scoring import score_cases, write_scores
from fedrounds_client.training import Piece, Result, train
from fedrounds_common.arrays import Arrays, manifest, of_module, pack, unpack
from fedrounds_common.arrays import digest as arrays_digest
from fedrounds_common.disk import add_text, write_json
from fedrounds_common.errors import DataError, RunFileError, code_of
from fedrounds_common.leaving import Ask
from fedrounds_common.rng import derive
from fedrounds_common.settling import settled
from fedrounds_common.tail import marks
from fedrounds_common.task import Tally
from fedrounds_server import history
from fedrounds_server.app import Afterwards
from fedrounds_server.checkpoint import load_arrays
from fedrounds_server.cohort import Roster
from fedrounds_server.engines.pool import Done, Job, Pool, Ticket
from fedrounds_server.folder import FORMAT, RunFolder
from fedrounds_server.judging import drop_judged, judge, write_judged
from fedrounds_server.plan import Plan
from fedrounds_server.release import read_model, write_model
from fedrounds_server.rounds import Outcome
from fedrounds_sites.hospitals import Opened, open_hospital, read_rehearsal
from fedrounds_sites.simulation import Simulation

if TYPE_CHECKING:
    from fedrounds_client.site import Parts

ALL = "all"
Asked = TypeVar("Asked")


@final
@dataclass(frozen=True)
class Alone:
    """A model to train outside the federation: on the cases of `sites`, for `steps` steps."""

    model: str
    trained_at: str
    sites: tuple[str, ...]
    steps: int

    @property
    def name(self) -> str:
        return self.model if self.trained_at == ALL else f"{self.model} of {self.trained_at}"

    @property
    def file_name(self) -> str:
        return f"{self.model}-{self.trained_at}.safetensors"

    def made_of(self, study: str, start: Arrays) -> dict[str, Any]:
        """What its weights follow from; a file that says otherwise is another model, whatever it is called.

        Args:
            study: the study's digest.
            start: the weights it is trained from.
        """
        return {"study": study, "start": arrays_digest(start), "steps": self.steps, "sites": list(self.sites)}


def planned(simulation: Simulation, outcome: Outcome, taken: Mapping[str, int]) -> tuple[Alone, ...]:
    """The models that the rehearsal asks for, longest first so that no worker is left with it at the end.

    Args:
        taken: optimiser steps that each site really took, over all rounds: with a cohort drawn anew each
            round, or a site that failed, these are fewer than were planned.
    """
    hellos, training = outcome.roster.hellos, [name for name in outcome.roster.training if name in taken]
    if any(taken.values()):  # else nobody was to train, and what was learned came of sums
        training = [name for name in training if taken[name]]
    total = sum(taken[name] for name in training)
    largest = sorted(training, key=lambda name: (-hellos[name].training_cases, name))
    wanted: list[Alone] = []
    if "pooled" in simulation.baselines:
        wanted.append(Alone("pooled", ALL, tuple(training), total))
    if "local-only-long" in simulation.baselines:
        wanted.append(Alone("local-only-long", largest[0], (largest[0],), total))
    by_itself = (simulation.local_only_sites or len(largest)) if "local-only" in simulation.baselines else 0
    members = simulation.ensemble if "ensemble" in simulation.baselines else 0
    wanted += [Alone("local-only", name, (name,), taken[name]) for name in largest[: max(by_itself, members)]]
    return tuple(wanted)


def judged_by_itself(simulation: Simulation, alone: Sequence[Alone]) -> tuple[Alone, ...]:
    """Those of `planned` that have lines of their own in the tables; the others are only members of the ensemble."""
    own = [each for each in alone if each.model == "local-only"]
    shown = own[: simulation.local_only_sites or None] if "local-only" in simulation.baselines else []
    return tuple(each for each in alone if each.model != "local-only" or each in shown)


def run_baselines(pool: Pool, grid: Grid, plan: Plan, outcome: Outcome, simulation: Simulation) -> Afterwards:
    """Train and judge what the rehearsal asks for; what is on disk from an interrupted run is kept where it is
    what would be trained now.

    Returns:
        Sites whose scores of some model are missing, and models that could not be made, each with its state.
    """
    alone = planned(simulation, outcome, _steps_taken(plan.folder))
    failed = _train_all(pool, plan, outcome.rounds, alone)
    trained = [each for each in alone if each not in failed]
    missing: dict[str, str] = {}
    for each in judged_by_itself(simulation, alone):
        if each not in failed:
            arrays = read_model(_folder(plan.folder) / each.file_name, plan.initial)
            sites = judges(outcome.roster, each)
            missing |= judge(grid, plan, sites, outcome.rounds, each.model, each.trained_at, arrays)
    if "ensemble" in simulation.baselines:
        members = [each for each in trained if each.model == "local-only"][: simulation.ensemble]
        missing |= _judge_ensemble(pool, plan, outcome, members)
    if "floor" in simulation.baselines:
        missing |= _judge_floor(pool, plan, outcome)
    return Afterwards(missing, {each.name: state for each, state in failed.items()})


def _steps_taken(folder: RunFolder) -> dict[str, int]:
    taken: dict[str, int] = {}
    for line in history.read(folder.history):
        for site in line.ok:
            taken[site.site] = taken.get(site.site, 0) + site.steps
    return taken


def _folder(folder: RunFolder) -> Path:
    return folder.path / "baselines"


def _train_all(pool: Pool, plan: Plan, rounds: int, alone: Sequence[Alone]) -> dict[Alone, str]:
    """Those that failed, with their state: each is named, and left out of the tables."""
    jobs: dict[Ticket, Alone] = {}
    for each in alone:
        file = _folder(plan.folder) / each.file_name
        made_of = each.made_of(plan.digest, plan.initial)
        if not (plan.resume and _is_made_of(file, made_of)):
            # the scores on disk, if any, are of the model that is trained anew
            drop_judged(plan.folder, rounds, each.model, each.trained_at)
            scalars = {
                "sites": each.sites,
                "steps": each.steps,
                "name": f"{each.model}/{each.trained_at}",
                "file": str(file),
                "made_of": made_of,
            }
            jobs[pool.submit(Job("train", scalars, lane=f"{each.model} {each.trained_at}"))] = each
    failed: dict[Alone, str] = {}
    for each, done in _finished(pool, jobs):
        plan.listen("baseline", {"model": each.model, "site": each.trained_at, "state": done.error or "ok"})
        if done.error:
            failed[each] = f"error:{done.error}"
            plan.listen("warning", {"text": f"{each.name} failed: {done.error}"})
    return failed


def _is_made_of(file: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether the file holds this very model: the rounds may have gone otherwise than before the interruption."""
    try:
        return bool(load_arrays(file)[1].get("made_of") == made_of)
    except RunFileError:
        return False


def _finished(pool: Pool, jobs: Mapping[Ticket, Asked]) -> Iterator[tuple[Asked, Done]]:
    """Each submitted thing with its result, as they come."""
    waiting = dict(jobs)
    while waiting:
        found = pool.next_done(wait_s=0.5)
        if found is not None and found[0] in waiting:
            yield waiting.pop(found[0]), found[1]


def judges(roster: Roster, each: Alone) -> Roster:
    """Who judges a model: one hospital's own is judged at home and at the held-out hospitals, where there are
    any; every other pair of hospitals would cost more than the training and answers no question."""
    alone = each.trained_at != ALL and roster.held_out
    return replace(roster, training=(each.trained_at,)) if alone else roster


def judged_at(outcome: Outcome) -> list[tuple[str, str]]:
    """Site and cohort of every judgement by jobs: the held-out hospitals, or without any the local validation."""
    hellos = outcome.roster.hellos
    if outcome.roster.held_out:
        return [(name, "held-out") for name in outcome.roster.held_out if hellos[name].held_out_cases]
    return [(name, "local-val") for name in outcome.roster.training if hellos[name].validation_cases]


def _judge_ensemble(pool: Pool, plan: Plan, outcome: Outcome, members: Sequence[Alone]) -> dict[str, str]:
    if not members:
        return {}
    files = [str(_folder(plan.folder) / each.file_name) for each in members]
    scalars = {"files": files, "model": "ensemble", "trained_at": ALL, "round": outcome.rounds}
    found, missing = _at_each_site(pool, plan, outcome, "score", "ensemble", scalars)
    tallies = {where: unpack_tally(done) for where, done in found.items()}
    write_judged(plan, tallies, outcome.rounds, "ensemble", ALL)
    return missing


def _at_each_site(
    pool: Pool, plan: Plan, outcome: Outcome, kind: str, model: str, scalars: Mapping[str, Any]
) -> tuple[dict[tuple[str, str], Done], dict[str, str]]:
    """Results by site and cohort, sorted: sums over them must not depend on who was done first; and who has none."""
    jobs = {
        pool.submit(Job(kind, {**scalars, "site": site, "cohort": cohort}, lane=site)): (site, cohort)
        for site, cohort in judged_at(outcome)
    }
    found: dict[tuple[str, str], Done] = {}
    missing: dict[str, str] = {}
    for where, done in _finished(pool, jobs):
        if done.error:
            missing[where[0]] = f"error:{done.error}"
            plan.listen("warning", {"text": f"{where[0]} has no score of {model}: {done.error}"})
        else:
            found[where] = done
    return dict(sorted(found.items())), missing


def _judge_floor(pool: Pool, plan: Plan, outcome: Outcome) -> dict[str, str]:
    """The best of those who learn nothing, chosen in hindsight over all judged cases: a bound in its favour."""
    found, missing = _at_each_site(pool, plan, outcome, "floor", "floor", {})
    scored, rules = floor.choose({where: floor.unpacked(done) for where, done in found.items()}, plan.task, plan.study)
    if not scored:
        return missing
    tallies = {
        # with the seed of every other model's scores at that site: the same patients are drawn
        where: plan.task.tally(
            scores, plan.study.cases, plan.study.evaluation, derive(plan.study.seed, "bootstrap", where[0])
        )
        for where, scores in scored.items()
    }
    write_json(plan.folder.floor, {"format": FORMAT, "rules": dict(rules)})
    write_judged(plan, tallies, outcome.rounds, "floor", ALL)
    plan.listen("floor", dict(rules))
    return missing


# What a worker does of this.


def train_job(run: Path, parts: Parts, job: Job) -> Done:
    """Train on the pooled cases of `sites` from the run's `initial.safetensors`, and write the weights to `file`."""
    study, scalars = parts.study, job.scalars
    opened = [_opened(run, name) for name in scalars["sites"]]
    cases = [case for each in opened for case in each.training]
    if not cases:
        raise DataError("FR-H01", f"no case to train {scalars['name']} on", do="see the sites' own logs")
    network = parts.module()
    start = read_model(run / str(scalars.get("start", "initial.safetensors")), of_module(network))
    steps = int(scalars["steps"])
    piece = Piece(steps, 0, steps, study.seed, ("baseline", str(scalars["name"])))
    result = Result(_settled(parts, parts.task.before, start, opened))
    if steps:
        averaged = marks(study.training.rounds, study.training.average_last, steps)
        beside = spare_core(study.training.threads, read_rehearsal(run / "rehearsal.json").simulation.get("workers", 0))
        result = train(
            network, parts.task, cases, study.cases, study.training, piece, result.arrays,
            averaged=averaged, beside=beside,
        )  # fmt: skip
    arrays = _settled(parts, parts.task.after, result.arrays, opened)
    write_model(Path(scalars["file"]), arrays, study, "", 0, scalars.get("made_of"))
    return Done({"loss": result.loss, "steps": steps, "cases": len(cases)})


def _settled(parts: Parts, purposes: Sequence[str], arrays: Arrays, opened: Sequence[Opened]) -> Arrays:
    """What sites are asked sums for, of these cases alone: a baseline knows as much as the consensus does.

    Where there is no case to validate on, what those would settle stays as it is.
    """
    for purpose in purposes:
        validates = purpose in parts.task.of_validation
        cases = [case for each in opened for case in (each.validation if validates else each.training)]
        if not cases:
            continue
        total = gather_sums(parts, purpose, arrays, cases)
        arrays = settled(parts.task, purpose, total, arrays, parts.study.cases)
    return arrays


def _opened(run: Path, name: str) -> Opened:
    hospital = open_hospital(run, name)
    try:
        return hospital.open_all()
    except Exception as error:  # noqa: BLE001  (of several hospitals: what goes wrong at one is for its own log only)
        add_text(hospital.folder / "log", "".join(traceback.format_exception(error)))
        raise DataError(code_of(error), f"the cases of {name} cannot be opened", do="see its own log") from None


def score_job(run: Path, parts: Parts, job: Job) -> Done:
    """Judge the mean of several models on one cohort of one site."""
    scalars = job.scalars
    hospital = open_hospital(run, scalars["site"])
    like = of_module(parts.module())
    models = [read_model(Path(file), like) for file in scalars["files"]]
    scores, pictures = score_cases(models, hospital.cohort(scalars["cohort"]), parts)
    ask = Ask(
        "score", "", int(scalars["round"]), "", "", "", scalars["model"], scalars["trained_at"], scalars["cohort"]
    )
    write_scores(hospital.folder, ask, scores, pictures)
    seed = derive(parts.study.seed, "bootstrap", scalars["site"])
    return packed(parts.task.tally(scores, parts.study.cases, parts.study.evaluation, seed))


def floor_job(run: Path, parts: Parts, job: Job) -> Done:
    """What every rule that learns nothing makes of one cohort of one site."""
    study = parts.study
    cases = open_hospital(run, job.scalars["site"]).cohort(job.scalars["cohort"])
    judged = parts.task.judged(cases, study.cases, derive(study.seed, "judged"))
    return floor.packed(parts.task.guessed(judged, study.cases, study.evaluation))


def packed(tally: Tally, **scalars: Any) -> Done:
    return Done({"manifest": json.dumps(manifest(tally)), **scalars}, pack(tally))


def unpack_tally(done: Done) -> Tally:
    entries = [(name, dtype, tuple(shape)) for name, dtype, shape in json.loads(done.scalars["manifest"])]
    return unpack(done.buffer, entries)
