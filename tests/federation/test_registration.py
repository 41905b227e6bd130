"""The registration study shortened: simulated pairs whose displacement is known, at hospitals that never trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedrounds.predict import predict
from fedrounds.run import Run
from fedrounds.series import simulate

STUDIES = Path(__file__).parents[2] / "studies"
SHORTER = [
    "training.rounds=5",
    "training.local_steps=16",
    "model.channels=[16, 32]",
    "simulation.workers=0",
    "simulation.report=false",
    "simulation.reader.scale=0.1",
    "simulation.reader.spacing_mm=5.0",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = simulate(STUDIES / "phantom-registration.toml", overrides=SHORTER, runs=tmp_path_factory.mktemp("runs"))
    assert isinstance(made, Run)
    return made


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_consensus_comes_closer_to_the_true_field_than_moving_nothing(run: Run) -> None:
    assert run.exit == 0
    consensus, floor = (run.value(model, over="cases") for model in ("consensus", "floor"))
    # end-point error, in mm: lower is better
    assert consensus < 0.85 * floor
    rows = {
        (row.model, row.region, row.metric): row for row in run.metrics if (row.site, row.cohort) == ("all", "held-out")
    }
    for region in ("grey", "white"):
        assert rows["consensus", region, "dice"].value > rows["floor", region, "dice"].value + 0.03
    assert rows["consensus", "landmarks", "tre"].value < 0.9 * rows["floor", "landmarks", "tre"].value
    assert rows["consensus", "field", "folded"].value < 1
    assert rows["consensus", "field", "inverse"].value < 0.3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_in_three_dimensions_writes_what_lies_on_the_fixed_image(tmp_path: Path) -> None:
    volumes = [
        *SHORTER, "training.rounds=1", "training.local_steps=2", "training.batch=2", "cases.dims=3",
        "simulation.reader.scale=0.05", "simulation.reader.spacing_mm=8.0", 'simulation.baselines=[]',
    ]  # fmt: skip
    made = simulate(STUDIES / "phantom-registration.toml", overrides=volumes, runs=tmp_path / "runs")
    assert isinstance(made, Run)
    reader = {"name": "phantom_pairs", "profile": "eight", "scale": 0.05, "spacing_mm": 8.0}
    found = predict(made, None, tmp_path / "out", reader=reader)
    for files in list(found.files.values())[:2]:
        kinds: dict[str, Any] = {file.parent.name: nib.load(file) for file in files}
        assert set(kinds) == {"warped", "masks", "fields", "inverse"}
        grid, affine = kinds["warped"].shape, kinds["warped"].affine
        assert kinds["masks"].shape == grid
        np.testing.assert_array_equal(kinds["masks"].affine, affine)
        for name in ("fields", "inverse"):
            assert kinds[name].shape == (*grid, 1, 3)
            np.testing.assert_array_equal(kinds[name].affine, affine)
            assert kinds[name].header.get_intent()[0] == "displacement vector"
        assert set(np.unique(np.asarray(kinds["masks"].dataobj))) <= {0, 1, 2, 3}
