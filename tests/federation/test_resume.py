"""A run that was stopped at any moment and is gone on with says what an undisturbed one says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_server.tables import read_metrics, write_metrics

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"


def run_of(study: Path, *overrides: str, resume: Path | None = None) -> Run:
    found = simulate(study, overrides=overrides, plugins=[MINE], runs=study.parent / "runs", resume=resume)
    assert isinstance(found, Run)
    return found


def stopped_after(run: Run, *kept: str) -> None:
    """The run's folder as if it had been killed before scores other than these were written."""
    for file in [*run.folder.scores.glob("*.csv"), run.folder.metrics, run.folder.consensus]:
        if file.name not in kept:
            file.unlink(missing_ok=True)
    run.folder.status.write_text('{"format": 1, "state": "running"}', encoding="utf-8")


def test_a_run_killed_between_its_last_checkpoint_and_its_judging_is_judged_on_resume(
    tmp_path: Path, cubes: Cubes
) -> None:
    study = cubes(tmp_path, rounds=2)
    run = run_of(study, "evaluation.every=1")
    undisturbed = run.folder.metrics.read_bytes()
    stopped_after(run, "0000-untrained-all.csv", "0001-consensus-all.csv")
    resumed = run_of(study, "evaluation.every=1", resume=run.path)
    assert resumed.folder.metrics.read_bytes() == undisturbed


def test_a_run_killed_between_a_rounds_checkpoint_and_its_judging_judges_that_round(
    tmp_path: Path, cubes: Cubes
) -> None:
    study = cubes(tmp_path, rounds=2)
    run = run_of(study, "evaluation.every=1")
    undisturbed = run.folder.metrics.read_bytes()
    stopped_after(run, "0000-untrained-all.csv")
    (run.folder.checkpoints / "round-0002.safetensors").unlink()
    resumed = run_of(study, "evaluation.every=1", resume=run.path)
    assert resumed.folder.metrics.read_bytes() == undisturbed


def test_a_site_whose_scores_were_missing_before_the_stop_is_asked_again(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    run = run_of(study)
    undisturbed = run.folder.metrics.read_bytes()
    file = run.folder.scores / "0001-consensus-all.csv"
    rows = read_metrics(file)
    missing = max(row.site for row in rows if row.site != "all")
    write_metrics(file, [row for row in rows if row.site != missing])
    stopped_after(run, "0000-untrained-all.csv", file.name)
    assert run_of(study, resume=run.path).folder.metrics.read_bytes() == undisturbed


def test_a_site_that_is_gone_when_a_run_goes_on_has_failed(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    run = run_of(study)
    assert run.exit == 0
    stopped_after(run)
    resumed = run_of(study, 'simulation.reader.raises="A"', resume=run.path)
    assert json.loads(resumed.folder.status.read_text())["failed"] == {"A": "error:FR-R01"}
