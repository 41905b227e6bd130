"""Three rows of the fault table (`make faults` has them all): the run loses no round, and its bits are the right ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import ANSWERED, SAME, bench_for, play
from fedworld import OWNER, World, processes, wait_until

SHORT = {"serverapp": SAME, "site-training": ANSWERED, "cut": SAME}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_coordinator_a_killed_training_and_a_cut_network_cost_no_round(tmp_path: Path) -> None:
    with bench_for("serverapp", tmp_path) as bench:
        rows = [play(name, bench) for name in SHORT]
    if not bench.world.apart or shutil.which("nft") is None:
        assert rows.pop().happened.startswith("skipped")
    assert [(row.name, row.lost, row.digest) for row in rows] == [(row.name, 0, SHORT[row.name]) for row in rows], rows
    assert all(row.right for row in rows)


def test_what_a_killed_test_left_running_ends_with_the_next_world(tmp_path: Path) -> None:
    begin = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    begin += f" env={{{OWNER!r}: str(__import__('os').getpid())}}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    left = int(subprocess.run([sys.executable, "-c", begin], capture_output=True, text=True, check=True).stdout)
    assert left in [process.pid for process in processes()]
    with World(tmp_path, (), apart=False):
        wait_until(lambda: left not in [process.pid for process in processes() if process.command], "it has ended", 10)
