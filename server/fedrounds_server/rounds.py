"""The rounds of a run: say hello, ask for updates, admit them, average, write a checkpoint, judge.

Before the first and after the last, sites are asked for the sums that the study's task wants (`summing`).

Our own loop over Flower's Grid: its Strategy sizes the cohort before it waits, has no resume, and
averages whatever comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

from flwr.serverapp import Grid

from fedrounds_common.arrays import digest
from fedrounds_common.disk import remove_folder
from fedrounds_common.errors import RunFileError
from fedrounds_common.leaving import MAX_NORM
from fedrounds_common.strategy import Consensus
from fedrounds_common.tail import Tail, counted
from fedrounds_server import history
from fedrounds_server.checkpoint import Checkpoint, newest_checkpoint, write_checkpoint
from fedrounds_server.cohort import Roster
from fedrounds_server.conduct import Conduct
from fedrounds_server.greeting import Reception
from fedrounds_server.grid import Post
from fedrounds_server.guard import Guard, norms_of
from fedrounds_server.history import STATISTICS, RoundLine
from fedrounds_server.judging import WITHHELD, judge
from fedrounds_server.noising import cannot_pay, noising_of
from fedrounds_server.plan import Plan
from fedrounds_server.summing import Summing


@final
@dataclass(frozen=True)
class Outcome:
    """`states`: each planned site's worst state over all rounds ("ok" if it was never anything else).

    `unlike`: sites whose versions do not give the same bits as those here, and how. `stopped`: why rounds are missing.
    """

    consensus: Consensus
    rounds: int
    roster: Roster
    states: Mapping[str, str]
    unlike: Mapping[str, str] = field(default_factory=dict)
    stopped: str = ""


def run(grid: Grid, plan: Plan) -> Outcome:
    """Carry the study out; everything a reader needs is in the run folder afterwards.

    Raises:
        TooFewSites: at the start, or in a round; what was reached stays in the last checkpoint.
    """
    post = Post(grid, plan.clock, plan.keys)
    reception = Reception(post, plan)
    sites = reception.gather()
    at = _begin(plan, sites)
    first, rounds = at.round + 1, plan.study.training.rounds
    plan.listen(
        "plan", {"rounds": rounds, "first": first, "sites": len(sites.planned), "held_out": len(sites.held_out)}
    )
    if first == 1:
        missing = judge(grid, plan, sites, 0, plan.start_model, "all", plan.initial, post)
        at = replace(at, states=merged(at.states, missing))
    elif at.round < rounds and _is_judged(plan, at.round):
        # a run killed after a checkpoint may not have judged it yet; what it had judged is not asked for again
        at = _judged(grid, plan, sites, at, post)
    noising = noising_of(plan, at.noising)
    noise = (
        float if noising is None else partial(noising.size_of_noise, sum(each.size for each in plan.initial.values()))
    )
    guard = Guard(
        reception.caps, MAX_NORM, plan.codec, norms_of(history.read(plan.folder.history)), noise, noising is not None
    )
    summing, conduct = Summing(plan, post, reception, guard), Conduct(plan, post, reception, guard, noising=noising)
    before = plan.task.before if at.round == 0 else ()
    for purpose in before[at.settled :]:
        at, sites = _settle(summing, at, purpose)
    stopped = ""
    for round_ in range(first, rounds + 1):
        if stopped := cannot_pay(noising):
            plan.listen("warning", {"text": stopped})
            break
        consensus, line, sites = conduct.one_round(at.consensus, round_)
        kept = {} if noising is None else noising.kept
        at = replace(at, round=round_, consensus=consensus, states=_worst(at.states, line), noising=kept)
        at = _done(plan, *_averaged(plan, at, line))
        remove_folder(plan.folder.round(round_))  # not before: until then a crash needs what is in it
        plan.listen("round", {"round": round_, "ok": len(line.ok), "seconds": line.seconds, "loss": _loss(line)})
        if round_ < rounds and _is_judged(plan, round_):
            at = _judged(grid, plan, sites, at, post)
    for purpose in plan.task.after[at.settled - len(plan.task.before) :]:
        at, sites = _settle(summing, at, purpose)
    at = _judged(grid, plan, sites, at, post)
    return Outcome(at.consensus, at.round, sites, at.states, dict(reception.unlike), stopped)


def _averaged(plan: Plan, at: Checkpoint, line: RoundLine) -> tuple[Checkpoint, RoundLine]:
    """With this round in the mean of the last ones, where the study wants it; after the last, that is the consensus."""
    training = plan.study.training
    if at.round not in counted(training.rounds, training.average_last):
        return at, line
    at = replace(at, tail=at.tail.plus(at.consensus.arrays))
    if at.round < training.rounds:
        return at, line
    arrays = at.tail.mean(at.consensus.arrays)
    return replace(at, consensus=replace(at.consensus, arrays=arrays), tail=Tail()), replace(
        line, digest=digest(arrays)
    )


def _settle(summing: Summing, at: Checkpoint, purpose: str) -> tuple[Checkpoint, Roster]:
    """The consensus with one purpose's sums written into it. Before the rounds the strategy begins with that."""
    plan, started = summing.plan, summing.plan.clock.now()
    found = summing.settle(purpose, at.consensus.arrays, at.round)
    begins = at.settled < len(plan.task.before)
    consensus = plan.strategy.begin(found.arrays) if begins else replace(at.consensus, arrays=found.arrays)
    seconds = plan.clock.now() - started
    line = RoundLine(at.round, seconds, digest(consensus.arrays), found.lines, STATISTICS, purpose)
    after = replace(at, consensus=consensus, states=_worst(at.states, line), settled=at.settled + 1)
    after = _done(plan, after, line)
    plan.listen("statistics", {"purpose": purpose, "ok": len(line.ok), "seconds": seconds})
    return after, found.sites


def _done(plan: Plan, at: Checkpoint, line: RoundLine) -> Checkpoint:
    # history first: a line without its checkpoint is dropped on resume, a checkpoint without a line is a gap
    history.append(plan.folder.history, line)
    write_checkpoint(plan.folder.checkpoints, at)
    return at


def _judged(grid: Grid, plan: Plan, sites: Roster, at: Checkpoint, post: Post) -> Checkpoint:
    missing = judge(grid, plan, sites, at.round, "consensus", "all", at.consensus.arrays, post)
    return replace(at, states=merged(at.states, missing))


def _is_judged(plan: Plan, round_: int) -> bool:
    """Whether the consensus of a round before the last is judged; that of the last always is."""
    every = plan.study.evaluation.every
    return bool(every and round_ % every == 0)


def _begin(plan: Plan, sites: Roster) -> Checkpoint:
    """Where to start from: the newest checkpoint, or the first weights; and what is known of the sites.

    Raises:
        RunFileError: FR-R57 rounds were done, and no checkpoint of them can be used.
    """
    fresh = {**dict.fromkeys(sites.planned, "ok"), **sites.absent}
    if plan.resume:
        found, damaged = newest_checkpoint(plan.folder.checkpoints, plan.digest)
        for line in damaged:
            plan.listen("warning", {"text": line})
        if found is not None:
            history.keep_until(plan.folder.history, found.round, found.settled)
            _clean(plan, found.round + 1)
            # a site that was well when the run stopped and is not there now has failed
            return replace(found, states=merged({**fresh, **found.states}, fresh))
        _refuse_lost_rounds(plan, damaged)
    else:
        remove_folder(plan.folder.rounds)
        remove_folder(plan.folder.down)
    history.keep_until(plan.folder.history, 0)
    return Checkpoint(0, plan.digest, plan.strategy.begin(plan.initial), fresh)


def _refuse_lost_rounds(plan: Plan, damaged: list[str]) -> None:
    # one line without a checkpoint is a crash between the two; more were checkpoints once
    done = len(history.read(plan.folder.history))
    if plan.anew or not (damaged or done > 1):
        return
    raise RunFileError(
        "FR-R57", f"{len(damaged)} damaged checkpoints and none that is whole, after {done} rounds",
        wanted="one to go on from", do="put one back from a copy, or start anew and say so (`anew`)",
        where=str(plan.folder.checkpoints),
    )  # fmt: skip


def _clean(plan: Plan, first: int) -> None:
    """Take away what is left of rounds that a checkpoint has."""
    for folder in sorted(plan.folder.rounds.glob("[0-9]*")):
        if folder.name.isdigit() and int(folder.name) < first:
            remove_folder(folder)


def _worst(states: Mapping[str, str], line: RoundLine) -> dict[str, str]:
    """A site that failed once is a failed site, whatever it did later; not being drawn is no failure."""
    result = dict(states)
    for site in line.sites:
        withholds = line.kind == STATISTICS and site.state == WITHHELD  # its own policy, and no fault
        if site.failed and not withholds and result.get(site.site, "ok") == "ok":
            result[site.site] = site.state
    return result


def merged(states: Mapping[str, str], missing: Mapping[str, str]) -> dict[str, str]:
    """The states with those of sites that sent no scores; what was wrong first stays."""
    return {**states, **{name: state for name, state in missing.items() if states.get(name, "ok") == "ok"}}


def _loss(line: RoundLine) -> float | None:
    """Mean training loss of the round, weighted by cases; None where no site tells its own."""
    told = [(site.loss, site.cases) for site in line.ok if site.loss is not None]
    weight = sum(cases for _, cases in told)
    return sum(loss * cases for loss, cases in told) / weight if weight else None
