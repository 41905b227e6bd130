"""Generation on phantom hospitals, shortened: the consensus beats those who learn nothing, and repeats nobody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

STUDIES = Path(__file__).parents[2] / "studies"
SHORT = [
    "training.rounds=2", "training.local_steps=8", "simulation.reader.scale=0.04", "simulation.report=false",
    'cohort.sites=["s01", "s03"]', 'cohort.held_out=["s02"]', "cohort.minimum=2", "simulation.workers=0",
    "evaluation.local_validation=0.3",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_made_slices_are_nearer_to_real_ones_than_shuffled_voxels_and_no_case_is_repeated(tmp_path: Path) -> None:
    from fedrounds.sampling import sample
    from fedrounds.series import simulate

    run = simulate(STUDIES / "phantom-generation.toml", overrides=SHORT, runs=tmp_path)
    assert run.exit == 0
    rows = {(row.model, row.cohort, row.metric): row for row in run.metrics if row.site == "all" and row.round}
    ours, floor = (rows[model, "held-out", "fid"] for model in ("consensus", "floor"))
    assert ours.value < 0.5 * floor.value
    assert ours.n == floor.n >= 20
    assert rows["consensus", "held-out", "fid_floor"].value < rows["consensus", "held-out", "fid_blurred"].value
    memorised = rows["consensus", "local-val", "memorised"]
    assert memorised.n > 0
    assert memorised.value == 0
    # the codes of all sites were settled into the model before it was judged
    made = sample(run, tmp_path / "made", 3, reader={"name": "phantom_glioma", "scale": 0.04})
    assert len(list(made.folder.glob("synthetic-*-labels.png"))) == 3
    from fedrounds.model import open_model

    assert np.abs(open_model(run).arrays["centre"]).max() > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ct_from_t1_is_nearer_to_the_true_one_than_t1_is(tmp_path: Path) -> None:
    from fedrounds.series import simulate

    short = [*SHORT, "training.rounds=3", "training.local_steps=15"]
    run = simulate(STUDIES / "phantom-translation.toml", overrides=short, runs=tmp_path)
    assert run.exit == 0
    errors = {model: run.value(model, over="cases") for model in ("consensus", "floor")}
    assert errors["consensus"] < 0.6 * errors["floor"]
