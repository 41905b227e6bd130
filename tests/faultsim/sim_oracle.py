"""What must hold, kept apart from the program: the oracle sees every event and works out for itself what is true.

It knows each update that a site really made, what had left each site, what the coordinator said it had accepted, and
the consensus that a run without any fault would have made of the very sites that answered.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from sim_hospital import CASES, START, Hospital, Letter, ToyTask, rounds_kept, toy_round, toy_settle, toy_sums
from sim_world import World

from fedrounds_client import ledger, lineage
from fedrounds_common import chain
from fedrounds_common.arrays import Arrays, difference, digest
from fedrounds_common.codec import Codec
from fedrounds_common.downwards import pack_down
from fedrounds_common.errors import FedroundsError
from fedrounds_common.leaving import Ask, Leaving, Statistics, Update, from_wire
from fedrounds_common.rng import derive
from fedrounds_common.strategy import Consensus, SiteUpdate, Strategy, Updates
from fedrounds_common.study.tables import Cohort
from fedrounds_common.task import add_tallies
from fedrounds_server import history
from fedrounds_server.cohort import choose
from fedrounds_server.folder import RunFolder

STATE = re.compile(r"ok|late|absent|(error|refused):FR-[A-Z]\d\d")
LEFT = "left over "  # before a tensor's name: what its codec left of it for the next round
DAMAGE = re.compile(r"FR-R59|FR-F11|damaged")


@final
@dataclass
class Oracle:
    world: World
    folder: RunFolder
    cohort: Cohort
    study_seed: int
    rounds: int
    permitted: int
    strategy: Strategy
    up: Codec
    down: Codec
    sums: bool = False  # whether sites are asked for sums, before round 1 and after the last
    committed: int = 0
    round: int = 0
    consensus: dict[int, Consensus] = field(default_factory=dict)
    # (site, round) → digest of what it received → its updates; a site that caught up on a round before makes another
    genuine: dict[tuple[str, int], dict[str, list[SiteUpdate]]] = field(default_factory=dict)
    moments: dict[tuple[str, int], list[Arrays]] = field(default_factory=dict)
    left: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))  # site → round, use
    payloads: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    accepted: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    averaged: dict[int, dict[str, int]] = field(default_factory=dict)  # round → site → the round its update is of
    damaged: bool = False
    settled: dict[str, Arrays] = field(default_factory=dict)  # purpose → the model with its sums in it
    summed: dict[str, list[str]] = field(default_factory=dict)  # purpose → whose sums these are
    told: set[str] = field(default_factory=set)  # purposes that were said to be done
    charged: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # site → uses of sums that left
    _sums_now: tuple[str, set[str]] = ("", set())  # nonce of the request for sums, and whose were accepted
    _before: dict[str, tuple[int, list[Arrays]]] = field(default_factory=dict)
    _sent: dict[tuple[int, str, str], Arrays] = field(default_factory=dict)
    _by_digest: dict[str, Arrays] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.consensus[0] = self.strategy.begin(START)

    # ------------------------------------------------------------ what travels

    def sent(self, round_: int) -> Arrays:
        """The consensus that a site holds which received this round's, worked out from the first round on."""
        held: Arrays | None = None
        if self.down.exact:
            return self.consensus[round_ - 1].arrays
        for number in range(1, round_ + 1):
            arrays = self.consensus[number - 1].arrays
            key = number, digest(arrays), digest(held or {})
            if key not in self._sent:
                seed = derive(self.study_seed, "codec down", number)
                self._sent[key] = pack_down(self.down, arrays, held if self.down.differences else None, seed)[2]
            held = self._sent[key]
            self._by_digest[digest(held)] = held
        assert held is not None
        return held

    def _received(self, ask: Ask) -> Arrays:
        """What a site trains on that is sent this, in whatever form."""
        return self._by_digest.get(ask.holds, {}) if ask.holds else ask.arrays

    def _packed(self, name: str, round_: int, difference_: Arrays, residual: Arrays) -> tuple[Arrays, Arrays]:
        """What arrives of a site's difference, and what stays there."""
        seed = derive(self.study_seed, "codec", round_, name)
        travelling, left = self.up.encode(difference_, residual, seed)
        return self.up.decode(travelling, START), left

    @property
    def sites(self) -> tuple[str, ...]:
        return self.cohort.sites

    # ------------------------------------------------------------ at a site

    def asked(self, ask: Ask) -> None:
        """A round begins with the one consensus of the round before, whoever was asked when."""
        if ask.kind == "statistics":
            self._asked_for_sums(ask)
        if ask.kind == "train" and (ask.holds or digest(ask.arrays)) != digest(self.sent(ask.round)):
            self.world.violated(f"round {ask.round} was asked with another consensus than round {ask.round - 1} made")

    def _asked_for_sums(self, ask: Ask) -> None:
        model = START if ask.purpose == "first" else self.consensus[self.rounds].arrays
        if digest(ask.arrays) != digest(model):
            self.world.violated(f"sums for {ask.purpose} were asked with another model than the last that was reached")
        if ask.purpose in self.told and not self.damaged:
            self.world.violated(f"sums for {ask.purpose} were done, and are asked for again")
        if ask.nonce != self._sums_now[0]:
            self._sums_now = ask.nonce, set()

    def before(self, hospital: Hospital, ask: Ask | None) -> None:
        """A site is about to train: from what state it should, and what that should give."""
        if ask is None or ask.kind != "train":
            return
        name, kept = hospital.name, [r for r in rounds_kept(hospital.home, ask.run) if r < ask.round]
        needed = max((round_ for round_, _ in self.left[name] if round_ < ask.round), default=0)
        start = max(kept, default=0)
        if start < needed:
            self.world.violated(f"{name} has lost its state of round {needed}, whose update had left")
        received = self._received(ask)
        known, made = self.moments.setdefault((name, ask.round), []), []
        for state in list(self.moments[name, start]) if start else [{}]:
            arrays, moments = toy_round(name, ask.round, received, state)
            residual = {key.removeprefix(LEFT): array for key, array in state.items() if key.startswith(LEFT)}
            arrived, left = self._packed(name, ask.round, difference(arrays, received), residual)
            after = {**moments, **{f"{LEFT}{key}": array for key, array in left.items()}}
            known += [after] if digest(after) not in {digest(each) for each in known} else []
            made.append(arrived)
        self._before[name] = ask.round, made

    def answered(self, hospital: Hospital, ask: Ask, letter: Letter) -> None:
        """A site's answer leaves: it was charged, is in the books, and is what training gives."""
        name, said = hospital.name, from_wire(*letter[:2])
        self.world.say(f"{name} answers {_what(said)}")
        self.payloads[name].add(ledger.payload_digest(*letter[:2]))
        if isinstance(said, Update):
            round_, expected = self._before[name]
            received = digest(self._received(ask))
            made = self.genuine.setdefault((name, ask.round), {}).setdefault(received, [])
            arrived = self.up.decode(said.arrays, START)
            if digest(arrived) not in {digest(each.arrays) for each in made}:  # else it is the same once more
                if round_ != ask.round or digest(arrived) not in {digest(each) for each in expected}:
                    self.world.violated(f"{name}'s update of round {ask.round} is not what its state and request give")
                made.append(SiteUpdate(name, arrived, said.cases))
            self.left[name].append((ask.round, lineage.use_of(ask)))
        if isinstance(said, Statistics):
            if digest(said.tally) != digest(toy_sums(name, ask.purpose, ask.arrays)):
                self.world.violated(f"{name}'s sums for {ask.purpose} are not what the model that came gives")
            self.charged[name].add(lineage.use_of(ask))
        self.check_books(hospital)

    def check_books(self, hospital: Hospital) -> None:
        """What left is in the books, whatever happened since; and the bill is never below the truth."""
        name, home = hospital.name, hospital.home
        outbox, charged = _text(home.outbox), _text(home.lineage)
        if not all(payload in outbox for payload in self.payloads[name]):
            self.world.violated(f"{name}: an answer left that is not in its outbox")
        if not all(use in charged for use in self.charged[name]):
            self.world.violated(f"{name}: sums left that were not charged against its permit")
        uses = {use for _, use in self.left[name]}
        if not all(use in charged for use in uses):
            self.world.violated(f"{name}: an update left that was not charged against its permit")
        if len(uses) > self.permitted:
            self.world.violated(f"{name}: more updates left than its permit allows")

    def fallen(self, hospital: Hospital) -> None:
        """After a crash of a site: its journal is whole, and its books know what left."""
        try:
            chain.verify(hospital.home.journal)
        except FedroundsError as error:
            self.world.violated(f"{hospital.name}: a crash broke its journal: {error}")
        self.check_books(hospital)

    # ------------------------------------------------------------ at the coordinator

    def listen(self, event: str, facts: Mapping[str, Any]) -> None:
        self.world.say(f"  {event} {_short(facts)}")
        if event == "plan":
            self._begun(int(facts["first"]))
        elif event == "round-start":
            self.round = int(facts["round"])
        elif event == "site" and facts.get("purpose"):
            if facts["state"] == "ok":
                self._sums_now[1].add(str(facts["site"]))
        elif event == "statistics":
            self.told.add(str(facts["purpose"]))
        elif event == "site" and facts["state"] == "ok":
            self.accepted[facts["round"]].add(facts["site"])
        elif event == "warning" and DAMAGE.search(str(facts["text"])) and not self.damaged:
            self.world.violated(f"a file of the coordinator's is damaged, and nothing damaged it: {facts['text']}")
        elif event == "round":
            self._finished(int(facts["round"]))

    def _begun(self, first: int) -> None:
        if first - 1 < self.committed and not self.damaged:
            self.world.violated(f"round {self.committed} was finished, and the run goes on with round {first}")
        self.committed = first - 1

    def hurt(self, file: Path) -> None:
        """A file was damaged on purpose: what is in it may be asked for again, and come too late."""
        self.damaged = True
        if file.suffix == ".answer":
            self.accepted[int(file.parent.parent.name)].discard(file.stem)
        else:  # its round is done anew, and so are those after it
            first = int(file.stem.split("-")[1])
            self.accepted = defaultdict(set, {r: names for r, names in self.accepted.items() if r < first})

    def averages(self, updates: Sequence[SiteUpdate], following: Consensus) -> None:
        """A round is averaged: of which genuine updates, each once, enough of them, and to the right bits."""
        world, round_ = self.world, self.round
        sites = [update.site for update in updates]
        if len(set(sites)) != len(sites):
            world.violated(f"round {round_} counts a site twice: {sites}")
        found = {update.site: self._found(update, round_) for update in updates}
        of = {site: made for site, (made, _) in found.items()}
        self._check_quorum(round_, {site: CASES[site] for site, made in of.items() if made == round_})
        before = self.consensus[round_ - 1]
        expected = self.strategy.aggregate(before, _Sorted([found[site][1] for site in sorted(found)]))
        if digest(expected.arrays) != digest(following.arrays):
            world.violated(f"the consensus of round {round_} is not the fault-free one of {sorted(sites)}")
        self.averaged[round_] = of
        self.consensus[round_] = expected

    def settles(self, purpose: str, total: Arrays, arrays: Arrays, result: Arrays) -> None:
        """Sums become a model: of enough sites, each once, added in the order of their names."""
        names = sorted(self._sums_now[1])
        self._check_quorum_of_sums(purpose, names)
        expected = add_tallies([toy_sums(name, purpose, arrays) for name in names])
        if digest(expected) != digest(total):
            self.world.violated(f"the sums for {purpose} are not those of {names}")
        self.settled[purpose], self.summed[purpose] = toy_settle(expected, arrays), names
        if digest(self.settled[purpose]) != digest(result):
            self.world.violated(f"what the sums for {purpose} amount to is another model")
        if purpose == "first":
            self.consensus[0] = self.strategy.begin(self.settled[purpose])

    def _check_quorum_of_sums(self, purpose: str, names: Sequence[str]) -> None:
        have, whole = sum(CASES[name] for name in names), sum(CASES[name] for name in self.sites)
        if len(names) < self.cohort.minimum or have < self.cohort.minimum_cases_share * whole:
            self.world.violated(f"the sums for {purpose} are those of {names}, under the quorum")

    def check_sums(self, line: history.RoundLine) -> None:
        """A purpose's line names every site, and those whose sums were added as ok."""
        world, names = self.world, [site.site for site in line.sites]
        if sorted(names) != sorted(self.sites) or not all(STATE.fullmatch(site.state) for site in line.sites):
            world.violated(f"the line of {line.purpose} names {[(site.site, site.state) for site in line.sites]}")
        if [site.site for site in line.ok] != self.summed[line.purpose]:
            world.violated(f"the line of {line.purpose} says that others were summed than {self.summed[line.purpose]}")
        if line.digest != digest(self.settled[line.purpose]):
            world.violated(f"the history says another model of {line.purpose}")

    def _weaker(self, update: SiteUpdate) -> SiteUpdate:
        factor = self.cohort.late_factor
        arrays = {name: (array * factor).astype(array.dtype) for name, array in update.arrays.items() if name != "seen"}
        seen = update.arrays["seen"]
        return replace(update, arrays={**arrays, "seen": (seen * factor).round().astype(seen.dtype)})

    def _found(self, update: SiteUpdate, round_: int) -> tuple[int, SiteUpdate]:
        """The round that an averaged update was made in, and the site's own copy of it, as it should count."""
        world, site = self.world, update.site
        for made in range(round_, 0, -1):
            received = digest(self.sent(made))
            own = [
                each if made == round_ else self._weaker(each)
                for each in self.genuine.get((site, made), {}).get(received, ())
            ]
            same = [each for each in own if (digest(each.arrays), each.cases) == (digest(update.arrays), update.cases)]
            if not same:
                continue
            for other, were in self.averaged.items():
                if other < round_ and were.get(site) == made:
                    world.violated(f"round {round_} counts what {site} made in round {made} again: round {other} did")
            if made == round_ or (made == round_ - 1 and self.cohort.late == "next"):
                return made, same[0]
            world.violated(f"round {round_} counts what {site} made in round {made}")
        world.violated(f"round {round_} counts what {site} never made")
        raise AssertionError

    def _check_quorum(self, round_: int, fresh: Mapping[str, int]) -> None:
        if len(fresh) < self.cohort.minimum:
            self.world.violated(f"round {round_} was averaged of {len(fresh)} sites, under {self.cohort.minimum}")
        whole = sum(CASES[name] for name in choose(self.sites, self.cohort, self.study_seed, round_))
        if sum(fresh.values()) < self.cohort.minimum_cases_share * whole:
            self.world.violated(f"round {round_} was averaged of {sum(fresh.values())} of {whole} cases")

    def _finished(self, round_: int) -> None:
        """A round is over: its line names every site, and says of each what really became of its update."""
        self.committed = round_
        line = history.read(self.folder.history)[-1]
        self.check_line(line)
        named = {site.site: site for site in line.sites}
        lost = {name for name in self.accepted[round_] if named[name].state != "ok"}
        if lost:
            self.world.violated(f"round {round_}: updates of {sorted(lost)} were accepted, and are lost")

    def check_line(self, line: history.RoundLine) -> None:
        world, names = self.world, [site.site for site in line.sites]
        if sorted(names) != sorted(self.sites):
            world.violated(f"round {line.round} names {names}, of {list(self.sites)}")
        for site in line.sites:
            if not STATE.fullmatch(site.state):
                world.violated(f"round {line.round}: {site.site} is {site.state!r}")
        averaged = self.averaged[line.round]
        fresh = {site.site for site in line.ok}
        late = {site.site for site in line.sites if site.part.startswith("round-")}
        if fresh != {name for name, made in averaged.items() if made == line.round}:
            world.violated(f"round {line.round} names {sorted(fresh)} as ok, and averaged {sorted(averaged)}")
        if late != set(averaged) - fresh:
            world.violated(f"round {line.round} names {sorted(late)} as late and used, and averaged {sorted(averaged)}")
        if line.digest != digest(self.consensus[line.round].arrays):
            world.violated(f"the history says another consensus of round {line.round}")

    def ended(self, consensus: Arrays) -> None:
        """The run is over: every round has its one line, and the model is that of the last."""
        whole = history.read(self.folder.history)
        purposes = [line.purpose for line in whole if line.kind == history.STATISTICS]
        if purposes != ([*ToyTask.before, *ToyTask.after] if self.sums else []):
            self.world.violated(f"the history has sums for {purposes}")
        for line in whole:
            if line.kind == history.STATISTICS:
                self.check_sums(line)
        lines = [line for line in whole if line.kind == history.ROUND]
        if [line.round for line in lines] != list(range(1, self.rounds + 1)):
            self.world.violated(f"the history has rounds {[line.round for line in lines]} of {self.rounds}")
        for line in lines:
            self.check_line(line)
        if digest(consensus) != digest(self.settled.get("last", self.consensus[self.rounds].arrays)):
            self.world.violated("the model that the run leaves is not its last consensus")


@final
@dataclass(frozen=True)
class _Sorted:
    updates: list[SiteUpdate]

    def __iter__(self) -> Any:
        return iter(self.updates)

    def __len__(self) -> int:
        return len(self.updates)


@final
@dataclass(frozen=True)
class Watched(Strategy):
    """The study's strategy, with the oracle looking at what goes into each average and what comes out."""

    inner: Strategy
    oracle: Oracle

    def begin(self, arrays: Arrays) -> Consensus:
        return self.inner.begin(arrays)

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        listed = list(updates)
        following = self.inner.aggregate(consensus, _Sorted(listed))  # in the order in which they were handed over
        self.oracle.averages(listed, following)
        return following


@final
@dataclass(frozen=True)
class WatchedSums:
    """The toy's task, with the oracle looking at what goes into each model that sums are written into."""

    oracle: Oracle
    inner: ToyTask = field(default_factory=ToyTask)

    @property
    def before(self) -> tuple[str, ...]:
        return self.inner.before

    @property
    def after(self) -> tuple[str, ...]:
        return self.inner.after

    @property
    def of_validation(self) -> tuple[str, ...]:
        return ()

    def network(self, network: Any, form: Any) -> None:
        return None

    def gather(self, purpose: str, network: Any, cases: Any, form: Any, training: Any) -> Arrays:
        return self.inner.gather(purpose, network, cases, form, training)

    def settle(self, purpose: str, total: Arrays, arrays: Arrays, form: Any) -> Arrays:
        result = self.inner.settle(purpose, total, arrays, form)
        self.oracle.settles(purpose, total, arrays, result)
        return result


def _text(file: Path) -> str:
    """The whole lines of a file; what a crash cut short is none."""
    text = file.read_text("utf-8", errors="replace") if file.exists() else ""
    return "".join(line + "\n" for line in text.split("\n")[:-1] if line.endswith("}"))


def _what(said: Leaving | Ask) -> str:
    if isinstance(said, Update):
        return f"update of round {said.round} {digest(said.arrays)[:8]}"
    return f"{said.kind} {getattr(said, 'code', '')}".strip()


def _short(facts: Mapping[str, Any]) -> str:
    hidden = {"started", "seconds", "message"}
    return " ".join(f"{name}={str(value)[:90]}" for name, value in facts.items() if name not in hidden)
