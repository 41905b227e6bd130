"""AGG, ROUND and SCALE at a small size: the tables are written, and both sides come to the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aggregate import same_mean
from aggregate_side import PARAMETERS, shapes

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.timeout(900)  # a dozen programs one after another, each of which imports torch


def run(program: str, *words: str, cwd: Path | None = None) -> str:
    command = [sys.executable, str(BENCHMARKS / program), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout


def said(program: str, *words: str, cwd: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(program, *words, cwd=cwd).splitlines()[-1])
    return found


def table(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    assert (folder / f"{name}.md").read_text("utf-8").startswith(f"# {name}")
    return found


def test_the_model_has_as_many_weights_as_it_says_in_forty_tensors() -> None:
    sizes = shapes(PARAMETERS)
    assert (len(sizes), sum(sizes.values())) == (40, PARAMETERS)
    assert min(sizes.values()) > 0


@pytest.mark.slow
def test_both_sides_of_agg_come_to_the_same_mean_wherever_the_sum_lies(tmp_path: Path) -> None:
    sizes = ("--sites", "5", "--parameters", "300000")
    theirs = said("aggregate_side.py", "flower", *sizes, cwd=tmp_path)
    for words in ((), ("--budget-mib", "0"), ("--budget-mib", "0", "--guard")):
        same_mean(said("aggregate_side.py", "ours", *sizes, *words, cwd=tmp_path), theirs)
    with pytest.raises(AssertionError, match="the means differ"):
        same_mean(said("aggregate_side.py", "ours", "--sites", "4", *sizes[2:], cwd=tmp_path), theirs)


@pytest.mark.slow
def test_the_table_of_agg_is_written(tmp_path: Path) -> None:
    words = ("--pairs", "1", "--sites", "3", "--parameters", "40000", "--without-installing")
    run("aggregate.py", *words, "-o", str(tmp_path))
    found = table(tmp_path, "aggregate")
    assert [row["name"] for row in found["rows"]] == ["AGG 3"] * 3
    assert all(row["measures"]["above_models"]["ours"]["median"] > 0 for row in found["rows"])


@pytest.mark.slow
def test_the_table_of_round_is_written_and_every_update_was_averaged(tmp_path: Path) -> None:
    words = ("--pairs", "1", "--sites", "2", "--megabytes", "0.2", "--rounds", "2", "--without-installing")
    run("round71.py", *words, "-o", str(tmp_path))
    rows = table(tmp_path, "round71")["rows"]
    assert [row["ours"] for row in rows] == ["fedrounds", "fedrounds, 2 workers"]
    # two sites, two rounds
    assert {run["updates"] for row in rows for runs in row["runs"].values() for run in runs} == {4}


@pytest.mark.slow
def test_the_table_of_scale_is_written(tmp_path: Path) -> None:
    run("scale.py", "--pairs", "1", "--sites", "2,5", "--rounds", "3", "-o", str(tmp_path))
    rows = table(tmp_path, "scale")["rows"]
    assert [(row["ours"], row["theirs"]) for row in rows] == [("2 sites", "2 sites"), ("5 sites", "2 sites")]
    assert "5 sites without evaluation, pictures, report" in (tmp_path / "scale.md").read_text("utf-8")
