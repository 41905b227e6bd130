"""A federation that hides hospitals: with the coordinator's noise, with shares of the sites, and beside noise in steps."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.arrays import of_module
from fedrounds_common.dp.accounting import epsilon
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.honesty import privacy
from fedrounds_server.report.spent import spent_by, spent_on_hospitals, spent_table

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"
EQUAL = 'name = "fedavg"\nweights = "equal"'
HIDES = '[[privacy]]\nname = "hospital_dp"\nepsilon = "none"\nnoise_multiplier = 2.0\nclip = 0.5\nsites = 4.0\n'
STEPS = '[[privacy]]\nname = "dp_sgd"\nepsilon = "none"\nnoise_multiplier = 1.0\nsampling_rate = 0.5\npatients = 2\n'


def run_of(tmp_path: Path, cubes: Cubes, tables: str, rounds: int = 2, *overrides: str) -> Run:
    study = cubes(tmp_path, rounds=rounds, strategy=EQUAL)
    study.write_text(study.read_text() + tables)
    found = simulate(study, overrides=overrides, plugins=[MINE], runs=tmp_path / "runs")
    assert isinstance(found, Run)
    return found


def moved(run: Run) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """By how much each weight is another than where round 1 started."""
    from fedrounds_server.app import initial_weights

    study = run.study
    start = initial_weights(study, study.build_task(run.plugins), study.build_network(run.plugins))
    ended = of_module(run.consensus())
    return np.concatenate([(ended[name].astype(np.float64) - start[name]).ravel() for name in start])


@pytest.mark.slow
@pytest.mark.parametrize("hand", ["coordinator", "sites"])
def test_the_consensus_moves_by_the_noise_of_every_round(hand: str, tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(tmp_path, cubes, HIDES + f'noise = "{hand}"\n', 2, "cohort.minimum=4")
    assert run.exit == 0
    # two rounds of noise of two clips of ½, by four; four updates of norm ½ at most add little to each of the weights
    assert moved(run).std() == pytest.approx(2 * 0.5 / 4 * np.sqrt(2), rel=0.1)
    seen = read_run(run.path)
    rounds, spent = spent_on_hospitals(seen) or (0, None)
    assert spent is not None
    assert rounds == 2
    assert spent.epsilon == pytest.approx(epsilon("rdp", 2.0, 1.0, 2, 1e-5))
    said = " ".join(privacy(seen))
    assert f"for each hospital as a whole, as rdp counts: {spent.epsilon:.3g} for 2 noisy rounds" in said
    against = "not against the coordinator" if hand == "coordinator" else "against it the promise does not hold"
    assert against in said
    assert {(site.norm, site.cosine, site.loss) for line in seen.history for site in line.sites} == {(None, None, None)}


@pytest.mark.slow
def test_patients_and_hospitals_have_a_bill_each(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(tmp_path, cubes, STEPS + HIDES)
    seen = read_run(run.path)
    patients = epsilon("rdp", 1.0, 0.5, 6, 1e-5)
    assert spent_by(seen)["A"].epsilon == pytest.approx(patients)
    table = spent_table(seen)
    assert table is not None
    hospitals = epsilon("rdp", 2.0, 1.0, 2, 1e-5)
    assert [row[:3] for row in table.rows] == [
        ("patient", "2", f"{patients:.3g}"), ("hospital", "2", f"{hospitals:.3g}"),
    ]  # fmt: skip
    assert "It is a bill of its own, and is not added to that of patients." in " ".join(privacy(seen))
    assert json.loads((run.path / "record.json").read_text())["privacy"].startswith("dp_sgd, hospital_dp")


@pytest.mark.slow
def test_scores_of_fewer_cases_than_the_study_says_are_in_no_table(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(tmp_path, cubes, '[[privacy]]\nname = "minimum_group"\ncases = 1000\n', 1)
    assert set(run.status["withheld"]) == {"A", "C", "D"}  # B has none to judge on
    with (run.path / "metrics.csv").open() as file:
        assert list(csv.DictReader(file)) == []
    assert "Of fewer than 1000 cases no hospital told scores or sums" in " ".join(privacy(read_run(run.path)))


@pytest.mark.slow
def test_shares_of_noise_within_a_secure_sum_hide_hospitals_from_the_coordinator_too(
    tmp_path: Path, cubes: Cubes
) -> None:
    tables = HIDES + 'noise = "sites"\n[wire.channel]\nname = "secure_sum"\n'
    run = run_of(tmp_path, cubes, tables, 2, "cohort.minimum=4")
    assert run.exit == 0
    assert moved(run).std() == pytest.approx(2 * 0.5 / 4 * np.sqrt(2), rel=0.1)
    assert "the promise holds against it too" in " ".join(privacy(read_run(run.path)))
