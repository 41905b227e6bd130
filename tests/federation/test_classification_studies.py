"""Studies that classify, shortened: on phantom hospitals, from class weights to a temperature; and a solved head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

STUDIES = Path(__file__).parents[2] / "studies"
SMALL = [
    "simulation.reader.profile=eight", "simulation.reader.spacing_mm=8.0", "cohort.held_out=['s7', 's8']", "cohort.minimum=2",
    "simulation.report=false", "simulation.pictures=0", "simulation.workers=0", "evaluation.resamples=20",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_phantom_study_asks_for_class_counts_trains_and_fits_a_temperature(tmp_path: Path) -> None:
    from fedrounds.series import simulate

    short = [*SMALL, "training.rounds=2", "training.local_epochs=4", "simulation.baselines=['floor']"]
    run = simulate(STUDIES / "phantom-classification.toml", overrides=short, runs=tmp_path)
    assert run.exit == 0
    arrays = run.consensus().state_dict()
    weights = arrays["class_weights"].numpy()
    assert weights.shape == (2, 3)
    assert (weights[1] != 1).any()
    assert arrays["temperature"].item() != 1
    rows = {
        (row.model, row.region, row.metric): row
        for row in run.metrics
        if row.site == "all" and row.cohort == "held-out"
    }
    assert rows["consensus", "mean", "auc"].value > rows["floor", "mean", "auc"].value == 0.5
    assert rows["consensus", "mean", "auc_bound"].value < 0.01
    for region in ("no_tumour", "non_enhancing", "enhancing"):
        row = rows["consensus", region, "accuracy"]
        assert row.empty + row.missed + row.spurious + rows["consensus", region, "tp"].value == row.n == 12


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_head_solved_from_the_sites_sums_without_a_round_is_the_pooled_one(tmp_path: Path) -> None:
    from fedrounds.series import simulate

    lda = [
        *SMALL, "task.head=lda", "task.weights=none", "task.temperature=false", "task.shrinkage=0.2",
        "training.rounds=0", "model.running_statistics=false", "simulation.baselines=['floor', 'pooled']",
    ]  # fmt: skip
    run = simulate(STUDIES / "phantom-classification.toml", overrides=lda, runs=tmp_path)
    assert run.exit == 0
    rows = {(row.model, row.site, row.cohort, row.region, row.metric): row.value for row in run.metrics}
    of_sites, pooled = (
        {key[1:]: value for key, value in rows.items() if key[0] == model} for model in ("consensus", "pooled")
    )
    assert set(of_sites) == set(pooled)
    for key, value in of_sites.items():  # the solved weights are equal to 1e-9, and float32 after that
        np.testing.assert_allclose(value, pooled[key], rtol=1e-4, atol=1e-4, err_msg=str(key))
    arrays = {name: array.numpy() for name, array in run.consensus().state_dict().items()}
    assert np.abs(arrays["head.centre"]).max() > 0
    assert np.abs(arrays["head.linear.weight"]).max() > 1  # of LDA: no layer begins with such weights
