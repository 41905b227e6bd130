"""Each benchmark runs, both sides come to the same model, and what cannot be compared is printed; never a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[2] / "benchmarks"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a dozen processes one after another, on a busy machine


def run(program: str, folder: Path, *words: str) -> tuple[dict[str, object], str]:
    """What a program wrote; no peer is installed where it looks."""
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / f"{program}.py"), "--pairs", "1", "-o", str(folder), *words],
        capture_output=True, text=True, check=False, env={**os.environ, "FEDROUNDS_PEERS": str(folder / "none")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder / f"{program}.json").read_text("utf-8")), (folder / f"{program}.md").read_text("utf-8")


def test_the_bare_loop_is_short_enough_to_be_believed() -> None:
    assert len((PROGRAMS / "bare_loop.py").read_text("utf-8").splitlines()) <= 80


def test_overhead_compares_the_same_steps_to_the_same_model(tmp_path: Path) -> None:
    # with one case a site both sides draw the same, and `same_model` holds their weights against each other
    found, table = run(
        "overhead",
        tmp_path,
        "--steps",
        "2",
        "--rounds",
        "2",
        "--sites",
        "2",
        "--cases",
        "1",
        "--threads",
        "1",
        "--without-peers",
    )
    rows = found["rows"]
    assert [(row["ours"], row["theirs"]) for row in rows] == [
        ("fedrounds", "bare loop"),
        ("fedrounds, 2 processes", "bare loop, 2 processes"),
    ]
    for row in rows:
        for runs in row["runs"].values():
            assert [run["steps"] for run in runs] == [8]
        assert row["measures"]["seconds"]["ratio"]["median"] > 0
    assert "fedrounds without evaluation, pictures, report" in table


def test_many_sites_says_which_peer_could_not_be_run(tmp_path: Path) -> None:
    found, table = run("many_sites", tmp_path, "--sites", "6", "--rounds", "3", "--without-installing")
    for row in found["rows"]:
        (ours,) = row["runs"].values()
        assert ours[0]["steps"] == 18
        assert ours[0]["clients_per_s"] > 0
        assert ours[0]["exit"] == 0
    assert table.count("not run: not installed") == 2
    assert "expect to lose" in table


def test_start_measures_the_command_that_a_user_types(tmp_path: Path) -> None:
    found, table = run("start", tmp_path, "--without-installing")
    assert [row["ours"] for row in found["rows"][:2]] == ["fedrounds, tiny_unet", "fedrounds, MONAI's unet"]
    assert found["rows"][0]["wanted"][0] == {"measure": "wall", "most": 2.5, "least": None, "alone": True}
    assert "cannot be told" in table  # of one run there is no interval


def test_time_to_dice_stops_when_the_dice_is_reached(tmp_path: Path, shared_data: Path) -> None:
    words = ("--rounds", "2", "--steps", "1", "--until", "0.001", "--most", "1", "--without-installing")
    found, _ = run("time_to_dice", tmp_path, *words, "--data", str(shared_data / "data" / "msd_hippocampus"))
    against_bare = found["rows"][0]
    for runs in against_bare["runs"].values():
        assert runs[0]["rounds"] in (1, 2)
        assert 0 <= runs[0]["dice"] <= 1
        # either all rounds, or none after the one that reached it
        assert runs[0]["rounds"] == 2 or runs[0]["dice"] >= 0.001
