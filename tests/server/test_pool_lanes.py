"""Jobs of one site go to the worker that has its cases open, no worker stands idle, and none is left behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fedrounds_common.errors import MachineError
from fedrounds_server.engines.pool import Done, Job, Workers, programs

# says who it is; "wait" goes on until the file that its scalars name is there
WORKER = """
import os, sys, time
from pathlib import Path
from fedrounds_server.engines.pool import Done, serve

def handle(job):
    if job.kind == "wait":
        Path(job.scalars["began"]).touch()
        while not Path(job.scalars["until"]).exists():
            time.sleep(0.005)
    return Done({"pid": os.getpid(), "lane": job.lane, **job.scalars}, job.buffer, job.scalars.get("error", ""))

serve(sys.stdin.buffer, sys.stdout.buffer, handle)
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    file = tmp_path / "worker.py"
    file.write_text(WORKER, encoding="utf-8")
    return [sys.executable, str(file)]


def results(pool: Workers, tickets: Sequence[int]) -> dict[int, Done]:
    found: dict[int, Done] = {}
    end = time.monotonic() + 60
    while len(found) < len(tickets) and time.monotonic() < end:
        came = pool.next_done(wait_s=0.2)
        if came is not None:
            assert came[0] not in found, "a result came twice"
            found[came[0]] = came[1]
    assert sorted(found) == sorted(tickets)
    return found


def there(file: Path) -> None:
    end = time.monotonic() + 60
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.005)
    assert file.exists()


def test_every_job_has_its_result_once_and_its_own(command: list[str]) -> None:
    with Workers(programs(command), 2) as pool:
        tickets = {
            pool.submit(
                Job("say", {"n": n, "error": "FR-D12" if n % 7 == 0 else ""}, bytes([n]) * n, f"site{n % 5}")
            ): n
            for n in range(60)
        }
        for ticket, done in results(pool, list(tickets)).items():
            n = tickets[ticket]
            assert (done.scalars["n"], done.buffer, done.scalars["lane"]) == (n, bytes([n]) * n, f"site{n % 5}")
            assert done.error == ("FR-D12" if n % 7 == 0 else "")


def test_a_large_buffer_comes_back_bit_for_bit(command: list[str]) -> None:
    buffer = np.random.default_rng(1).bytes(20 * 2**20)
    with Workers(programs(command), 1) as pool:
        ticket = pool.submit(Job("say", {"text": "é\x1f\n"}, buffer))
        done = results(pool, [ticket])[ticket]
    assert done.buffer == buffer
    assert done.scalars["text"] == "é\x1f\n"


def test_a_lane_stays_with_its_worker_while_each_has_work_of_its_own(command: list[str]) -> None:
    with Workers(programs(command), 2) as pool:
        homes: dict[str, set[int]] = {"x": set(), "y": set()}
        for _ in range(5):
            # both lanes wait until both have begun, so that neither worker is free to take the other's
            pair = {}
            for lane in homes:
                places = {"began": f"{command[1]}-{lane}", "until": f"{command[1]}-{'y' if lane == 'x' else 'x'}"}
                pair[pool.submit(Job("wait", places, lane=lane))] = lane
            for ticket, done in results(pool, list(pair)).items():
                homes[pair[ticket]].add(done.scalars["pid"])
            for lane in homes:
                Path(f"{command[1]}-{lane}").unlink()
        assert [len(pids) for pids in homes.values()] == [1, 1]
        assert homes["x"] != homes["y"]


def test_a_worker_without_work_takes_over_what_waits_for_another(command: list[str], tmp_path: Path) -> None:
    with Workers(programs(command), 2) as pool:
        places = {"began": str(tmp_path / "began"), "until": str(tmp_path / "go")}
        busy = pool.submit(Job("wait", places, lane="x"))
        there(tmp_path / "began")
        others = [pool.submit(Job("say", {}, lane="x")) for _ in range(4)]
        done = results(pool, others)  # while the first is not done
        (tmp_path / "go").touch()
        first = results(pool, [busy])[busy]
        assert first.scalars["pid"] not in {each.scalars["pid"] for each in done.values()}


def test_closing_leaves_no_process_even_in_the_middle_of_a_job(command: list[str], tmp_path: Path) -> None:
    with Workers(programs(command), 2) as pool:
        idle = pool.submit(Job("say", {}, lane="y"))
        pids = {results(pool, [idle])[idle].scalars["pid"]}
        pool.submit(Job("wait", {"began": str(tmp_path / "began"), "until": str(tmp_path / "never")}, lane="x"))
        there(tmp_path / "began")
        pids |= {hand._process.pid for hand in pool._hands}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_program_that_is_not_there_is_an_error_of_this_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="FR-E20 a worker cannot be started: .*no-such-program") as caught:
        Workers(programs([str(tmp_path / "no-such-program")]), 1)
    assert caught.value.exit_status == 5


def test_a_worker_gets_no_keyboard_interrupt_of_the_terminal(command: list[str]) -> None:
    with Workers(programs(command), 1) as pool:
        ticket = pool.submit(Job("say", {}))
        pid = results(pool, [ticket])[ticket].scalars["pid"]
        assert os.getpgid(pid) != os.getpgid(0)
