"""Timed kinds of work: no second counts twice, none is lost, and who did not ask pays nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from fedrounds_common import spans
from fedrounds_common.spans import VARIABLE, timed, timing


@timed("compute")
def outer(seconds: float) -> None:
    spin(seconds)
    inner(seconds)


@timed("data")
def inner(seconds: float) -> None:
    spin(seconds)


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_what_is_called_of_another_kind_is_not_counted_twice() -> None:
    began = time.perf_counter()
    with timing() as found:
        started = time.perf_counter()
        outer(0.02)
        spin(0.01)
        least = time.perf_counter() - started
        seconds = found.taken()
        most = time.perf_counter() - began
    assert seconds["compute"] >= 0.02
    assert seconds["data"] >= 0.02
    assert seconds["other"] >= 0.01
    # however long this process had to wait in between
    assert least - 1e-9 <= sum(seconds.values()) <= most + 1e-9


def test_an_error_closes_its_span() -> None:
    @timed("disk")
    def fails() -> None:
        raise OSError("full")

    with timing() as found:
        with pytest.raises(OSError, match="full"):
            fails()
        found.taken()
        spin(0.01)
        assert set(found.taken()) == {"other"}


def test_another_thread_takes_none_of_the_time() -> None:
    with timing() as found:
        thread = threading.Thread(target=inner, args=(0.02,))
        thread.start()
        thread.join()
        assert "data" not in found.taken()


def test_off_nothing_is_noted_and_workers_are_not_asked() -> None:
    outer(0.0)
    assert spans.job_ends() == {}
    with timing():
        assert os.environ[VARIABLE] == "1"
    assert VARIABLE not in os.environ


def test_a_worker_counts_from_its_start_and_not_what_lies_between_its_jobs() -> None:
    code = (
        "import time\n"
        "from fedrounds_common import spans\n"
        "spans.begin_worker()\n"
        "end = time.perf_counter() + 0.3\n"
        "while time.perf_counter() < end: pass\n"
        "spans.job_begins()\n"
        "print(spans.job_ends())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, VARIABLE: "1"}, capture_output=True, text=True, check=True
    )
    said = dict(eval(done.stdout))  # of a program that stands above
    assert said["start"] > 0.0
    assert said["other"] < 0.25
