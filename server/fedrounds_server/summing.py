"""Statistics: what a task wants to know of all sites' cases together, asked of every training site at once.

Sites answer with sums; they are added in the order of the sites' names, in float64, and the task writes what they
amount to into the model. Who fails is named and left out, as in a round, and under the study's minimum it ends as one.
"""

from __future__ import annotations

import secrets
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import final

from fedrounds_common.arrays import Arrays
from fedrounds_common.errors import TooFewSites, UpdateError
from fedrounds_common.leaving import Ask, Statistics
from fedrounds_common.settling import settled
from fedrounds_common.task import Tally, add_tallies
from fedrounds_server.answers import LOST, Answer
from fedrounds_server.cohort import Roster, need, need_cases
from fedrounds_server.conduct import mends
from fedrounds_server.greeting import LAST_S, Reception
from fedrounds_server.grid import Post
from fedrounds_server.guard import Guard
from fedrounds_server.history import SiteLine
from fedrounds_server.judging import WITHHELD
from fedrounds_server.plan import Plan


@final
@dataclass(frozen=True)
class Settled:
    """The model with the sums written into it, a line for each planned site, and who is there."""

    arrays: Arrays
    lines: tuple[SiteLine, ...]
    sites: Roster


@final
@dataclass
class Summing:
    """How statistics are asked for; one object does for all purposes of a run."""

    plan: Plan
    post: Post
    reception: Reception
    guard: Guard

    def settle(self, purpose: str, arrays: Arrays, round_: int) -> Settled:
        """Ask every training site, and write what all sums amount to into the model.

        Where too few have cases enough to validate on, what those would settle stays as it is: hours of training are
        not lost to it.

        Args:
            arrays: the model, which travels with the request. round_: the last that is done.

        Raises:
            TooFewSites: too few sites or cases answered. RoundError: FR-R05 no model came of the sums.
        """
        plan = self.plan
        ask = Ask(
            "statistics", plan.folder.path.name, round_, secrets.token_hex(8), plan.text, plan.digest,
            arrays=arrays, purpose=purpose,
        )  # fmt: skip
        like = plan.task.gather(purpose, plan.module(), (), plan.study.cases, plan.study.training)
        asked = _Asked(plan, self.guard, ask, like)
        sites = self._collect(asked, self.reception.again())
        self.reception.lost({name for name, line in asked.lines.items() if line.state == f"error:{LOST}"})
        if asked.sums:
            total = add_tallies([asked.sums[name].tally for name in sorted(asked.sums)])
            arrays = settled(plan.task, purpose, total, arrays, plan.study.cases)
        return Settled(arrays, tuple(asked.lines[name] for name in sorted(asked.lines)), sites)

    def _collect(self, asked: _Asked, sites: Roster) -> Roster:
        """Ask until enough have answered; between hospitals the missing ones are waited for as the study says.

        There are no sums afterwards where too few have cases enough to validate on.

        Raises:
            TooFewSites: there were not enough.
        """
        clock, end = self.plan.clock, self.plan.clock.now() + self.plan.study.cohort.wait_s
        # what comes past its deadline, while the others are waited for, still counts
        self.post.take_stray = asked.take
        try:
            while True:
                self._ask_once(asked, sites)
                short = self._short(asked, sites)
                if short is None:
                    return sites
                if asked.validates and asked.none_can:
                    asked.sums.clear()
                    text = f"{asked.ask.purpose} stays as it was: {short.found}, and the others have too few cases"
                    self.plan.listen("warning", {"text": text})
                    return sites
                waits = not self.reception.closed and any(mends(line.state) for line in asked.lines.values())
                if clock.now() >= end or not waits:
                    raise short
                self.plan.listen("warning", {"text": f"{short.found}; waiting for the others"})
                self.post.wait(LAST_S)
                sites = self.reception.again()
        finally:
            self.post.take_stray = lambda answer: False
            self.post.give_up(lambda node, sent: sent is asked.ask)

    def _ask_once(self, asked: _Asked, sites: Roster) -> None:
        """Ask whom we have nothing of, and take what comes by the deadline."""
        for name in sites.planned:
            none = name in sites.training and not asked.most(name, sites)
            line = SiteLine(name, "absent", part="idle") if none else SiteLine(name, sites.absent.get(name, "absent"))
            asked.lines.setdefault(name, line)
        before = set(asked.names.values())
        missing = [
            name for name in sites.training
            if name not in asked.sums and asked.most(name, sites)
            and (name not in before or mends(asked.lines[name].state))
        ]  # fmt: skip
        asked.names |= {sites.nodes[name]: name for name in missing}
        asked.caps |= {name: asked.most(name, sites) for name in missing}
        nodes = {sites.nodes[name]: asked.ask for name in missing}
        keep = not self.reception.closed
        with closing(self.post.ask(nodes, self.plan.study.cohort.deadline_s, keep)) as answers:
            for answer in answers:
                asked.take(answer)

    def _short(self, asked: _Asked, sites: Roster) -> TooFewSites | None:
        """What is wrong with going on with what there is; None if nothing."""
        study, purpose = self.plan.study, asked.ask.purpose
        missing = {name: line.state for name, line in sorted(asked.lines.items()) if line.failed}
        known = self._known(asked, sites)
        cases = {name: said.cases for name, said in asked.sums.items()}
        all_take_part = replace(study.cohort, per_round=0, over_select=0.0)
        try:
            need(len(cases), study.cohort.minimum, f"sent the sums for {purpose}", missing)
            need_cases(cases, known, all_take_part, study.seed, asked.ask.round, f"the sums for {purpose}")
        except TooFewSites as short:
            return short
        return None

    def _known(self, asked: _Asked, sites: Roster) -> dict[str, int]:
        """The cases of every planned site that ever said how many it has: what all sums together would stand for."""
        if asked.validates:
            return {name: sites.hellos[name].validation_cases for name in sites.training}
        enrolled = self.plan.keys.enrolled() if self.plan.keys else {}
        known = {**enrolled, **self.reception.known}
        return {name: known[name] for name in sites.planned if name in known}


@final
@dataclass
class _Asked:
    """One purpose's answers as they come in. `names`: whom each node was asked as; `caps`: the most cases each may
    claim, which are those that it agreed to train on, or said that it validates on."""

    plan: Plan
    guard: Guard
    ask: Ask
    like: Tally
    names: dict[int, str] = field(default_factory=dict)
    caps: dict[str, int] = field(default_factory=dict)
    sums: dict[str, Statistics] = field(default_factory=dict)
    lines: dict[str, SiteLine] = field(default_factory=dict)

    @property
    def validates(self) -> bool:
        return self.ask.purpose in self.plan.task.of_validation

    @property
    def none_can(self) -> bool:
        """Whether whoever has sent nothing has no cases, or too few: nobody's fault, and nothing that waiting mends."""
        others = [line for name, line in self.lines.items() if name not in self.sums]
        return all(line.state == WITHHELD or line.part == "idle" for line in others)

    def most(self, name: str, sites: Roster) -> int:
        return sites.hellos[name].validation_cases if self.validates else self.guard.agreed_cases.get(name, 0)

    def take(self, answer: Answer) -> bool:
        """Whether the answer is one to this request; its site's line says what became of it."""
        name = self.names.get(answer.node)
        if answer.ask is not self.ask or name is None:
            return False
        if name in self.sums:  # from another node of the same site
            return True
        line = self.lines[name] = self._taken(answer, name)
        facts = {"round": self.ask.round, "purpose": self.ask.purpose, "site": name, "state": line.state, "loss": None}
        self.plan.listen("site", facts)
        if line.state == WITHHELD:
            text = f"{name} withholds its sums for {self.ask.purpose}: too few cases"
            self.plan.listen("warning", {"text": text})
        return True

    def _taken(self, answer: Answer, name: str) -> SiteLine:
        sent = answer.bytes_down  # whatever the site then does
        if answer.fault or answer.leaving is None:
            return SiteLine(name, answer.state, reference=answer.reference, bytes_down=sent)
        try:
            said = self.guard.admit_statistics(answer.leaving, self.ask, name, self.like, self.caps[name])
        except UpdateError as error:
            return SiteLine(name, f"error:{error.code}", bytes_up=answer.bytes_up, bytes_down=sent)
        self.sums[name] = said
        return SiteLine(name, "ok", said.cases, bytes_up=answer.bytes_up, bytes_down=sent)
