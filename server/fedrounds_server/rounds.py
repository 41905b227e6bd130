"""The rounds of a run: say hello, ask for updates, admit them, average, write a checkpoint, judge.

Our own loop over Flower's Grid: its Strategy sizes the cohort before it waits, has no resume, and
averages whatever comes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from flwr.serverapp import Grid

from fedrounds_common.arrays import Arrays, digest, is_float, norm, size_bytes
from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import MAX_NORM, Ask, Hello, Update
from fedrounds_common.strategy import Consensus
from fedrounds_server import history
from fedrounds_server.checkpoint import Checkpoint, newest_checkpoint, write_checkpoint
from fedrounds_server.cohort import Roster, choose, need, roster
from fedrounds_server.grid import Answer, ask_nodes
from fedrounds_server.guard import Guard
from fedrounds_server.history import RoundLine, SiteLine
from fedrounds_server.judging import judge
from fedrounds_server.plan import Plan
from fedrounds_server.updates import UpdateStore

HELLO_DEADLINE_S = 24 * 3600.0


@final
@dataclass(frozen=True)
class Outcome:
    """`states`: each planned site's worst state over all rounds ("ok" if it was never anything else)."""

    consensus: Consensus
    rounds: int
    roster: Roster
    states: Mapping[str, str]


def run(grid: Grid, plan: Plan) -> Outcome:
    """Carry the study out; everything a reader needs is in the run folder afterwards.

    Raises:
        TooFewSites: at the start, or in a round; what was reached stays in the last checkpoint.
    """
    sites = say_hello(grid, plan)
    guard = Guard({name: hello.training_cases for name, hello in sites.hellos.items()}, MAX_NORM, plan.codec)
    consensus, first, states = _begin(plan, sites)
    rounds = plan.study.training.rounds
    plan.listen(
        "plan", {"rounds": rounds, "first": first, "sites": len(sites.planned), "held_out": len(sites.held_out)}
    )
    if first == 1:
        states = merged(states, judge(grid, plan, sites, 0, plan.start_model, "all", consensus.arrays))
    elif _is_judged(plan, first - 1):
        # a run killed after a checkpoint may not have judged it yet; what it had judged is not asked for again
        states = merged(states, judge(grid, plan, sites, first - 1, "consensus", "all", consensus.arrays))
    for round_ in range(first, rounds + 1):
        consensus, line = one_round(grid, plan, sites, guard, consensus, round_)
        states = _worst(states, line, sites)
        # history first: a line without its checkpoint is dropped on resume, a checkpoint without a line is a gap
        history.append(plan.folder.history, line)
        write_checkpoint(plan.folder.checkpoints, Checkpoint(round_, plan.digest, consensus, states))
        plan.listen("round", {"round": round_, "ok": len(line.ok), "seconds": line.seconds, "loss": _loss(line)})
        if _is_judged(plan, round_):
            states = merged(states, judge(grid, plan, sites, round_, "consensus", "all", consensus.arrays))
    return Outcome(consensus, rounds, sites, states)


def _is_judged(plan: Plan, round_: int) -> bool:
    every = plan.study.evaluation.every
    return round_ == plan.study.training.rounds or bool(every and round_ % every == 0)


def say_hello(grid: Grid, plan: Plan) -> Roster:
    """Ask every node who it is; a name that comes twice is nobody's."""
    ask = Ask("hello", plan.folder.path.name, 0, secrets.token_hex(8), plan.text, plan.digest)
    hellos: dict[str, Hello] = {}
    nodes: dict[str, int] = {}
    faults: dict[str, str] = {}
    deadline = plan.study.cohort.deadline_s or HELLO_DEADLINE_S
    expected = getattr(grid, "names", {})  # only a grid that plays the sites itself knows names beforehand
    for answer in ask_nodes(grid, dict.fromkeys(grid.get_node_ids(), ask), deadline):
        if isinstance(answer.leaving, Hello) and not answer.fault:
            name = answer.leaving.site
            if name in hellos:
                faults[name] = "error:FR-R41"
            hellos[name], nodes[name] = answer.leaving, answer.node
        else:
            name = getattr(answer.leaving, "site", "") or expected.get(answer.node, f"node-{answer.node}")
            faults[name] = answer.state
        plan.listen("hello", {"site": name, "state": faults.get(name, "ok")})
    for name in [name for name in faults if name in hellos]:
        del hellos[name], nodes[name]
    return roster(nodes, hellos, faults, plan.study.cohort)


def _begin(plan: Plan, sites: Roster) -> tuple[Consensus, int, dict[str, str]]:
    """The consensus to start from, the first round to do, and what is known of the sites."""
    fresh = {**dict.fromkeys(sites.planned, "ok"), **sites.absent}
    if plan.resume:
        found, damaged = newest_checkpoint(plan.folder.checkpoints, plan.digest)
        for line in damaged:
            plan.listen("warning", {"text": line})
        if found is not None:
            history.keep_until(plan.folder.history, found.round)
            # a site that was well when the run stopped and is not there now has failed
            return found.consensus, found.round + 1, merged({**fresh, **found.states}, fresh)
    history.keep_until(plan.folder.history, 0)
    return plan.strategy.begin(plan.initial), 1, fresh


def one_round(
    grid: Grid, plan: Plan, sites: Roster, guard: Guard, consensus: Consensus, round_: int
) -> tuple[Consensus, RoundLine]:
    """One round: the next consensus, and a line that names every planned site.

    Raises:
        TooFewSites: updates of fewer than `cohort.minimum` sites were fit to be averaged.
    """
    started = time.monotonic()
    chosen = choose(sites.training, plan.study.cohort, plan.study.seed, round_)
    ask = Ask(
        "train", plan.folder.path.name, round_, secrets.token_hex(8), plan.text, plan.digest,
        arrays=consensus.arrays, shared=consensus.shared,
    )  # fmt: skip
    names = {sites.nodes[name]: name for name in chosen}
    sent = size_bytes(ask.arrays) + size_bytes(ask.shared)  # to every site that is asked, whatever it then does
    store = UpdateStore(plan.folder.updates(round_), plan.update_budget_bytes)
    lines = {name: SiteLine(name, sites.absent.get(name, "absent")) for name in sites.planned}
    plan.listen("round-start", {"round": round_, "sites": len(chosen)})
    for answer in ask_nodes(grid, dict.fromkeys(names, ask), plan.study.cohort.deadline_s):
        name = names[answer.node]
        lines[name] = replace(_take(answer, ask, name, guard, store), bytes_down=sent)
        plan.listen("site", {"round": round_, "site": name, "state": lines[name].state, "loss": lines[name].loss})
    need(len(store), plan.study.cohort.minimum, f"sent an update fit for round {round_}",
         {name: lines[name].state for name in chosen if lines[name].state != "ok"})  # fmt: skip
    following = plan.strategy.aggregate(consensus, store)
    lines = _with_cosines(lines, store, consensus.arrays, following.arrays)
    store.clear()
    seconds = time.monotonic() - started
    return following, RoundLine(round_, seconds, digest(following.arrays), tuple(lines[name] for name in sorted(lines)))


def _take(answer: Answer, ask: Ask, name: str, guard: Guard, store: UpdateStore) -> SiteLine:
    if answer.fault or answer.leaving is None:
        return SiteLine(name, answer.state, reference=answer.reference)
    try:
        update = guard.admit(answer.leaving, ask, name)
    except UpdateError as error:
        return SiteLine(name, f"error:{error.code}", bytes_up=answer.bytes_up)
    store.put(update)
    assert isinstance(answer.leaving, Update)
    said = answer.leaving
    return SiteLine(
        name, "ok", update.cases, said.steps, said.loss, said.seconds, answer.bytes_up, norm=norm(update.arrays)
    )


def _with_cosines(lines: dict[str, SiteLine], store: UpdateStore, before: Arrays, after: Arrays) -> dict[str, SiteLine]:
    """How far each update points where the consensus went: −1 … 1."""
    step = {name: after[name].astype(np.float64) - before[name] for name in before if is_float(before[name])}
    length = norm(step)
    result = dict(lines)
    for update in store:
        dot = sum(float(np.vdot(step[name], update.arrays[name])) for name in step)
        scale = length * norm(update.arrays)
        result[update.site] = replace(lines[update.site], cosine=dot / scale if scale > 0 else None)
    return result


def _worst(states: Mapping[str, str], line: RoundLine, sites: Roster) -> dict[str, str]:
    """A site that failed once is a failed site, whatever it did later; not being drawn is no failure."""
    result = dict(states)
    for site in line.sites:
        drawn_out = site.state == "absent" and site.site not in sites.absent
        if site.state != "ok" and not drawn_out and result.get(site.site, "ok") == "ok":
            result[site.site] = site.state
    return result


def merged(states: Mapping[str, str], missing: Mapping[str, str]) -> dict[str, str]:
    """The states with those of sites that sent no scores; what was wrong first stays."""
    return {**states, **{name: state for name, state in missing.items() if states.get(name, "ok") == "ok"}}


def _loss(line: RoundLine) -> float | None:
    """Mean training loss of the round, weighted by cases."""
    weight = sum(site.cases for site in line.ok)
    return sum((site.loss or 0.0) * site.cases for site in line.ok) / weight if weight else None
