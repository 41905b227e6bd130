"""A federation from the shell: what a person types, reads and finds on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrounds.cli.simulate import rehearsal_settings

Write = Callable[..., Path]


@pytest.fixture
def federation(study: Write, pictures: Write, picture_study: str) -> Path:
    pictures()
    return study(picture_study)


def test_a_run_is_told_on_stdout_and_talked_about_on_stderr(fedrounds: Any, federation: Path) -> None:
    said = fedrounds("simulate", federation)
    assert said.status == 0
    assert said.out.startswith("small, run 0001: Done (exit status 0)")
    assert "runs/0001-small/report.html" in said.out
    assert said.err.splitlines()[0] == "2 training sites, 2 rounds, 1 held out"
    assert sum(line.startswith("round ") for line in said.err.splitlines()) == 2
    assert Path("runs/0001-small/consensus.safetensors").is_file()


def test_settings_and_the_names_of_the_run_and_its_folder_are_taken(fedrounds: Any, federation: Path) -> None:
    options = ["-s", "training.rounds=1", "--name", "try", "--runs", "here", "--workers", "0", "--baselines", "none"]
    data = fedrounds("simulate", federation, *options, "--format", "json").envelope["data"]
    assert data["run"] == "here/0001-try"
    assert data["status"]["rounds"] == 1
    assert {row["model"] for row in data["models"]} == {"untrained", "consensus"}


def test_a_bad_case_ends_the_run_with_9_and_strictly_does_not_start_it(
    fedrounds: Any, study: Write, pictures: Write, picture_study: str
) -> None:
    pictures(broken="a_p2")
    file = study(picture_study)
    said = fedrounds("simulate", file, "--format", "json")
    assert (said.status, said.envelope["status"]) == (9, "partial")
    assert fedrounds("simulate", file, "--strict").status == 4


@pytest.mark.slow
def test_a_run_whose_report_cannot_be_drawn_ends_as_it_did_with_its_manifest(fedrounds: Any, federation: Path) -> None:
    assert fedrounds("simulate", federation).status == 0
    run = Path("runs/0001-small").resolve()
    for name in ("report.html", "manifest.json"):
        (run / name).unlink()
    shutil.rmtree(run / "figures")
    (run / "figures").write_text("in the way of a folder")
    said = fedrounds("simulate", federation, "--resume", run.name)
    assert said.status == 0
    assert "FR-F35 the report could not be drawn" in said.err
    assert "small, run 0001: Done (exit status 0)" in said.out
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit"]) == ("done", 0)
    assert status["report_fault"].startswith("FR-F35 ")
    assert "Traceback" in (run / "logs/log").read_text()
    assert not (run / "report.html").exists()
    assert fedrounds("runs", "verify", run.name).status == 0
    # a fault that the table on the terminal shares with the report
    (run / "study.resolved.toml").write_text("not TOML")
    said = fedrounds("simulate", "--resume", run.name)
    assert said.status == 0
    assert said.out.startswith("runs/0001-small: done (exit status 0); FR-F35 the report could not be drawn: FR-F25")


@pytest.mark.parametrize(
    ("group", "unit", "limit"),
    [("patient", "patient", False), ("number", "image", True)],
)
def test_where_no_name_tells_the_patient_the_image_is_the_unit_and_the_report_says_so(
    fedrounds: Any, study: Write, pictures: Write, picture_study: str, group: str, unit: str, limit: bool
) -> None:
    pictures()
    file = study(picture_study.replace("(?P<patient>", f"(?P<{group}>"))
    assert fedrounds("simulate", file, "-s", "training.rounds=1").status == 0
    run = Path("runs/0001-small")
    assert json.loads((run / "record.json").read_text())["unit"] == unit
    said = "Several images of one patient may lie on both sides of a split."
    assert (said in (run / "report.html").read_text()) == limit


@pytest.mark.slow
def test_seeds_give_one_table_over_the_runs(fedrounds: Any, federation: Path) -> None:
    said = fedrounds("simulate", federation, "--seeds", 2, "-s", "training.rounds=1", "--format", "json")
    assert said.status == 0
    assert [(run["seed"], run["path"]) for run in said.envelope["data"]["runs"]] == [
        (0, "runs/0001-small"),
        (1, "runs/0002-small"),
    ]
    assert said.envelope["data"]["table"]


@pytest.mark.slow
def test_a_sweep_runs_each_value(fedrounds: Any, federation: Path) -> None:
    said = fedrounds("simulate", federation, "--sweep", "strategy=fedavg,fedprox", "-s", "training.rounds=1")
    assert said.status == 0
    assert "strategy=fedprox" in said.out


def test_a_dry_run_counts_and_measures_and_writes_nothing(fedrounds: Any, federation: Path) -> None:
    # where Linux has room for nothing, so that the disk looked at is the one that the run would lie on
    said = fedrounds("simulate", federation, "--dry-run", "--runs", "/proc/runs", "--format", "json")
    assert said.status == 0
    data = said.envelope["data"]
    assert data["disks"][0]["free_bytes"] == 0 or sys.platform != "linux"
    assert [(site["name"], site["training"], site["judged"], site["steps"]) for site in data["sites"]] == [
        ("a", 3, 0, 2),
        ("b", 2, 0, 2),
        ("c", 0, 2, 0),
    ]
    assert data["total_s"] > 0
    assert not Path("runs").exists()


def test_a_study_with_faults_is_not_run(fedrounds: Any, study: Write) -> None:
    said = fedrounds("simulate", study("[training]\nrounds = 0\n"))
    assert said.status == 3
    assert not Path("runs").exists()


def test_going_on_with_a_series_is_refused(fedrounds: Any, federation: Path) -> None:
    fedrounds("simulate", federation, "-s", "training.rounds=1")
    assert fedrounds("simulate", federation, "--resume", "1", "--seeds", 2).status == 2
    assert fedrounds("simulate", federation, "--resume", "nothing").status == 2
    # without the study, a run goes on as its folder says: a setting would be left out in silence
    refused = fedrounds("simulate", "--resume", "1", "--workers", 2)
    assert refused.status == 2
    assert "FR-U13" in refused.err
    assert fedrounds("simulate").status == 2
    assert fedrounds("simulate", "--resume", "1", "--dry-run").status == 2


def test_options_of_the_rehearsal_are_settings() -> None:
    assert rehearsal_settings(2, "pooled, local-only") == [
        "simulation.workers=2",
        'simulation.baselines=["pooled", "local-only"]',
    ]
    assert rehearsal_settings(None, "none") == ["simulation.baselines=[]"]
    assert rehearsal_settings(None, None) == []


@pytest.mark.slow
def test_a_run_can_be_evaluated_predicted_with_and_shown(
    fedrounds: Any, federation: Path, pictures: Write, tmp_path: Path
) -> None:
    fedrounds("simulate", federation)
    other = pictures(folder="other")
    judged = fedrounds("evaluate", "1", "--data", other, "--format", "json")
    assert judged.status == 0
    assert judged.envelope["data"]["metrics"]
    assert fedrounds("evaluate", "1").out.startswith("consensus of 0001-small")
    predicted = fedrounds("predict", "1", "-i", other, "-o", "masks", "--masks-only", "--format", "json")
    assert predicted.status == 0
    assert len(predicted.envelope["data"]["files"]) == 7
    drawn = fedrounds("show", "1", "--case", "nobody")
    assert (drawn.status, "FR-U55" in drawn.err) == (2, True)


def test_the_demo_is_quick_or_full_and_not_both(fedrounds: Any) -> None:
    said = fedrounds("demo", "--quick", "--full")
    assert said.status == 2
    assert said.err.startswith("FR-U13 --quick and --full together; one of them")


@pytest.mark.slow
def test_the_quick_demo_runs_to_its_report(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from fedrounds.cli.main import run; run()", "demo", "--quick", "--format", "json"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, env=clean)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["status"] == "ok"
    assert (tmp_path / "runs/0001-demo-quick/report.html").is_file()


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on_and_goes_on(fedrounds: Any, federation: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from fedrounds.cli.main import run; run()", "simulate", str(federation)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    child = subprocess.Popen(
        [*program, "-s", "training.rounds=60"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=clean
    )
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("round 2/"):
            child.send_signal(signal.SIGINT)
            break
    rest = child.stderr.read()
    assert child.wait(60) == 130
    assert rest.splitlines()[-1] == "FR-U14 interrupted; a run goes on from its last checkpoint with --resume"
    assert fedrounds("runs", "list", "--format", "json").envelope["data"]["runs"][0]["exit"] == 130
    again = fedrounds("simulate", federation, "-s", "training.rounds=60", "--resume", "latest")
    assert again.status == 0
    assert "60 rounds, 1 held out, going on from round" in again.err
