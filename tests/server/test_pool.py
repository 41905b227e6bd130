"""Worker processes: a job's result comes back whatever becomes of the worker, and no worker outlives its run."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrounds_common.errors import MachineError
from fedrounds_server.engines.pool import Done, Hand, InProcess, Job, Pool, Ticket, Workers, programs

# does as it is told: says who it is, dies, or never comes to an end
WORKER = """
import os, sys, time
from fedrounds_server.engines.pool import Done, serve

def handle(job):
    if job.kind == "die":
        os._exit(3)
    if job.kind == "babble":
        os.write(1, b"no frame at all, and long enough to be read as one")
    if job.kind == "hang":
        print(os.getpid(), file=sys.stderr, flush=True)
    while job.kind == "hang":
        time.sleep(0.01)
    return Done({"pid": os.getpid(), "lane": job.lane}, job.buffer[::-1])

serve(sys.stdin.buffer, sys.stdout.buffer, handle)
"""
COMMAND = [sys.executable, "-c", WORKER]


@pytest.fixture
def pool() -> Iterator[Workers]:
    with Workers(programs(COMMAND), 2) as workers:
        yield workers


def result_of(pool: Pool, *tickets: Ticket) -> dict[Ticket, Done]:
    found: dict[Ticket, Done] = {}
    end = time.monotonic() + 30
    while set(tickets) - set(found) and time.monotonic() < end:
        if (came := pool.next_done(wait_s=0.2)) is not None:
            found[came[0]] = came[1]
    assert set(found) == set(tickets)
    return found


def test_each_job_has_its_own_result(pool: Workers) -> None:
    first = [pool.submit(Job("say", {}, b"ab", lane=lane)) for lane in ("x", "y")]
    done = result_of(pool, *first)
    assert [done[ticket].buffer for ticket in first] == [b"ba", b"ba"]
    assert [done[ticket].scalars["lane"] for ticket in first] == ["x", "y"]


def test_a_worker_that_dies_costs_its_job_and_the_next_one_is_done(pool: Workers) -> None:
    dead, alive = pool.submit(Job("die", {}, lane="x")), pool.submit(Job("say", {}, lane="x"))
    done = result_of(pool, dead, alive)
    assert done[dead].error == "FR-R02"
    assert done[alive].error == ""


@pytest.mark.parametrize("job", [Job("babble", {}), Job("say", {"not JSON": object()})])
def test_what_cannot_be_sent_or_read_is_an_error_and_no_endless_wait(pool: Workers, job: Job) -> None:
    bad = pool.submit(job)
    assert result_of(pool, bad)[bad].error == "FR-R02"
    good = pool.submit(Job("say", {}))
    assert result_of(pool, good)[good].error == ""


def test_an_abandoned_job_ends_and_its_worker_is_replaced() -> None:
    with Workers(programs(COMMAND), 1) as pool:
        busy, waiting = pool.submit(Job("hang", {}, lane="x")), pool.submit(Job("say", {}, lane="x"))
        pool.next_done(wait_s=0.3)
        pool.abandon([busy, waiting])
        after = pool.submit(Job("say", {}, lane="x"))
        assert set(result_of(pool, after)) == {after}


def test_a_worker_killed_while_its_result_is_on_the_way_takes_no_other_job_along() -> None:
    with Workers(programs(COMMAND), 1) as pool:
        for _ in range(10):
            late = pool.submit(Job("say", {}))
            pool.next_done(wait_s=0.002)
            pool.abandon([late])
            after = pool.submit(Job("say", {}))
            assert result_of(pool, after)[after].error == ""


def test_when_no_worker_can_be_started_again_the_wait_ends_with_an_error(tmp_path: Path) -> None:
    program = tmp_path / "worker"
    program.write_text(f"#!{sys.executable}\n{WORKER}", encoding="utf-8")
    program.chmod(0o700)
    with Workers(programs([str(program)]), 1) as pool:
        first = pool.submit(Job("say", {}))
        result_of(pool, first)
        program.unlink()
        dead, never = pool.submit(Job("die", {})), pool.submit(Job("say", {}))
        assert result_of(pool, dead)[dead].error == "FR-R02"
        with pytest.raises(MachineError, match="FR-E20 every worker died"):
            result_of(pool, never)


class OutOfReach(Hand):
    """A worker behind a service that goes away at "gone": from then on it cannot be asked, nor ended."""

    def __init__(self) -> None:
        self._here = True

    def do(self, job: Job) -> Done:
        if job.kind == "gone":
            self._here = False
            raise ConnectionError("the service has ended")
        return Done({})

    def kill(self) -> None:
        if not self._here:
            raise ConnectionError("the service has ended")

    def wait(self) -> None: ...

    @property
    def alive(self) -> bool:
        return self._here


def test_a_worker_that_can_neither_be_ended_nor_replaced_costs_its_job_and_no_endless_wait() -> None:
    hands = iter([OutOfReach(), OutOfReach()])
    with Workers(lambda: next(hands), 2) as pool:  # a third cannot be started
        gone = pool.submit(Job("gone", {}))
        assert result_of(pool, gone)[gone].error == "FR-R02"
        others = [pool.submit(Job("say", {}, lane=lane)) for lane in ("x", "y", "z")]
        assert {done.error for done in result_of(pool, *others).values()} == {""}


def test_a_worker_ends_with_its_coordinator_even_in_the_middle_of_a_job() -> None:
    program = (
        "from fedrounds_server.engines.pool import Job, Workers, programs\n"
        f"pool = Workers(programs({COMMAND!r}), 1)\n"
        "pool.submit(Job('hang', {})); pool.next_done(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as coordinator:
        assert coordinator.stderr is not None
        worker = os.pidfd_open(int(coordinator.stderr.readline()))  # which it says when it is at the job
        os.kill(coordinator.pid, signal.SIGKILL)
    # readable when the process has ended
    assert select.select([worker], [], [], 20)[0] == [worker]
    os.close(worker)


def test_without_workers_jobs_are_done_in_turn_when_they_are_asked_for() -> None:
    said: list[str] = []

    def handle(job: Job) -> Done:
        said.append(job.kind)
        return Done({})

    with InProcess(handle) as pool:
        first, second, third = (pool.submit(Job(kind, {})) for kind in "abc")
        assert said == []
        pool.abandon([second])
        assert [pool.next_done(0)[0], pool.next_done(0)[0]] == [first, third]  # type: ignore[index]
        assert pool.next_done(0) is None
    assert said == ["a", "c"]
