"""The benchmark of noisy steps runs, and ours and Opacus' clipped sums are the same to 1e-5; never a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from private_steps import same_sum

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "private_steps.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ours_and_opacus_make_the_same_clipped_sum_of_a_3d_network(tmp_path: Path) -> None:
    words = ("--pairs", "1", "--steps", "1", "--only", "batch 1", "-o", str(tmp_path))
    done = subprocess.run([sys.executable, str(PROGRAM), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "private_steps.json").read_text("utf-8"))["rows"]
    assert [row["theirs"] for row in rows] == ["without noise", "Opacus' hooks"]
    runs = list(rows[1]["runs"].values())
    same_sum(runs[0][0], runs[1][0])


def test_sums_that_differ_are_told_from_those_that_do_not() -> None:
    same_sum({"probe": [3.0, 4.0]}, {"probe": [3.00001, 4.0]})
    with pytest.raises(AssertionError, match="the sums differ by 0.001 of 5"):
        same_sum({"probe": [3.0, 4.0]}, {"probe": [3.001, 4.0]})
