"""`fedrounds simulate --dry-run`: sites, cases, steps, bytes, memory, disk and time, before anything is run.

Time and memory come from one site's real work on this machine; everything else is counted. Nothing is
left on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from fedrounds.baselines import Alone, judged_at, judged_by_itself, judges, planned
from fedrounds.forecast import Disk, DryRun, SitePlan
from fedrounds.health import free_memory_bytes, usable_cores
from fedrounds.measure import Down, Measured, finished_after, measure
from fedrounds.simulation import Prepared
from fedrounds_client.receiving import KEPT_FILES as HELD_FILES
from fedrounds_client.state import KEPT_FILES
from fedrounds_client.training import steps_per_round
from fedrounds_common.case import CaseRef
from fedrounds_common.errors import DataError
from fedrounds_common.leaving import Hello
from fedrounds_common.settling import purposes
from fedrounds_common.strategy import Consensus
from fedrounds_common.study.study import Study
from fedrounds_server.checkpoint import KEPT
from fedrounds_server.cohort import Roster, choose, need
from fedrounds_server.plan import Plan
from fedrounds_server.rounds import Outcome
from fedrounds_sites.hospitals import assign, leave_one_out
from fedrounds_sites.keeping import Keeper, existing, free_bytes
from fedrounds_sites.splits import Split, split

REPORT_S = 3.0  # figures and page of a small run took this long; it grows little with the run


def dry_run(prepared: Prepared, runs: Path = Path("runs")) -> DryRun:
    """Count and measure what `simulate` would do.

    Args:
        runs: the folder in which the run's own would lie, and the prepared cases where none keeps them.

    Raises:
        DataError: the folder cannot be used, or no case of any training site can.
        TooFewSites: fewer sites than the study's minimum would train.
    """
    sites = assign(prepared.simulation, prepared.study, prepared.plugins)
    study = leave_one_out(prepared.study, tuple(sites))
    prepared = replace(prepared, study=study)
    plans = tuple(_plan(study, name, sites[name]) for name in sites)
    training = [plan for plan in plans if plan.steps]
    need(len(training), study.cohort.minimum, "would train", {})
    measured = _measure_one(prepared, sites, training)
    outcome = _outcome(study, plans)
    alone = planned(prepared.simulation, outcome, _steps_taken(study, training))
    kept = _kept(prepared, sites, runs)
    return _estimate(prepared, plans, measured, alone, _judgings(prepared, outcome, alone), kept, runs)


def _kept(prepared: Prepared, sites: Mapping[str, Sequence[CaseRef]], runs: Path) -> int:
    """How many prepared cases of these sites a run finds in the folder that keeps them from run to run."""
    simulation = prepared.simulation
    if simulation.cache is None:
        return 0
    reader = simulation.build_reader(prepared.plugins)
    keepers = {name: Keeper(name, runs, reader, simulation, prepared.study) for name in sites}
    return sum(len(refs) - keepers[name].missing(refs) for name, refs in sites.items())


def _plan(study: Study, name: str, refs: Sequence[CaseRef]) -> SitePlan:
    rule, cohort = study.evaluation, study.cohort
    most = rule.cases_per_site or len(refs)
    if name in cohort.held_out:
        return SitePlan(name, "held-out", len(refs), 0, min(len(refs), most), 0)
    both = _split(study, name, refs)
    takes_part = bool(both.train) and (not cohort.sites or name in cohort.sites)
    steps = steps_per_round(study.training, len(both.train)) if takes_part else 0
    return SitePlan(
        name, "train", len(refs), len(both.train), min(len(both.validation), most) if takes_part else 0, steps
    )


def _split(study: Study, name: str, refs: Sequence[CaseRef]) -> Split:
    rule = study.evaluation
    folds = rule.folds if rule.by == "patient" else 0
    return split(refs, name, study.seed, rule.local_validation, folds=folds, fold=rule.fold)


def _measure_one(prepared: Prepared, sites: Mapping[str, Sequence[CaseRef]], training: Sequence[SitePlan]) -> Measured:
    """The site of middle size; the next one where none of its cases can be used."""
    by_size = sorted(training, key=lambda plan: (plan.training, plan.name))
    middle = len(by_size) // 2
    *others, last = (plan.name for plan in [*by_size[middle:], *by_size[:middle]])

    def measured(name: str) -> Measured:
        return measure(prepared, name, sites[name], _split(prepared.study, name, sites[name]).train)

    for name in others:
        try:
            return measured(name)
        except DataError:  # nothing of this site can be used: `study check --data` says what
            continue
    return measured(last)


def _outcome(study: Study, plans: Sequence[SitePlan]) -> Outcome:
    """What `planned` asks a finished run for."""
    hellos = {
        plan.name: Hello(
            plan.name, {}, plan.training, plan.judged if plan.role == "train" else 0,
            plan.judged if plan.role == "held-out" else 0, plan.steps, {},
        )
        for plan in plans
    }  # fmt: skip
    training = tuple(plan.name for plan in plans if plan.steps)
    held_out = tuple(plan.name for plan in plans if plan.role == "held-out")
    return Outcome(Consensus({}), study.training.rounds, Roster({}, hellos, training, held_out, {}), {})


def _steps_taken(study: Study, training: Sequence[SitePlan]) -> dict[str, int]:
    """Of each site over all rounds, if every site that is drawn answers."""
    names = [plan.name for plan in training]
    rounds = range(1, study.training.rounds + 1)
    drawn = Counter(name for round_ in rounds for name in choose(names, study.cohort, study.seed, round_))
    return {plan.name: drawn[plan.name] * plan.steps for plan in training}


@final
@dataclass(frozen=True)
class _Judging:
    """One model, how many cases each of its judges scores, and whether it is sent to them."""

    model: str
    cases: tuple[int, ...]
    sent: bool = True


def _judgings(prepared: Prepared, outcome: Outcome, alone: Sequence[Alone]) -> tuple[_Judging, ...]:
    """In order; a model judged twice stands twice."""
    study, simulation, hellos = prepared.study, prepared.simulation, outcome.roster.hellos

    def of(roster: Roster) -> tuple[int, ...]:
        names = (*roster.training, *roster.held_out)
        return tuple(cases for name in names if (cases := hellos[name].validation_cases + hellos[name].held_out_cases))

    rounds, every = study.training.rounds, study.evaluation.every
    first = "initial" if simulation.initial_weights or study.cohort.initial_sites else "untrained"
    judged = [
        round_ for round_ in range(min(rounds, 1), rounds + 1) if round_ == rounds or (every and round_ % every == 0)
    ]
    names = [first, *(f"consensus of round {round_}" for round_ in judged)]
    found = [_Judging(name, of(outcome.roster)) for name in names]
    found += [_Judging(each.name, of(judges(outcome.roster, each))) for each in judged_by_itself(simulation, alone)]
    places = replace(
        outcome.roster, training=tuple(name for name, cohort in judged_at(outcome) if cohort == "local-val")
    )
    found += [_Judging(name, of(places), False) for name in ("ensemble", "floor") if name in simulation.baselines]
    return tuple(found)


def _estimate(
    prepared: Prepared, plans: tuple[SitePlan, ...], one: Measured, alone: Sequence[Alone],
    judgings: Sequence[_Judging], kept_cases: int, runs: Path,
) -> DryRun:  # fmt: skip
    study, simulation = prepared.study, prepared.simulation
    rounds, cores = study.training.rounds, usable_cores()
    at_once = max(min(simulation.workers, cores), 1)
    drawn = len(choose([plan.name for plan in plans if plan.steps], study.cohort, study.seed, 1))
    update_store = min(drawn * one.up_bytes, Plan.update_budget_bytes)
    memory = one.process_bytes * max(simulation.workers, 1) + update_store + 4 * one.model_bytes
    training_sites = sum(plan.steps > 0 for plan in plans)
    asked_for_sums = training_sites * len(purposes(prepared.parts.task))  # the model goes with each request
    cases = one.case_bytes * sum(plan.cases for plan in plans)
    new = cases - one.case_bytes * kept_cases
    kept = simulation.cache
    # of what differences are from, the sites keep the last few, and the coordinator those of its checkpoints
    held = HELD_FILES * training_sites + KEPT + 1 if prepared.parts.down.differences else 0
    left = one.state_bytes * KEPT_FILES * training_sites + one.model_bytes * (KEPT + 2 + len(alone) + held)
    return DryRun(
        sites=plans,
        rounds=rounds,
        drawn=drawn,
        workers=simulation.workers,
        cores=cores,
        models=tuple(each.model for each in judgings),
        measured=one,
        down_bytes=_down_bytes(study, [plan.name for plan in plans if plan.steps], one.down) // max(rounds, 1),
        up_bytes=drawn * one.up_bytes,
        judging_bytes=(sum(len(each.cases) for each in judgings if each.sent) + asked_for_sums) * one.down.unpacked,
        memory_bytes=memory + (one.base_bytes if simulation.workers else 0),
        free_memory_bytes=free_memory_bytes(),
        disk_bytes=left + cases,
        left_bytes=left + (0 if kept is None else cases),
        cases_bytes=cases,
        new_cases_bytes=new,
        kept="" if kept is None else str(kept),
        disks=_disks((runs, left), (runs if kept is None else kept, new)),
        seconds=_seconds(prepared, plans, one, alone, at_once, judgings),
    )


def _disks(*written: tuple[Path, int]) -> tuple[Disk, ...]:
    """What is written where, added up where two folders lie on one disk."""
    found: dict[int, Disk] = {}
    for folder, needed in written:
        there = existing(folder)
        device = there.stat().st_dev
        before = found.get(device) or Disk(str(folder), 0, free_bytes(there))
        found[device] = replace(before, needed_bytes=before.needed_bytes + needed)
    return tuple(found.values())


def _down_bytes(study: Study, training: Sequence[str], down: Down) -> int:
    """Of all rounds together, if every site that is drawn answers."""
    total, before = 0, set(training)
    for round_ in range(1, study.training.rounds + 1):
        drawn = set(choose(training, study.cohort, study.seed, round_))
        stayed = len(drawn & before)
        each = down.first if round_ == 1 else down.next
        total += stayed * each + (len(drawn) - stayed) * down.missed
        before = drawn
    return total


def _seconds(
    prepared: Prepared, plans: Sequence[SitePlan], one: Measured, alone: Sequence[Alone], at_once: int,
    judgings: Sequence[_Judging],
) -> dict[str, float]:  # fmt: skip
    study, simulation = prepared.study, prepared.simulation
    training = {plan.name: plan for plan in plans if plan.steps}
    rounds = 0.0
    for round_ in range(1, study.training.rounds + 1):
        names = choose(list(training), study.cohort, study.seed, round_)
        rounds += finished_after([one.message_s + training[name].steps * one.step_s for name in names], at_once)
    members = min(simulation.ensemble, sum(each.model == "local-only" for each in alone))
    per_case = {"ensemble": max(members, 1) * one.predict_s, "floor": one.floor_s}
    judging = sum(
        finished_after([one.message_s + n * per_case.get(each.model, one.predict_s) for n in each.cases], at_once)
        for each in judgings
    )
    waves = max(1.0, simulation.workers / usable_cores())  # starting is work too
    return {
        "starting": one.start_s * waves,
        "reading": finished_after([plan.cases * one.load_s for plan in plans], at_once),
        "initial model": study.cohort.initial_steps * one.plain_step_s if study.cohort.initial_sites else 0.0,
        "rounds": rounds,
        "baselines": finished_after([each.steps * one.plain_step_s for each in alone], at_once),
        "judging": judging,
        "report": REPORT_S,
    }
