"""One round's updates as they come in: each is admitted by the guard, on disk where it must be, and has its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np

from fedrounds_common.arrays import Arrays, is_float, norm
from fedrounds_common.disk import settle
from fedrounds_common.errors import RunFileError, UpdateError
from fedrounds_common.leaving import Ask, Leaving, Update, from_wire
from fedrounds_common.strategy import SiteUpdate
from fedrounds_server.answers import Answer
from fedrounds_server.guard import Guard
from fedrounds_server.history import SiteLine
from fedrounds_server.midround import FRESH, LATE, drop_kept, keep, kept_files, read_kept
from fedrounds_server.plan import Plan
from fedrounds_server.updates import UpdateStore


@final
@dataclass
class Collection:
    """`before`: what was asked in the round before, whose late answers may stand in (None: none may), and of
    which site at which node."""

    plan: Plan
    guard: Guard
    ask: Ask
    store: UpdateStore
    lines: dict[str, SiteLine]
    before: Ask | None = None
    names_before: Mapping[int, str] = field(default_factory=dict)
    late: dict[str, tuple[SiteUpdate, SiteLine]] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)  # of this round, whatever they said

    @property
    def fresh(self) -> dict[str, int]:
        """Site → cases of each update of this very round."""
        return self.store.cases

    def take(self, answer: Answer, name: str) -> None:
        """One answer of this round. Where updates are kept, it is on disk before it counts."""
        self.answered.add(name)
        self.lines[name] = self._taken(answer, name)
        line = self.lines[name]
        self.plan.listen("site", {"round": self.ask.round, "site": name, "state": line.state, "loss": line.loss})

    def _taken(self, answer: Answer, name: str) -> SiteLine:
        sent = answer.bytes_down  # whatever the site then does
        if answer.fault or answer.leaving is None:
            return SiteLine(name, answer.state, reference=answer.reference, bytes_down=sent)
        try:
            update = self.guard.admit(answer.leaving, self.ask, name)
        except UpdateError as error:
            return SiteLine(name, f"error:{error.code}", bytes_up=answer.bytes_up, bytes_down=sent)
        self._store(answer, update)
        return replace(_line(update, answer.leaving, answer.bytes_up), bytes_down=sent)

    def _store(self, answer: Answer, update: SiteUpdate) -> None:
        if not self.plan.keeps or answer.raw is None:
            self.store.put(update)
            return
        file = self._file(update.site, FRESH)
        keep(file, answer.raw, answer.bytes_down)
        self.store.put(update, lambda: self._again(file, update.site))

    def _file(self, name: str, kind: str) -> Path:
        return self.plan.folder.updates(self.ask.round) / f"{name}{kind}"

    def _again(self, file: Path, name: str) -> Arrays:
        (header, buffer, _), _ = read_kept(file)
        leaving = from_wire(header, buffer)
        assert isinstance(leaving, Update)
        return self.guard.decoded(leaving.arrays, self.ask.arrays, name)

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
        self._hold_late(update, _line(update, answer.leaving, answer.bytes_up))

    def _hold_late(self, update: SiteUpdate, line: SiteLine) -> None:
        factor = self.plan.study.cohort.late_factor
        weaker = SiteUpdate(update.site, _scaled(update.arrays, factor), update.cases)
        self.late[update.site] = weaker, replace(line, state="late", part=f"round-{self.ask.round - 1}")

    def stand_in(self) -> None:
        """Let the late updates stand in for the sites that sent none of this round. They count for no quorum."""
        for name, (update, line) in sorted(self.late.items()):
            if name in self.lines and name not in self.fresh:
                self.store.put(update)
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
        line = _line(update, leaving, len(header.encode()) + len(buffer))
        if ask is not self.ask:
            self._hold_late(update, line)
            return
        self.store.put(update, lambda: self._again(file, name))
        self.lines[name] = replace(line, bytes_down=sent)

    # ------------------------------------------------------------ the end

    def with_cosines(self, before: Arrays, after: Arrays) -> None:
        """How far each update points where the consensus went: −1 … 1."""
        step = {name: after[name].astype(np.float64) - before[name] for name in before if is_float(before[name])}
        length = norm(step)
        for update in self.store:
            dot = sum(float(np.vdot(step[name], update.arrays[name])) for name in step)
            scale = length * norm(update.arrays)
            cosine = dot / scale if scale > 0 else None
            self.lines[update.site] = replace(self.lines[update.site], cosine=cosine)


def _line(update: SiteUpdate, said: Leaving, bytes_up: int) -> SiteLine:
    assert isinstance(said, Update)
    return SiteLine(
        update.site, "ok", update.cases, said.steps, said.loss, said.seconds, bytes_up, norm=norm(update.arrays)
    )


def _scaled(arrays: Arrays, factor: float) -> Arrays:
    """Differences that count for less: so it works for every strategy, whatever it weighs sites by."""
    return {
        name: (array * factor if is_float(array) else np.rint(array * factor)).astype(array.dtype)
        for name, array in arrays.items()
    }
