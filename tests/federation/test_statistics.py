"""Sums from the sites to the model: equal to those of the pooled cases, whoever did them, in a run and in a baseline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.errors import StudyError
from fedrounds_server import history
from fedrounds_sites.hospitals import open_hospital

Cubes = Callable[..., Path]
DATA = Path(__file__).parents[1] / "data"
MINE = [DATA / "cubes", DATA / "sums"]
SETTLED = ("brightness", "spread")


def run_of(study: Path, *overrides: str, resume: Path | None = None) -> Run:
    given = ('task.name="brightness"', 'cases.intensity="none"', *overrides)
    found = simulate(study, overrides=given, plugins=MINE, runs=study.parent / "runs", resume=resume)
    assert isinstance(found, Run)
    return found


def model(file: Path) -> dict[str, Any]:
    return load_file(file)


def of_cases(run: Run, *sites: str) -> tuple[float, float]:
    """Mean and standard deviation of all voxels of these sites' training cases, of one array of them all."""
    cases = [case for site in sites for case in open_hospital(run.path, site).open_all().training]
    voxels = np.concatenate([case.image.astype(np.float64).ravel() for case in cases])
    return float(voxels.mean()), float(voxels.std())


def settled(file: Path) -> tuple[float, float]:
    arrays = model(file)
    return float(arrays["brightness"]), float(arrays["spread"])


@pytest.mark.slow
def test_what_the_sums_amount_to_is_that_of_the_pooled_cases(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(cubes(tmp_path, rounds=1), 'simulation.baselines=["pooled", "local-only", "ensemble"]')
    assert settled(run.folder.consensus) == pytest.approx(of_cases(run, *"ABCD"), rel=1e-12)
    assert settled(run.path / "baselines" / "pooled-all.safetensors") == pytest.approx(
        settled(run.folder.consensus), rel=1e-12
    )
    # a hospital alone settles the same, of its own cases
    for site in "AB":
        alone = settled(run.path / "baselines" / f"local-only-{site}.safetensors")
        assert alone == pytest.approx(of_cases(run, site), rel=1e-12)
        assert abs(alone[0] - settled(run.folder.consensus)[0]) > 1e-5
    assert run.exit == 0


@pytest.mark.slow
def test_neither_workers_nor_their_number_changes_a_bit(tmp_path: Path, cubes: Cubes) -> None:
    digests = {
        run_of(cubes(tmp_path / f"{workers}", rounds=1, workers=workers)).status["consensus"] for workers in (0, 1, 2)
    }
    assert len(digests) == 1


def test_a_study_of_no_rounds_learns_by_sums_alone_and_so_do_its_baselines(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=0)
    baselines = 'simulation.baselines=["pooled", "local-only", "local-only-long"]'
    run = run_of(study, baselines, "simulation.report=true")
    assert settled(run.folder.consensus) == pytest.approx(of_cases(run, *"ABCD"), rel=1e-12)
    start, end = model(run.path / "initial.safetensors"), model(run.folder.consensus)
    assert all(np.array_equal(start[name], end[name]) for name in start if name not in SETTLED)
    assert settled(run.path / "baselines" / "pooled-all.safetensors") == pytest.approx(
        settled(run.folder.consensus), rel=1e-12
    )
    assert {row.model for row in run.metrics} == {"untrained", "consensus", "pooled", "local-only", "local-only-long"}
    assert {row.round for row in run.metrics} == {0}
    assert "report_fault" not in json.loads(run.folder.status.read_text())
    page = (run.path / "report.html").read_text("utf-8")
    assert "4 hospitals" in page


def test_a_task_that_asks_for_no_sums_wants_rounds(tmp_path: Path, cubes: Cubes) -> None:
    with pytest.raises(StudyError, match=r"training.rounds: 0: nothing would be learned; segmentation asks sites"):
        simulate(cubes(tmp_path, rounds=0), plugins=MINE, runs=tmp_path / "runs")


def test_models_that_are_trained_first_settle_the_same_of_their_own_cases(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(cubes(tmp_path, rounds=1), 'cohort.initial_sites=["A"]', "cohort.initial_steps=1")
    assert settled(run.path / "initial.safetensors") == pytest.approx(of_cases(run, "A"), rel=1e-12)
    assert settled(run.folder.consensus) == pytest.approx(of_cases(run, *"ABCD"), rel=1e-12)


def test_a_site_that_cannot_answer_is_named_and_the_sums_are_those_of_the_others(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(cubes(tmp_path, rounds=1, reader='raises = "C"'))
    assert settled(run.folder.consensus) == pytest.approx(of_cases(run, *"ABD"), rel=1e-12)
    first, *_, last = history.read(run.folder.history)
    for line in (first, last):
        assert line.kind == "statistics"
        assert {site.site: site.state for site in line.sites} == {"A": "ok", "B": "ok", "C": "error:FR-R01", "D": "ok"}
    assert (run.exit, run.status["failed"]) == (9, {"C": "error:FR-R01"})


@pytest.mark.parametrize("wrong", ["nan", "shape"])
def test_sums_that_must_not_leave_are_stopped_at_the_site(wrong: str, tmp_path: Path, cubes: Cubes) -> None:
    from fedrounds_common.errors import TooFewSites

    with pytest.raises(TooFewSites, match=r"0 sites sent the sums for brightness.*A \(error:FR-R04\)"):
        run_of(cubes(tmp_path, rounds=1), f'task.goes_wrong="{wrong}"')
    outbox = (tmp_path / "runs" / "0001-cubes" / "sites" / "A" / "outbox.jsonl").read_text("utf-8")
    assert [json.loads(line)["kind"] for line in outbox.splitlines()] == ["hello", "scores", "refusal"]


def test_every_sum_that_left_stands_in_the_sites_ledger(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(cubes(tmp_path, rounds=1))
    lines = [json.loads(text) for text in (run.path / "sites" / "A" / "outbox.jsonl").read_text().splitlines()]
    sums = [line for line in lines if line["kind"] == "statistics"]
    assert [(line["purpose"], line["says"]["purpose"]) for line in sums] == [
        ("round 0: statistics brightness", "brightness"), ("round 1: statistics spread", "spread"),
    ]  # fmt: skip
    up = {line.purpose: line.sites[0].bytes_up for line in history.read(run.folder.history)}
    assert [line["bytes"] for line in sums] == [up["brightness"], up["spread"]]


def test_a_run_stopped_before_its_sums_after_the_last_round_goes_on_to_the_same_model(
    tmp_path: Path, cubes: Cubes
) -> None:
    study = cubes(tmp_path, rounds=1)
    run = run_of(study)
    undisturbed = run.folder.consensus.read_bytes()
    (run.folder.checkpoints / "round-0001.safetensors").unlink()  # as if stopped in round 1: that before it is left
    for file in (run.folder.consensus, run.folder.metrics, run.folder.scores / "0001-consensus-all.csv"):
        file.unlink()
    resumed = run_of(study, resume=run.path)
    assert resumed.folder.consensus.read_bytes() == undisturbed
    assert [line.kind for line in history.read(run.folder.history)] == ["statistics", "round", "statistics"]
