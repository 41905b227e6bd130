"""A new task is one file: dropped into a folder it is listed, checked, learned, judged, told and shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrounds.judge import evaluate
from fedrounds.predict import predict
from fedrounds.run import Run

DATA = Path(__file__).parents[1] / "data"
STUDY = """
format = 1
name = "place"
seed = 4
task = "mine"
[cases]
channels = ["t1"]
labels = { cube = 1 }
intensity = "zscore"
[model]
name = "tiny_unet"
channels = [8, 16]
[training]
rounds = 2
local_steps = 12
batch = 2
learning_rate = 1e-2
augment = []
[cohort]
held_out = ["D"]
[evaluation]
primary = "distance_mm"
local_validation = 0.3
[simulation]
workers = 0
baselines = ["floor"]
[simulation.reader]
name = "cubes"
cases_a_site = 8
"""

Fedrounds = Callable[..., Any]


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A folder with somebody's task in one file, and a reader of made cases."""
    folder = tmp_path / "own"
    for kind, source in (("tasks", DATA / "landmark/tasks/landmark.py"), ("readers", DATA / "cubes/readers/cubes.py")):
        (folder / kind).mkdir(parents=True)
        shutil.copy(source, folder / kind / ("mine.py" if kind == "tasks" else source.name))
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "place.toml").write_text(STUDY, "utf-8")
    return tmp_path / "place.toml"


def test_a_task_in_one_file_is_listed_with_what_it_is(fedrounds: Fedrounds, plugins: Path) -> None:
    entries = fedrounds("list", "tasks", "--plugins", plugins, "--format", "json").envelope["data"]["entries"]
    assert next(entry for entry in entries if entry["name"] == "mine")["summary"].startswith("Find one place")
    one = fedrounds("list", "tasks", "mine", "--plugins", plugins, "--format", "json").envelope["data"]
    assert [row["name"] for row in one["settings"]] == ["sharp"]
    assert one["measures"]["distance_mm"]["word"] == "Distance (mm)"
    ours = fedrounds("list", "tasks").out
    assert "HD95 (mm)" in ours
    assert "Segmentation, 2D and 3D" in ours


def test_what_the_task_refuses_and_measures_is_checked_like_any_other(
    fedrounds: Fedrounds, plugins: Path, study: Path
) -> None:
    assert fedrounds("study", "check", study, "--plugins", plugins).status == 0
    study.write_text(STUDY.replace("distance_mm", "dice").replace("[cases]", "[cases]\ndims = 2"), "utf-8")
    said = fedrounds("study", "check", study, "--plugins", plugins)
    assert said.status == 3
    assert "'dice' is not one of distance_mm, within" in said.err + said.out
    assert "the place is looked for in volumes" in said.err + said.out


def test_what_a_run_would_be_is_counted_and_every_case_read(fedrounds: Fedrounds, plugins: Path, study: Path) -> None:
    said = fedrounds("simulate", study, "--plugins", plugins, "--dry-run", "--format", "json")
    assert said.status == 0, said.err
    assert said.envelope["data"]["models"] == ["untrained", "consensus of round 2", "floor"]
    assert said.envelope["data"]["measured"]["floor_s"] > 0
    checked = fedrounds("study", "check", study, "--plugins", plugins, "--data", "--format", "json")
    assert checked.status == 0, checked.err
    assert [site["usable"] for site in checked.envelope["data"]["sites"]] == [8, 8, 8, 8]


def test_the_task_is_learned_judged_and_told_in_its_own_words(fedrounds: Fedrounds, plugins: Path, study: Path) -> None:
    said = fedrounds("simulate", study, "--plugins", plugins)
    assert said.status == 0, said.err
    assert "mean Distance (mm) at hospitals that never trained" in said.out
    assert "Dice" not in said.out
    assert "floor (brightest)" in said.out, "the better of the task's two guesses"
    run = Run(next(Path("runs").glob("0001-*")))
    report = (run.path / "report.html").read_text("utf-8")
    assert "Distance (mm)" in report
    assert "Within 4 mm" in report
    assert "floor (brightest)" in report
    for word in ("Dice", "HD95", "Spurious", "Missed"):
        assert word not in report, f"nothing of this task is {word}"
    # the untrained network's place is some 4 mm off in a grid of 16; in 24 steps it gets nearer
    assert run.value(cohort="held-out", region="place") < run.value("untrained", cohort="held-out", region="place")
    shown = fedrounds("runs", "show", run.path)
    assert shown.status == 0, shown.err
    assert "Distance (mm)" in shown.out
    listed = fedrounds("runs", "list").out
    assert "Distance" in listed

    found = evaluate(run, reader="cubes", out=Path("judged"))
    assert "Distance (mm)" in found.text()
    assert json.loads(Path("judged/evaluation.json").read_text("utf-8"))["measures"][0]["word"] == "Distance (mm)"
    written = predict(run, None, Path("places"), reader="cubes")
    assert [file.name for file in written.tables] == ["places.csv"]
    header, *lines = Path("places/places.csv").read_text("utf-8").splitlines()
    assert header == "case,x_mm,y_mm,z_mm"
    assert len(lines) == len({row.case for row in found.cases})
    assert not Path("places/labels.txt").exists(), "there is no label image that it could describe"
    drawn = fedrounds("show", run.path, "--case", "D0")
    assert drawn.status == 0, drawn.err
    assert "Distance (mm)" in drawn.out
