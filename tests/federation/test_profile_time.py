"""`--profile-time`: the parts sum to the wall clock of all processes, and the bits are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrounds.series import simulate
from fedrounds.times import KINDS, read_times

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_parts_sum_to_the_wall_clock_of_all_processes(tmp_path: Path, cubes: Cubes, workers: int) -> None:
    study = cubes(tmp_path, rounds=2, workers=workers)
    plain = simulate(study, plugins=[MINE], runs=tmp_path / "runs")
    timed = simulate(study, plugins=[MINE], runs=tmp_path / "runs", profile_time=True)
    assert read_times(plain.path) is None
    found = read_times(timed.path)
    assert found is not None
    assert found["processes"] == 1 + workers
    whole = found["wall_s"] * found["processes"]
    parts = sum(found[who][kind] for who in ("coordinator", "workers") for kind in KINDS)
    assert parts == pytest.approx(whole, rel=0.01)
    at_work = found["workers" if workers else "coordinator"]
    assert all(at_work[kind] > 0 for kind in ("compute", "data", "evaluate", "serialise", "disk"))
    assert found["coordinator"]["aggregate"] > 0
    assert (found["workers"]["start"] > 0) == bool(workers)
    assert timed.status["consensus"] == plain.status["consensus"]
    assert (timed.path / "figures" / "time.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_prints_the_table(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    program = "from fedrounds.cli.main import run; run()"
    words = ["simulate", str(study), "--plugins", str(MINE), "--runs", str(tmp_path / "runs"), "--profile-time"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    shares = {line[0]: line[2] for line in lines if line and line[0] in KINDS}
    assert set(shares) == set(KINDS)
    assert sum(float(share.rstrip("%")) for share in shares.values()) == pytest.approx(100, abs=0.6)
    said = json.loads(
        subprocess.run(
            [sys.executable, "-c", program, *words, "--format", "json"], capture_output=True, text=True, check=True
        ).stdout
    )
    assert said["data"]["time"]["processes"] == 1
