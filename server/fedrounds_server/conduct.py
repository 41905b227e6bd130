"""How one round is carried out: who is asked, what is taken, when it is enough, and what it becomes."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import final

from fedrounds_common.arrays import Arrays, digest, packed, size_bytes
from fedrounds_common.channel import Channel
from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.disk import remove_folder
from fedrounds_common.errors import RoundError, TooFewSites
from fedrounds_common.flat import Flat
from fedrounds_common.leaving import Ask
from fedrounds_common.spans import timed
from fedrounds_common.strategy import Consensus, Updates
from fedrounds_server.answers import LOST, Answer
from fedrounds_server.cohort import Roster, need, need_cases, ranked, spares
from fedrounds_server.collecting import Collection
from fedrounds_server.cosines import sampled_of
from fedrounds_server.downlink import Downlink
from fedrounds_server.greeting import LAST_S, Reception
from fedrounds_server.grid import Post
from fedrounds_server.guard import Guard
from fedrounds_server.history import RoundLine, SiteLine
from fedrounds_server.masked import MaskedRound, thrown_away
from fedrounds_server.midround import OpenRound, read_open, settle_open, write_open
from fedrounds_server.noising import Noising
from fedrounds_server.plan import Plan
from fedrounds_server.updates import UpdateStore

MOST_THROWN = 3  # rounds in a row without a sum: then something is wrong that no next round mends


@final
@dataclass
class Conduct:
    """How rounds are carried out; `before` is the last round's request and whom it went to. `noising`: where the study
    hides hospitals."""

    plan: Plan
    post: Post
    reception: Reception
    guard: Guard
    before: tuple[Ask, Mapping[int, str]] | None = None
    noising: Noising | None = None
    thrown: int = 0  # rounds in a row that came to nothing
    channel: Channel = field(init=False)
    down: Downlink = field(init=False)

    def __post_init__(self) -> None:
        plan = self.plan
        self.channel = plan.study.build_channel()
        self.down = Downlink(plan.down, plan.folder.down, plan.study.seed, plan.digest)
        self.post.travels, self.post.lacks = self.down.travels, self.down.lacks

    def one_round(self, consensus: Consensus, round_: int) -> tuple[Consensus, RoundLine, Roster]:
        """One round: the next consensus, a line that names every planned site, and who is there.

        Raises:
            TooFewSites: updates of too few sites or cases were fit to be averaged.
        """
        plan, started = self.plan, self.plan.clock.now()
        sites = self.reception.again()
        self.down.pack(consensus.arrays, round_)
        opened = self._opened(sites, consensus, round_)
        collection = self._collection(opened, consensus)
        collection.read_back()
        averaged: Mapping[str, int] = {}
        try:
            sites, opened = self._collect(collection, sites, opened)
            collection.stand_in()
            averaged = collection.store.cases
            updates = self._noised(collection, self._summed(collection, sites), consensus)
            following = _held(timed("aggregate")(plan.strategy.aggregate)(consensus, updates))
            self.thrown = 0
        except RoundError as error:
            if not thrown_away(error):
                raise
            following = self._throw_away(collection, consensus, error)
        finally:
            # what must outlive a failed round is beside the store, and kept
            collection.store.forget() if plan.keeps else collection.store.clear()
        # as it will travel: what is sent is then this very buffer, and no copy of it
        following = replace(following, arrays=packed(following.arrays), shared=packed(following.shared))
        collection.with_cosines(consensus.arrays, following.arrays, averaged)
        lines = tuple(collection.lines[name] for name in sorted(collection.lines))
        self.reception.lost({line.site for line in lines if line.state == f"error:{LOST}"})
        plain = size_bytes(consensus.arrays) + size_bytes(consensus.shared)
        line = RoundLine(
            round_, plan.clock.now() - started, digest(following.arrays), lines, model_bytes=plain
        )  # fmt: skip
        return following, line, sites

    def _summed(self, collection: Collection, sites: Roster) -> Updates:
        """The updates, or where each is hidden their sum. Raises RoundError: FR-R82, FR-R83 the round came to nothing."""
        if collection.masks is None:
            return collection.store
        return collection.masks.sum(self.post, sites.nodes, collection.store.cases)

    def _throw_away(self, collection: Collection, consensus: Consensus, error: RoundError) -> Consensus:
        """The consensus as it was, and in every line why. Raises the error: it is one round too many in a row."""
        self.thrown += 1
        self.plan.listen("warning", {"text": f"round {collection.ask.round}: {error}"})
        if self.thrown >= MOST_THROWN:
            lost = error.code == "FR-R82"
            raise TooFewSites(error.code, error.found, wanted=error.wanted, do=error.do) if lost else error
        for name, line in collection.lines.items():
            if line.state == "ok" and not line.part:
                collection.lines[name] = replace(line, state=f"error:{error.code}")
        return consensus

    def _noised(self, collection: Collection, updates: Updates, consensus: Consensus) -> Updates:
        """The round's updates, or where hospitals are hidden their noisy mean. Raises BudgetError: it cannot be paid for."""
        if self.noising is None:
            return updates
        round_, counted = collection.ask.round, collection.store.cases
        below = [collection.below[name] for name in sorted(counted) if name in collection.below]
        return timed("aggregate")(self.noising.noised)(round_, consensus.arrays, updates, below)

    # ------------------------------------------------------------ what is asked

    def _opened(self, sites: Roster, consensus: Consensus, round_: int) -> OpenRound:
        """The round as an interrupted run began it, or a new one; on disk before anybody is asked."""
        plan, folder = self.plan, self.plan.folder.round(round_)
        start = digest(consensus.arrays) + self.down.sent.holds if plan.keeps else ""
        # of a sum that was broken off nothing can be used, and a site answers one round once: another nonce, fresh keys
        found = read_open(folder) if plan.keeps and not self.channel.hides_sites else None
        if found is not None and (found.round, found.study, found.start) == (round_, plan.digest, start):
            opened = found
            settle_open(folder)
        else:
            remove_folder(folder)
            before = self.before[0].nonce if self.before else ""
            opened = OpenRound(round_, secrets.token_hex(8), plan.digest, start, {}, before)
        return self._widened(opened, sites)

    def _widened(self, opened: OpenRound, sites: Roster) -> OpenRound:
        """The same round with the sites that are drawn now too: who was asked before stays asked."""
        drawn, passed_over = self._drawn(opened, sites)
        asked = {**opened.sites, **{name: self.reception.caps[name] for name in drawn}}
        if (asked, passed_over) != (opened.sites, opened.passed_over):
            opened = replace(opened, sites=asked, passed_over=passed_over)
            if self.plan.keeps:
                write_open(self.plan.folder.round(opened.round), opened)
        for name, cases in asked.items():  # an update read back may be of a site that is not there now
            self.reception.caps.setdefault(name, cases)
        return opened

    def _drawn(self, opened: OpenRound, sites: Roster) -> tuple[Iterable[str], tuple[str, ...]]:
        """Who is drawn for this round, and of those that are drawn in secret who is not: both stay so, however it goes on."""
        cohort = self.plan.study.cohort
        if self.noising is not None and self.noising.samples:
            new = set(sites.training) - set(opened.sites) - set(opened.passed_over)
            drawn = self.noising.draw(new)
            return drawn, tuple(sorted({*opened.passed_over, *(new - drawn)}))
        order = ranked(sites.training, cohort, self.plan.study.seed, opened.round)
        return order[: cohort.per_round + spares(cohort)] if cohort.per_round else order, opened.passed_over

    def _ask(self, round_: int, nonce: str, consensus: Consensus) -> Ask:
        plan = self.plan
        shared = consensus.shared if self.noising is None else self.noising.shared(consensus.shared)
        return Ask(
            "train", plan.folder.path.name, round_, nonce, plan.text, plan.digest,
            arrays=consensus.arrays, shared=shared,
        )  # fmt: skip

    def _collection(self, opened: OpenRound, consensus: Consensus) -> Collection:
        plan = self.plan
        ask = self.down.ask(self._ask(opened.round, opened.nonce, consensus))
        if isinstance(self.channel, SecureSum):
            lines: dict[str, SiteLine] = {}
            masks = MaskedRound(plan, self.channel, self.guard, ask, lines)
            store = UpdateStore(plan.folder.updates(opened.round))
            return Collection(plan, self.guard, ask, store, lines, noising=self.noising, masks=masks)
        store = UpdateStore(plan.folder.updates(opened.round), plan.update_budget_bytes, plan.strategy.folds())
        sampled = sampled_of(len(opened.sites))
        if self.before is not None:
            return Collection(plan, self.guard, ask, store, {}, *self.before, sampled=sampled, noising=self.noising)
        # of the round before, only what is on disk of it: the model's tensors are the same
        before = self._ask(opened.round - 1, opened.before, consensus) if opened.before else None
        return Collection(plan, self.guard, ask, store, {}, before, sampled=sampled, noising=self.noising)

    # ------------------------------------------------------------ what comes

    def _collect(self, collection: Collection, sites: Roster, opened: OpenRound) -> tuple[Roster, OpenRound]:
        """Ask until enough have answered. Between hospitals the missing ones are waited for as the study says.

        Raises:
            TooFewSites: there were not enough.
        """
        clock, end = self.plan.clock, self.plan.clock.now() + self.plan.study.cohort.wait_s
        asked: dict[int, str] = {}
        # at once, and not when the next one comes: it must be on disk before anything else can happen
        self.post.take_stray = lambda answer: self._take_stray(collection, asked, answer)
        for answer in self.post.take_strays("train"):
            self._take_stray(collection, asked, answer)
        try:
            while True:
                self._ask_once(collection, sites, opened, asked)
                short = self._short(collection, sites, opened)
                if short is None:
                    return sites, opened
                if clock.now() >= end or not self._may_mend(collection, opened):
                    raise short
                self.plan.listen("warning", {"text": f"{short.found}; waiting for the others"})
                self.post.wait(LAST_S)
                sites = self.reception.again()
                opened = self._widened(opened, sites)
        finally:
            self._close(collection.ask, asked)

    def _ask_once(self, collection: Collection, sites: Roster, opened: OpenRound, asked: dict[int, str]) -> None:
        """Ask whom we have nothing of, and take what comes by the deadline; `asked` gains whom."""
        plan, ask, cohort = self.plan, collection.ask, self.plan.study.cohort
        failed = {name for name, line in collection.lines.items() if line.failed and not mends(line.state)}
        self._lines_of_the_others(collection, sites, opened)
        self.down.greeted(sites)
        missing = set(opened.sites) - set(collection.fresh) - failed
        names = {sites.nodes[name]: name for name in sorted(missing) if name in sites.nodes}
        asked |= names
        if self._is_final():
            collection.store.awaits({*names.values(), *collection.fresh})
        plan.listen("round-start", {"round": ask.round, "sites": len(opened.sites)})
        keep = not self.reception.closed or cohort.late == "next"
        order = ranked(list(opened.sites), cohort, plan.study.seed, ask.round)
        with closing(self.post.ask(dict.fromkeys(names, ask), cohort.deadline_s, keep)) as answers:
            while not self._enough(collection, order) and (answer := next(answers, None)) is not None:
                self._take(collection, answer, names[answer.node])
        self._leave_out_spares(collection, order, asked)

    def _is_final(self) -> bool:
        """Whether an answer of this round, or that there is none, stands when it comes: whose turn it is in the sum
        can then be told. Nobody is asked twice, left out as a spare, or stood in for by an answer to another round.
        """
        cohort = self.plan.study.cohort
        return self.reception.closed and not self.plan.keeps and not cohort.over_select and cohort.late == "drop"

    def _take(self, collection: Collection, answer: Answer, name: str) -> None:
        collection.take(answer, name)
        if collection.lines[name].state == "ok":
            self.down.received(name, collection.ask)

    def _take_stray(self, collection: Collection, asked: Mapping[int, str], answer: Answer) -> bool:
        """What came while nobody waited for it: of this round past its deadline, or of the round before."""
        if answer.ask is None or answer.ask.kind != "train":
            return False
        if answer.ask is collection.ask:
            self._take(collection, answer, asked[answer.node])
        else:
            collection.take_late(answer)
        return True

    def _lines_of_the_others(self, collection: Collection, sites: Roster, opened: OpenRound) -> None:
        """Every planned site has a line: who is away says so, and who was not drawn."""
        for name in {*sites.planned, *opened.sites}:
            line = collection.lines.get(name)
            if line is None or line.part == "idle":
                away = sites.absent.get(name, "absent")
                idle = name in sites.training and name not in opened.sites
                collection.lines[name] = SiteLine(name, away, part="idle" if idle else "")

    def _enough(self, collection: Collection, order: tuple[str, ...]) -> bool:
        """Whether the first `per_round` in the order of the draw that did not fail have all answered.

        By the draw and not by who is quick: the same sites failing, the same ones are averaged.
        """
        cohort = self.plan.study.cohort
        if not cohort.over_select:
            return False
        first = [name for name in order if name in collection.fresh or name not in collection.answered][
            : cohort.per_round
        ]
        return len(first) == cohort.per_round and set(first) <= set(collection.fresh)

    def _leave_out_spares(self, collection: Collection, order: tuple[str, ...], asked: Mapping[int, str]) -> None:
        cohort = self.plan.study.cohort
        if not cohort.per_round:
            return
        for name in [name for name in order if name in collection.fresh][cohort.per_round :]:
            collection.store.drop(name)
            collection.lines[name] = replace(collection.lines[name], part="spare")
        if self._enough(collection, order):
            for node, name in asked.items():
                if name not in collection.answered and name not in collection.fresh:
                    sent = self.post.bytes_to(node, collection.ask)
                    collection.lines[name] = SiteLine(name, "absent", bytes_down=sent, part="spare")

    def _short(self, collection: Collection, sites: Roster, opened: OpenRound) -> TooFewSites | None:
        """What is wrong with making a consensus of what there is; None if nothing."""
        study, fresh = self.plan.study, collection.fresh
        missing = {
            name: line.state for name, line in sorted(collection.lines.items()) if name in opened.sites and line.failed
        }
        planned = set(sites.planned)
        enrolled = self.plan.keys.enrolled() if self.plan.keys else {}
        known = {name: n for name, n in {**enrolled, **opened.sites, **self.reception.known}.items() if name in planned}
        try:
            samples = self.noising is not None and self.noising.samples  # then as few as were drawn are enough
            minimum = min(study.cohort.minimum, len(opened.sites)) if samples else study.cohort.minimum
            minimum = max(minimum, self.channel.minimum) if isinstance(self.channel, SecureSum) else minimum
            need(len(fresh), minimum, f"sent an update fit for round {opened.round}", missing)
            need_cases(fresh, known, study.cohort, study.seed, opened.round)
        except TooFewSites as short:
            kept = f"; on disk for when the run goes on: {', '.join(fresh) or 'none'}" if self.plan.keeps else ""
            return TooFewSites(short.code, short.found, wanted=short.wanted, do=short.do + kept)
        return None

    def _may_mend(self, collection: Collection, opened: OpenRound) -> bool:
        """Whether waiting can help: somebody may come back, or change their mind; broken data stay broken."""
        if self.reception.closed:
            return False
        return any(mends(line.state) for line in collection.lines.values() if line.failed)

    def _close(self, ask: Ask, asked: Mapping[int, str]) -> None:
        """Late answers are waited for into the next round, or not at all."""
        self.post.take_stray = lambda answer: False
        late = self.plan.study.cohort.late == "next"
        self.post.give_up(lambda node, sent: sent.kind == "train" and not (late and sent is ask))
        self.before = (ask, dict(asked)) if late else None


def _held(consensus: Consensus) -> Consensus:
    """The same, with what a strategy left to be worked out of the updates worked out: the store is about to go."""
    return Consensus(*(_as_dict(getattr(consensus, part)) for part in ("arrays", "shared", "kept")))


def _as_dict(arrays: Arrays) -> Arrays:
    return arrays if isinstance(arrays, dict | Flat) else dict(arrays)


def mends(state: str) -> bool:
    """Whether a site in this state may still answer: broken data stay broken."""
    return state in ("late", "absent", f"error:{LOST}") or state.startswith("refused:")
