"""One scheduler, one clock, one stream of chance: everything that happens in a seed happens here, in one order."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from fedrounds_server.clock import Clock

START_S = 1000.0
# kind of fault → how often, at each of its occasions, where a seed has it at all
RATES = {
    "request lost": 0.06,
    "request twice": 0.08,
    "request bit flipped": 0.03,
    "old request again": 0.04,
    "answer lost": 0.05,
    "answer twice": 0.06,
    "answer bit flipped": 0.04,
    "answer unsigned": 0.03,
    "answer replayed": 0.08,
    "answer of another site": 0.04,
    "answer half uploaded": 0.04,
    "answer is no record of ours": 0.03,
    "answer to another's request": 0.03,
    "answer slow": 0.15,
    "pull breaks": 0.03,
    "pull loses the answer": 0.04,
    "push loses its receipt": 0.04,
    "push not taken": 0.02,
    "superlink away": 0.004,
    "site hangs": 0.05,
    "site killed in training": 0.05,
    "site crash at a write": 0.006,
    "site disk full": 0.004,
    "site comes back as another node": 0.3,
    "coordinator crash at a write": 0.006,
    "coordinator killed while it waits": 0.002,
    "coordinator disk full": 0.002,
    "kept answer damaged": 0.15,
    "checkpoint damaged": 0.15,
}


class Violation(BaseException):
    """An invariant does not hold. No `except Exception` of the program may hide it."""


@final
@dataclass
class World:
    """`calm_at`: from then on no fault is drawn, so every run must come to its end. `only`: no chance at all."""

    seed: int
    faults: bool = True
    now: float = START_S
    calm_at: float = START_S
    rates: dict[str, float] = field(default_factory=dict)
    drawn: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    _queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.nonces = random.Random(self.seed + 1)
        if self.faults:
            # each seed has some kinds of fault and not others: one that is everywhere hides the rest
            share = self.rng.choice([0.15, 0.4, 0.7])
            self.rates = {
                kind: rate * self.rng.choice([0.5, 1.0, 2.5])
                for kind, rate in RATES.items()
                if self.rng.random() < share
            }
            self.calm_at = self.now + self.rng.uniform(60.0, 320.0)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep)

    def say(self, text: str) -> None:
        self.trace.append(f"{self.now - START_S:8.2f} {text}")

    def draws(self, kind: str, about: str = "") -> bool:
        """Whether this fault happens now."""
        rate = self.rates.get(kind)
        if rate is None or self.now >= self.calm_at or self.rng.random() >= rate:
            return False
        self.drawn[kind] += 1
        self.say(f"FAULT {kind} {about}")
        return True

    def violated(self, what: str) -> None:
        self.say(f"VIOLATION {what}")
        raise Violation(what)

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, event))

    def sleep(self, seconds: float) -> None:
        """Let time pass; whatever is due happens on the way."""
        end = self.now + max(seconds, 0.001)
        while self._queue and self._queue[0][0] <= end:
            time, _, event = heapq.heappop(self._queue)
            self.now = max(self.now, time)
            event()
        self.now = max(self.now, end)
