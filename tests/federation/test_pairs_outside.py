"""A task that judges pairs is judged on a folder by the pairs of each site, and writes on the fixed image's grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fedrounds.judge import evaluate
from fedrounds.predict import predict
from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds.showing import show
from fedrounds_common.errors import UsageError

DATA = Path(__file__).parents[1] / "data" / "hippocampus"
STUDY = """
format = 1
name = "pairs"
task = "registration"
[cases]
channels = ["t1"]
labels = { anterior = 1, posterior = 2 }
[model]
name = "voxelmorph"
channels = [4, 8]
[training]
rounds = 1
local_steps = 2
batch = 1
patch = [32, 32, 32]
[cohort]
held_out = ["s02"]
[evaluation]
local_validation = 0.0
resamples = 5
[simulation]
report = false
[simulation.partition]
name = "sizes"
sizes = [3, 3]
[simulation.reader]
name = "nifti_folder"
images = 'images/(?P<case>\\w+)\\.nii\\.gz'
labels = 'labels/(?P<case>\\w+)\\.nii\\.gz'
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "study.toml").write_text(STUDY + f'root = "{DATA}"\n', "utf-8")
    made = simulate(folder / "study.toml", runs=folder / "runs")
    assert isinstance(made, Run)
    return made


def test_the_pairs_of_a_folder_are_judged_and_not_its_cases(run: Run, tmp_path: Path) -> None:
    cases = len(list((DATA / "images").glob("*.nii.gz")))
    found = evaluate(run, DATA, out=tmp_path / "out")
    names = {row.case for row in found.cases}
    # a ring of six, and as many again by lot: each case is fixed at least once
    assert len(names) == 2 * cases
    assert {name.partition("--")[0] for name in names} == {
        file.name.removesuffix(".nii.gz") for file in (DATA / "images").glob("*.nii.gz")
    }
    assert "Folded voxels (%)" in found.text()
    assert "Dice" in found.text()
    assert found.exit == 0


@pytest.mark.slow
def test_what_is_written_of_a_pair_lies_on_the_fixed_images_grid(run: Run, tmp_path: Path) -> None:
    found = predict(run, DATA, tmp_path / "out")
    pair, files = next(iter(found.files.items()))
    fixed: Any = nib.load(DATA / "images" / f"{pair.partition('--')[0]}.nii.gz")
    kinds = {file.parent.name: nib.load(file) for file in files}
    assert set(kinds) == {"warped", "masks", "fields", "inverse"}
    for image in kinds.values():
        assert image.shape[:3] == fixed.shape
        np.testing.assert_allclose(image.affine, fixed.affine, atol=1e-4)
    assert kinds["fields"].shape == (*fixed.shape, 1, 3)
    assert kinds["fields"].header.get_intent()[0] == "displacement vector"
    assert set(np.unique(np.asarray(kinds["masks"].dataobj))) <= {0, 1, 2}
    # of the moving image's own intensities, not of the prepared ones that are of mean 0
    assert float(np.asarray(kinds["warped"].dataobj).min()) >= 0


def test_where_a_displacement_is_unsure_is_drawn_on_the_fixed_image(run: Run, tmp_path: Path) -> None:
    name = "hippocampus_141"
    for kind in ("images", "labels"):
        (tmp_path / "two" / kind).mkdir(parents=True)
        for case in (name, "hippocampus_143"):
            (tmp_path / "two" / kind / f"{case}.nii.gz").symlink_to(DATA / kind / f"{case}.nii.gz")
    found = predict(
        run.path / "consensus.safetensors", tmp_path / "two", tmp_path / "out", why=["known shifts"],
        settings=["follow_links=true"],
    )  # fmt: skip
    pair = next(pair for pair in found.files if pair.startswith(name))
    fixed: Any = nib.load(DATA / "images" / f"{name}.nii.gz")
    heat: Any = nib.load(tmp_path / "out/why/known-shifts" / f"{pair}.nii.gz")
    assert heat.shape == fixed.shape
    np.testing.assert_allclose(heat.affine, fixed.affine, atol=1e-4)
    values = np.asarray(heat.dataobj)
    # of 1 mm voxels: a network that learned next to nothing answers nothing to a shift by one
    assert 0.5 < float(np.median(values)) < 1.5
    assert np.asarray(Image.open(tmp_path / "out/why" / f"{pair}.png")).ndim == 3


def test_a_pair_is_shown_by_the_name_it_has_among_the_scores(run: Run, tmp_path: Path) -> None:
    held_out = (run.path / "sites" / "s02" / "cases.csv").read_text("utf-8").splitlines()
    name = held_out[1].split(",")[4]
    assert "--" in name
    found = show(run, name, out=tmp_path / "a.png")
    assert (found.site, found.role) == ("s02", "held-out")
    assert found.path.read_bytes().startswith(b"\x89PNG")
    assert "Folded voxels (%)" in found.text()
    with pytest.raises(UsageError, match="FR-U55"):
        show(run, "hippocampus_141--nobody", out=tmp_path / "a.png")
