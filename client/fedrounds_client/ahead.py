"""The next batch is drawn in a thread while a step runs: the same batches in the same order, and hardly a wait."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fedrounds_common.neighbours import workers_here
from fedrounds_common.spans import timed

T = TypeVar("T")


def each_made(make: Callable[[], T], count: int, *, beside: bool) -> Iterator[tuple[T, float]]:
    """`make()` so many times, one after another, each with the seconds that were waited for it.

    What it raises is raised where its result would come.

    Args:
        beside: make the next one in a thread of its own while the one before is used. `make` is then to touch
            nothing that its user touches, torch's global generator for one.
    """
    if not beside or count < 2:
        for _ in range(count):
            started = time.perf_counter()
            made = make()
            yield made, time.perf_counter() - started
        return
    with ThreadPoolExecutor(1, "draw") as thread:
        coming = thread.submit(make)
        for left in reversed(range(count)):
            started = time.perf_counter()
            made = timed("data")(coming.result)()
            waited = time.perf_counter() - started
            if left:
                coming = thread.submit(make)
            yield made, waited


def spare_core(threads: int, processes: int = 1) -> bool:
    """Whether this process may run on more cores than so many processes of so many threads keep busy.

    Args:
        processes: as the study says; on Ray, which finds out how many fit, as the workers were told.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > threads * max(workers_here(processes), 1)
