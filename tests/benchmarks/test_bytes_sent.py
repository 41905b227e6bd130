"""The benchmark of bytes: its table is written, a second call keeps the runs, and its interval is worked out by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
TINY = ("training.rounds=2", "training.local_steps=1", "simulation.reader.scale=0.1", "model.channels=[8,16]")


def carried_out(folder: Path) -> str:
    command = [sys.executable, "benchmarks/bytes_sent.py", "phantom", "--codecs", "int8", "--seeds", "2"]
    command += [
        "--out",
        str(folder / "runs"),
        "-o",
        str(folder),
        *(word for setting in TINY for word in ("-s", setting)),
    ]
    done = subprocess.run(
        command, cwd=REPO, env=dict(os.environ), capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_table_is_written_and_runs_are_kept(tmp_path: Path) -> None:
    assert "(kept)" not in carried_out(tmp_path)
    first = json.loads((tmp_path / "bytes_sent.json").read_text("utf-8"))
    (row,) = first["rows"]
    assert (row["study"], row["codec"]) == ("phantom", "int8")
    # a quarter, and of a network this small the message's header too
    assert 0.24 < row["up"] < 0.4
    assert 0.24 < row["down"] < 0.4
    plain, packed = row["runs"][:2], row["runs"][2:]
    differences = [ours["dice"] - theirs["dice"] for ours, theirs in zip(packed, plain, strict=True)]
    # Student's with one degree of freedom: 12.706 of the standard error, which of two is half their distance
    half = 12.7062 * abs(differences[0] - differences[1]) / 2
    assert row["high"] - row["low"] == pytest.approx(2 * half, rel=1e-4)
    assert carried_out(tmp_path).count("(kept)") == 4
    assert json.loads((tmp_path / "bytes_sent.json").read_text("utf-8"))["rows"] == first["rows"]
    assert "| phantom | `int8` |" in (tmp_path / "bytes_sent.md").read_text("utf-8")
