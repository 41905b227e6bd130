"""What a person sees while a run goes on: a live table on a terminal, one line a round without one.

All of it is talk, so all of it goes to stderr. A site that fails is named once, in one line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, final

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

Facts = Mapping[str, Any]


class Screen(Protocol):
    """Listens to a run: called with an event's name and its facts."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, event: str, facts: Facts) -> None: ...


def screen_on(console: Console) -> Screen:
    return Board(console) if console.is_terminal else Lines(console)


@final
@dataclass
class Progress:
    """What is known so far; both screens are drawn from it."""

    rounds: int = 0
    first: int = 1
    round: int = 0
    loss: float | None = None
    stage: str = "asking the sites who they are"
    sites: dict[str, tuple[str, float | None]] = field(default_factory=dict)  # name → state and last loss
    seconds: list[float] = field(default_factory=list)  # of each round done
    said: set[str] = field(default_factory=set)
    clock: Callable[[], float] = time.monotonic
    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = self.clock()

    def take(self, event: str, facts: Facts) -> list[str]:
        """Note an event; returns the lines that should be said once."""
        match event:
            case "hello":
                return self._heard(str(facts["site"]), str(facts["state"]), None)
            case "plan":
                self.rounds, self.first, self.stage = facts["rounds"], facts["first"], "training"
                return [self._plan(facts)]
            case "round-start":
                self.stage = f"round {facts['round']} of {self.rounds}"
                self.sites |= {name: ("…", loss) for name, (state, loss) in self.sites.items() if state == "ok"}
            case "site":
                return self._heard(str(facts["site"]), str(facts["state"]), facts.get("loss"))
            case "round":
                self.round, self.loss = facts["round"], facts.get("loss")
                self.seconds.append(facts["seconds"])
                return [self._round(facts)]
            case "statistics":
                done = f"{facts['purpose']}: sums of {count(facts['ok'], 'site')}"
                return self._new_stage(done, [f"{done}  {duration(facts['seconds'])}"])
            case "score":
                return self._new_stage(f"judging {facts['model']}", self.once(f"judging {facts['model']}"))
            case "baseline":
                return self._baseline(facts)
            case "warning":
                return self.once(str(facts["text"]))
        return []

    def once(self, line: str) -> list[str]:
        if line in self.said:
            return []
        self.said.add(line)
        return [line]

    def left_s(self) -> float | None:
        """Seconds until the last round, as the rounds so far went; None before the first."""
        if not self.seconds or not self.rounds:
            return None
        return sum(self.seconds) / len(self.seconds) * (self.rounds - self.round)

    def _heard(self, site: str, state: str, loss: float | None) -> list[str]:
        before = self.sites.get(site, ("", None))[1]
        self.sites[site] = (state, before if loss is None else loss)
        if state == "ok":
            return []
        code = state.partition(":")[2]
        more = f"; `fedrounds explain {code}` says more" if code.startswith("FR-") else ""
        return self.once(f"{site}: {state}{more}")

    def _plan(self, facts: Facts) -> str:
        resumed = f", going on from round {self.first}" if self.first > 1 else ""
        held_out = f", {facts['held_out']} held out" if facts.get("held_out") else ""
        return f"{count(facts['sites'], 'training site')}, {count(self.rounds, 'round')}{held_out}{resumed}"

    def _round(self, facts: Facts) -> str:
        loss = "" if self.loss is None else f"  loss {self.loss:.3f}"
        left = self.left_s()
        then = f"  about {duration(left)} left" if left else ""
        return (
            f"round {self.round}/{self.rounds}  {count(facts['ok'], 'site')}{loss}  {duration(facts['seconds'])}{then}"
        )

    def _baseline(self, facts: Facts) -> list[str]:
        where = "" if facts["site"] == "all" else f" of {facts['site']}"
        if facts["state"] == "training":
            return self._new_stage(f"training {facts['model']}{where}", [])
        done = f"{facts['model']}{where} trained"
        return self._new_stage(done, [done] if facts["state"] == "ok" else [])

    def _new_stage(self, stage: str, lines: list[str]) -> list[str]:
        self.stage = stage
        return lines


@final
class Lines:
    """No terminal: a log. One line a round, one a failure."""

    def __init__(self, console: Console) -> None:
        self.console, self.progress = console, Progress()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __call__(self, event: str, facts: Facts) -> None:
        for line in self.progress.take(event, facts):
            self.console.print(line, soft_wrap=True)


@final
class Board:
    """A terminal: the sites in a table that is drawn anew, gone when the run has ended."""

    def __init__(self, console: Console) -> None:
        self.console, self.progress = console, Progress()
        self.live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self.live = Live(get_renderable=self.draw, console=self.console, refresh_per_second=4, transient=True)
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, event: str, facts: Facts) -> None:
        lines = self.progress.take(event, facts)
        if event in ("hello", "site", "warning"):  # what went wrong stays above the table; the rest is in it
            for line in lines:
                self.console.print(line, soft_wrap=True)

    def draw(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        now = self.progress
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(now.rounds, 1), completed=now.round, width=30)
        left = now.left_s()
        then = f"about {duration(left)} left" if left else ""
        head.add_row(bar, now.stage, duration(now.clock() - now.started), then)
        return Group(head, self._sites())

    def _sites(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("site", "state", "loss"):
            table.add_column(column, justify="right" if column == "loss" else "left")
        # what went wrong first: on a small screen the rest may not be seen
        order = sorted(self.progress.sites.items(), key=lambda item: (item[1][0] in ("ok", "…"), item[0]))
        room = max(self.console.height - 6, 4)
        for name, (state, loss) in order[:room]:
            style = {"ok": "green", "…": "dim"}.get(state, "red")
            table.add_row(Text(name), Text(state, style), Text("" if loss is None else f"{loss:.3f}"))
        if len(order) > room:
            table.add_row(Text(f"and {len(order) - room} more", "dim"))
        return table


def count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """1.4 s · 32 s · 4 min 05 s · 2 h 10 min"""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
