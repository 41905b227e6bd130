"""One round's updates as they come in: each is admitted by the guard, on disk where it must be, and has its line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np

from fedrounds_common.arrays import Arrays, is_float
from fedrounds_common.case import F32
from fedrounds_common.disk import settle
from fedrounds_common.errors import RunFileError, UpdateError
from fedrounds_common.flat import Flat
from fedrounds_common.leaving import Ask, Leaving, Update, from_wire
from fedrounds_common.spans import timed
from fedrounds_common.strategy import SiteUpdate
from fedrounds_server.answers import Answer
from fedrounds_server.cosines import MOST, cosine, sample
from fedrounds_server.guard import Guard
from fedrounds_server.history import SiteLine
from fedrounds_server.masked import MaskedRound
from fedrounds_server.midround import FRESH, LATE, drop_kept, keep, kept_files, read_kept
from fedrounds_server.noising import Noising
from fedrounds_server.plan import Plan
from fedrounds_server.updates import Kept, UpdateStore


@final
@dataclass
class Collection:
    """`before`: what was asked in the round before, whose late answers may stand in (None: none may), and of
    which site at which node. `sampled`: how many weights of each update are kept aside for its cosine.
    `noising`: of a study that hides hospitals; each update is then bounded, and nothing of one alone is told. `below`:
    what each site said of the clip. `masks`: where only a sum is seen; the answers are then keys, and no updates."""

    plan: Plan
    guard: Guard
    ask: Ask
    store: UpdateStore
    lines: dict[str, SiteLine]
    before: Ask | None = None
    names_before: Mapping[int, str] = field(default_factory=dict)
    late: dict[str, tuple[SiteUpdate, SiteLine]] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)  # of this round, whatever they said
    sampled: int = MOST
    noising: Noising | None = None
    below: dict[str, float] = field(default_factory=dict)
    masks: MaskedRound | None = None
    _samples: dict[str, F32] = field(default_factory=dict)

    @property
    def fresh(self) -> dict[str, int]:
        """Site → cases of each update of this very round."""
        return self.store.cases

    @timed("aggregate")
    def take(self, answer: Answer, name: str) -> None:
        """One answer of this round. Where updates are kept, it is on disk before it counts."""
        self.answered.add(name)
        line = self.lines[name] = self._taken(answer, name)
        if line.failed:
            self.store.gone(name)
        self.plan.listen("site", {"round": self.ask.round, "site": name, "state": line.state, "loss": line.loss})

    def _taken(self, answer: Answer, name: str) -> SiteLine:
        sent = answer.bytes_down  # whatever the site then does
        if answer.fault or answer.leaving is None:
            return SiteLine(name, answer.state, reference=answer.reference, bytes_down=sent)
        try:
            if self.masks is not None:
                line = self.masks.hear(answer, name)
                self.store.put(SiteUpdate(name, {}, line.cases))  # who takes part, with its cases; no update is here
                return line
            update = self.guard.admit(answer.leaving, self.ask, name)
        except UpdateError as error:
            return SiteLine(name, f"error:{error.code}", bytes_up=answer.bytes_up, bytes_down=sent)
        self._store(answer, update)
        return replace(self._line(update, answer.leaving, answer.bytes_up, self.ask), bytes_down=sent)

    def _store(self, answer: Answer, update: SiteUpdate) -> None:
        kept = None
        if self.plan.keeps and answer.raw is not None:
            file = self._file(update.site, FRESH)
            start = keep(file, answer.raw, answer.bytes_down)
            kept = _as_it_came(update, answer.raw[1], Kept(file, start))
        self._put(update, kept)

    def _put(self, update: SiteUpdate, kept: Kept | None = None) -> None:
        if self.noising is not None:
            bounded = self.noising.bounded(update)
            self.store.put(bounded, kept if bounded.arrays is update.arrays else None)
            return
        self._samples[update.site] = sample(update.arrays, self.sampled)
        self.store.put(update, kept)

    def _file(self, name: str, kind: str) -> Path:
        return self.plan.folder.updates(self.ask.round) / f"{name}{kind}"

    def _line(self, update: SiteUpdate, said: Leaving, bytes_up: int, ask: Ask) -> SiteLine:
        assert isinstance(said, Update)
        size = self.guard.norms[ask.round][update.site] if self.noising is None else None
        if self.noising is not None and (ask is self.ask or update.site not in self.below):
            self.below[update.site] = self.noising.part(said.below)
        loss = None if self.plan.study.privacy else said.loss  # of noisy steps a site tells none, and writes 0
        return SiteLine(update.site, "ok", update.cases, said.steps, loss, said.seconds, bytes_up, norm=size)

    # ------------------------------------------------------------ late ones

    def take_late(self, answer: Answer) -> None:
        """An answer to the round before: kept, if it is a good one, until it is seen whether it is needed."""
        name = self.names_before.get(answer.node)
        if self.before is None or answer.ask is not self.before or answer.leaving is None or answer.fault or not name:
            return
        try:
            update = self.guard.admit(answer.leaving, self.before, name)
        except UpdateError as error:
            self.plan.listen("warning", {"text": f"{name} was late, and its answer is not used: {error}"})
            return
        if self.plan.keeps and answer.raw is not None:
            keep(self._file(name, LATE), answer.raw)
        self._hold_late(update, self._line(update, answer.leaving, answer.bytes_up, self.before))

    def _hold_late(self, update: SiteUpdate, line: SiteLine) -> None:
        factor = self.plan.study.cohort.late_factor
        weaker = SiteUpdate(update.site, _scaled(update.arrays, factor), update.cases)
        self.late[update.site] = weaker, replace(line, state="late", part=f"round-{self.ask.round - 1}")

    def stand_in(self) -> None:
        """Let the late updates stand in for the sites that sent none of this round. They count for no quorum."""
        for name, (update, line) in sorted(self.late.items()):
            if name in self.lines and name not in self.fresh:
                self._put(update)
                self.lines[name] = replace(line, bytes_down=self.lines[name].bytes_down)

    # ------------------------------------------------------------ what an interrupted run had

    def read_back(self) -> None:
        """Admit what came before an interruption as if it had just come; what does not pass is asked for again."""
        folder = self.plan.folder.updates(self.ask.round)
        for name, file in [*kept_files(folder, FRESH)]:
            self._read_back(name, file, self.ask)
        for name, file in [*kept_files(folder, LATE)]:
            if self.before is not None:
                self._read_back(name, file, self.before)

    def _read_back(self, name: str, file: Path, ask: Ask) -> None:
        try:
            (header, buffer, signature), sent = read_kept(file)
            if self.plan.keys is not None:
                self.plan.keys.check(header, buffer, signature)
            leaving = from_wire(header, buffer)
            if isinstance(leaving, Ask):
                raise UpdateError("FR-R10", "a request", wanted="an update")
            update = self.guard.admit(leaving, ask, name)
        except (RunFileError, UpdateError) as error:
            self.plan.listen("warning", {"text": f"FR-R59 what {name} had sent for round {ask.round}: {error}"})
            drop_kept(file)
            return
        settle(file)
        line = self._line(update, leaving, len(header.encode()) + len(buffer), ask)
        if ask is not self.ask:
            self._hold_late(update, line)
            return
        self._put(update, _as_it_came(update, buffer, Kept(file, file.stat().st_size - len(buffer))))
        self.lines[name] = replace(line, bytes_down=sent)

    # ------------------------------------------------------------ the end

    @timed("aggregate")
    def with_cosines(self, before: Arrays, after: Arrays, averaged: Iterable[str]) -> None:
        """How far each update that was averaged points where the consensus went: −1 … 1. Not told of hidden hospitals."""
        if self.noising is not None or self.masks is not None:
            return
        ends = sample(before, self.sampled), sample(after, self.sampled)
        for name in averaged:
            self.lines[name] = replace(self.lines[name], cosine=cosine(self._samples[name], *ends))


def _as_it_came(update: SiteUpdate, buffer: bytes, kept: Kept) -> Kept | None:
    """Where the update can be read in parts: only a codec that changes nothing leaves on disk what is averaged."""
    arrays = update.arrays
    return kept if isinstance(arrays, Flat) and arrays.buffer is buffer else None


def _scaled(arrays: Arrays, factor: float) -> Arrays:
    """Differences that count for less: so it works for every strategy, whatever it weighs sites by."""
    return {
        name: (array * factor if is_float(array) else np.rint(array * factor)).astype(array.dtype)
        for name, array in arrays.items()
    }
