"""Runs are found by path, name, number or `latest`, and told as they ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedrounds.cli.runs import run_path
from fedrounds_common.errors import UsageError
from fedrounds_server.tables import MetricRow, write_metrics


def made_run(runs: Path, name: str, value: float = 0.75, exit_: int = 0) -> Path:
    """A run's folder with one consensus judged at two held-out hospitals."""
    folder = runs / name
    folder.mkdir(parents=True)
    status = {"format": 1, "state": "done", "exit": exit_, "rounds": 3, "planned": 2, "finished": 2, "failed": {}}
    (folder / "status.json").write_text(json.dumps(status))
    record = {"format": 1, "started": "2026-01-02T03:04:05+00:00", "data": "files", "seed": 1, "primary": "dice"}
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "study.resolved.toml").write_text('name = "chest"\n[evaluation]\nprimary = "dice"\n')
    rows = [
        MetricRow(3, "consensus", "all", site, "held-out", "mean", "dice", value, value, value, 4, 0, 0, 0)
        for site in ("all", "a", "b")
    ]
    write_metrics(folder / "metrics.csv", rows)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    made_run(folder, "0001-chest")
    made_run(folder, "0012-brain", 0.5, exit_=9)
    (folder / "latest").symlink_to("0012-brain")
    (folder / "notes").mkdir()
    return folder


@pytest.mark.parametrize("name", ["0012-brain", "12", "latest", "runs/0012-brain", "runs/latest"])
def test_a_run_is_found_by_any_of_its_names(name: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.parent)
    assert run_path(name).name == "0012-brain"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("0012-brian", "did you mean 0012-brain?"), ("7", "`fedrounds runs list`"), ("notes", "`fedrounds runs list`")],
)
def test_a_run_that_is_not_there_names_the_nearest(name: str, hint: str, runs: Path) -> None:
    with pytest.raises(UsageError, match="is no run's folder") as caught:
        run_path(name, runs)
    assert hint in str(caught.value)


def test_runs_are_listed_once_each_with_how_they_ended(fedrounds: Any, runs: Path) -> None:
    entries = fedrounds("runs", "list", "--format", "json").envelope["data"]["runs"]
    assert [(entry["name"], entry["exit"], entry["primary"], entry["sites"]) for entry in entries] == [
        ("0001-chest", 0, "Dice 0.75", "2 of 2"),
        ("0012-brain", 9, "Dice 0.50", "2 of 2"),
    ]
    assert "0012-brain" in fedrounds("runs", "list").out


def test_an_empty_folder_has_no_runs(fedrounds: Any) -> None:
    assert fedrounds("runs", "list").out == "No runs in runs.\n"


def test_a_run_is_told_with_its_number_and_its_files(fedrounds: Any, runs: Path) -> None:
    said = fedrounds("runs", "show", "1")
    assert said.status == 0
    assert "chest, run 0001: Done (exit status 0" in said.out
    assert "0.75" in said.out
    assert "runs/0001-chest/metrics.csv" in said.out
    data = fedrounds("runs", "show", "1", "--format", "json").envelope["data"]
    assert data["status"]["rounds"] == 3
    assert data["models"][0]["model"] == "consensus"


def test_a_report_is_written_and_its_place_told(fedrounds: Any, runs: Path) -> None:
    said = fedrounds("report", "0001-chest", "--no-sites", "--format", "json")
    assert said.status == 0
    assert Path(said.envelope["data"]["report"]).is_file()
    assert said.envelope["data"]["with_sites"] is False
