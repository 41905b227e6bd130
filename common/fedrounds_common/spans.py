"""Where the time of a process goes: kinds of work, timed only where somebody asked (`fedrounds simulate --profile-time`).

A function that is `timed` charges its time to its kind, without what it called of another kind. Off, that costs a
look at one global. Only the thread that began is timed: what another does beside it takes none of its time.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, ParamSpec, TypeVar, final

Kind = Literal["data", "compute", "evaluate", "serialise", "aggregate", "disk", "start", "other", "idle"]
VARIABLE = "FEDROUNDS_PROFILE_TIME"  # set to 1 for the workers of a run that is timed

P = ParamSpec("P")
R = TypeVar("R")


@final
class Spans:
    """Seconds by kind; what is in no span is "other"."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.seconds: dict[str, float] = {}
        self._open: list[Kind] = []
        self._mark = time.perf_counter()

    def enter(self, kind: Kind) -> None:
        self._charge()
        self._open.append(kind)

    def leave(self) -> None:
        self._charge()
        self._open.pop()

    def resume(self) -> None:
        """Charge nobody with the time since the last charge."""
        self._mark = time.perf_counter()

    def taken(self) -> dict[str, float]:
        """The seconds so far, which begin anew."""
        self._charge()
        found, self.seconds = self.seconds, {}
        return found

    def add(self, kind: Kind, seconds: float) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

    def _charge(self) -> None:
        now = time.perf_counter()
        self.add(self._open[-1] if self._open else "other", now - self._mark)
        self._mark = now


_spans: Spans | None = None


@contextmanager
def timing() -> Iterator[Spans]:
    """Within, this process is timed, and so are workers that it starts."""
    global _spans
    before, _spans = _spans, Spans()
    os.environ[VARIABLE] = "1"
    try:
        yield _spans
    finally:
        _spans = before
        os.environ.pop(VARIABLE, None)


def begin_worker() -> None:
    """Time this process from its start on, if the one that started it says so."""
    global _spans
    if os.environ.get(VARIABLE) == "1":
        _spans = Spans()
        _spans.add("start", _age_s())


def job_begins() -> None:
    """A worker stands idle between its jobs, and nobody is charged for that."""
    if _spans is not None:
        _spans.thread = threading.get_ident()  # a library may call from another thread each time
        _spans.resume()


def job_ends() -> dict[str, float]:
    """What this worker has spent since it last said so; {} where nobody asked."""
    return {} if _spans is None else _spans.taken()


def timed(kind: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Charge a function's time to a kind."""

    def around(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def inner(*args: P.args, **words: P.kwargs) -> R:
            spans = _spans
            if spans is None or spans.thread != threading.get_ident():
                return function(*args, **words)
            spans.enter(kind)
            try:
                return function(*args, **words)
            finally:
                spans.leave()

        return inner

    return around


def _age_s() -> float:
    """Seconds since this process began, as the kernel counts them; 0 where it does not say."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stream:
            began = int(stream.read().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
