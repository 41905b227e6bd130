"""A federation whose steps are noisy: it runs, tells no loss, says what was spent, and two runs of one seed differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.dp.accounting import epsilon
from fedrounds_common.errors import TooFewSites
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.honesty import privacy, what_left
from fedrounds_server.report.spent import spent_by

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"
DP = '[[privacy]]\nname = "dp_sgd"\nepsilon = "none"\nnoise_multiplier = 1.0\nsampling_rate = 0.5\npatients = {patients}\n'


def study_with_noise(study: Path, patients: int = 2) -> Path:
    study.write_text(study.read_text() + DP.format(patients=patients))
    return study


def run_of(study: Path, *overrides: str) -> Run:
    return simulate(study, overrides=overrides, plugins=[MINE], runs=study.parent / "runs")


@pytest.mark.slow
def test_a_noisy_federation_says_what_it_spent_and_no_loss(tmp_path: Path, cubes: Cubes) -> None:
    study = study_with_noise(cubes(tmp_path, rounds=2, strategy='name = "fedprox"\nmu = 0.1'))
    first, second = run_of(study), run_of(study)
    assert first.exit == 0
    seen = read_run(first.path)
    assert {site.loss for line in seen.history for site in line.sites} == {None}
    # two rounds of three steps each
    wanted = epsilon("rdp", 1.0, 0.5, 6, 1e-5)
    assert {name: round(spent.epsilon, 9) for name, spent in spent_by(seen).items()} == dict.fromkeys(
        "ABCD", round(wanted, 9)
    )
    text = " ".join((*privacy(seen), *what_left(seen)))
    assert f"as rdp counts: A {wanted:.3g}, B {wanted:.3g}" in text
    assert "Outside that promise: how many cases" in text
    assert "its number of cases and steps. Scores" in text
    assert json.loads((first.path / "record.json").read_text())["privacy"] == "dp_sgd; no secure aggregation"
    # the seed decides none of the noise
    assert seen.history[0].digest != read_run(second.path).history[0].digest


@pytest.mark.slow
def test_sites_with_too_few_patients_refuse_and_say_so_in_their_own_log(tmp_path: Path, cubes: Cubes) -> None:
    study = study_with_noise(cubes(tmp_path, rounds=1), patients=7)
    with pytest.raises(TooFewSites):
        run_of(study)
    log = (tmp_path / "runs" / "0001-cubes" / "sites" / "A" / "log").read_text()
    assert "FR-C35" in log
    assert "the 7 of the study's [[privacy]]" in log
