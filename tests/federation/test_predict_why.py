"""What an answer rests on is drawn and written by whoever holds the image: a model file, a study, a folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fedrounds.predict import predict
from fedrounds_client.site import build_parts
from fedrounds_common.arrays import of_module
from fedrounds_common.errors import UsageError
from fedrounds_common.study.canonical import digest
from fedrounds_common.study.parse import read_study
from fedrounds_server.release import write_model

Make = Callable[..., Any]
# score of the finding: the mean of what is brighter than 130
SPOTS = """
from dataclasses import dataclass
from typing import ClassVar

from fedrounds_common.network import Network


@dataclass(frozen=True)
class Spots(Network):
    makes: ClassVar[str] = "scores"

    def build(self, dims, inputs, outputs):
        import torch
        from torch import nn

        class Score(nn.Module):
            def __init__(self):
                super().__init__()
                self.see = (nn.Conv2d if dims == 2 else nn.Conv3d)(inputs, 1, 1)
                nn.init.ones_(self.see.weight)
                nn.init.constant_(self.see.bias, -130.0)
                self.clip = nn.ReLU()

            def forward(self, x):
                found = self.clip(self.see(x)).flatten(1).mean(1)
                return torch.stack([-found, found], dim=1)

        return Score()

    def divisor(self, dims):
        return 1
"""
CASES = 'dims = {dims}\nchannels = ["t1"]\nclasses = ["healthy", "lesion"]\nintensity = "none"'
COARSE = "\nspacing_mm = [2.0, 2.0, 2.0]"


@pytest.fixture
def released(tmp_path: Path) -> Callable[..., tuple[Path, Path, Path]]:
    """A classifier of bright spots as it reaches a hospital: its file, the study's, and the folder with its code."""

    def make(cases: str, more: str = "") -> tuple[Path, Path, Path]:
        code = tmp_path / "code"
        (code / "networks").mkdir(parents=True)
        (code / "networks/spots.py").write_text(SPOTS, encoding="utf-8")
        study = tmp_path / "study.toml"
        study.write_text(
            f'format = 1\nname = "spots"\ntask = "classification"\n[cases]\n{cases}\n[model]\nname = "spots"\n[evaluation]\nprimary = "auc"\n{more}',
            encoding="utf-8",
        )
        read = read_study(study, (), [code]).study
        file = tmp_path / "consensus.safetensors"
        write_model(file, of_module(build_parts(read, (code,)).module()), read, digest(read), 1)
        return file, study, code

    return make


@pytest.mark.parametrize("spacing", ["", COARSE], ids=["own voxels", "voxels of the study"])
def test_each_map_lies_in_the_patient_where_the_finding_is(
    tmp_path: Path, balls: Any, released: Make, spacing: str
) -> None:
    model, study, code = released(CASES.format(dims=3) + spacing)
    # 1.5 mm voxels whose first axis runs to the left: 6 mm to the patient's right, 5 to the back, 4 up
    affine = np.array([[-1.5, 0, 0, 17], [0, 1.5, 0, -18], [0, 0, 2.5, -20], [0, 0, 0, 1]])
    ball = balls.Ball((6.0, -5.0, 4.0), 5.0, (24, 24, 16), affine)
    balls.write_nifti(tmp_path / "in/a.nii.gz", ball.image(0, noise_sd=1), affine)
    found = predict(model, tmp_path / "in", tmp_path / "out", study=study, plugins=[code], why=["all"])
    assert found.exit == 0
    assert sorted(file.relative_to(tmp_path / "out").as_posix() for file in found.files["a"]) == [
        "why/a.png", "why/grad-cam/a.nii.gz", "why/integrated-gradients/a.nii.gz", "why/occlusion/a.nii.gz",
    ]  # fmt: skip
    for method in ("grad-cam", "occlusion", "integrated-gradients"):
        image = nib.load(tmp_path / f"out/why/{method}/a.nii.gz")
        assert image.shape == (24, 24, 16)
        np.testing.assert_array_equal(image.affine, affine)
        heat = np.asarray(image.dataobj)
        voxels = np.argwhere(heat >= 0.8 * heat.max())
        middle = nib.affines.apply_affine(affine, voxels).mean(axis=0)
        # within the ball; occlusion covers windows of a fifth of an axis
        assert np.linalg.norm(middle - ball.centre_mm) < 5, method
    assert "predictions.csv" in found.text()


def test_pictures_are_drawn_and_their_maps_written_pixel_by_pixel(tmp_path: Path, released: Make) -> None:
    pattern = "(?P<patient>\\\\d+)\\\\.png$"
    reader = f'[simulation.reader]\nname = "image_pairs"\nroot = "in"\npattern = "{pattern}"\nlabels_required = false\n'
    model, study, code = released(CASES.format(dims=2), reader)
    plane = np.full((40, 50), 60, np.uint8)
    plane[5:12, 30:40] = 200
    (tmp_path / "in").mkdir()
    Image.fromarray(plane).save(tmp_path / "in/7.png")
    found = predict(
        model, tmp_path / "in", tmp_path / "out", study=study, plugins=[code], why=["Grad-CAM", "grad-cam"]
    )  # fmt: skip
    (case,) = found.files
    heat = np.asarray(Image.open(tmp_path / "out/why/grad-cam/7_why.tif"))
    # a convolution of one pixel: its map is the very pixels that are brighter than 130
    np.testing.assert_array_equal(heat > 0, plane > 130)
    drawn = np.asarray(Image.open(tmp_path / f"out/why/{case}.png")).astype(int)
    left, right = np.array_split(drawn, 2, axis=1)
    warm = [int(((half[..., 0] - half[..., 2]) > 40).sum()) for half in (left, right)]
    assert warm[0] == 0
    assert warm[1] > 500


def test_a_method_that_the_network_does_not_have_is_refused_with_those_it_has(
    tmp_path: Path, balls: Any, brightness: Make
) -> None:
    model = brightness()
    balls.write_many(tmp_path / "in", ["a"])
    with pytest.raises(UsageError, match=r"FR-U83.*--why grad-cam.*undecided \(of this network\), or all"):
        predict(
            model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins, why=["grad-cam"]
        )
    assert not (tmp_path / "out").exists()


def test_a_mask_is_most_undecided_where_both_answers_are_as_likely(
    tmp_path: Path, balls: Any, brightness: Make
) -> None:
    model = brightness()  # a voxel of 130 has probability a half
    image = np.full(balls.grid, 60, np.float32)
    image[4:8] = 130
    image[8:] = 200
    balls.write_nifti(tmp_path / "in/a.nii.gz", image)
    predict(
        model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins, why=["undecided"],
        probabilities=False,
    )  # fmt: skip
    heat = np.asarray(nib.load(tmp_path / "out/why/undecided/a.nii.gz").dataobj)
    np.testing.assert_allclose(heat[4:8], 1, atol=1e-4)  # a bit
    np.testing.assert_allclose(heat[image != 130], 0, atol=1e-4)
    assert not (tmp_path / "out/probabilities").exists()


def test_a_task_without_explanations_says_so_and_writes_nothing(tmp_path: Path, balls: Any) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        'format = 1\nname = "t"\n[task]\nname = "generation"\nmethod = "translation"\nsource = ["t1"]\ntarget = ["t2"]\n'
        '[cases]\ndims = 3\nchannels = ["t1", "t2"]\n[evaluation]\nprimary = "mae"\n[model]\nname = "tiny_unet"\nchannels = [4, 8]\n',
        encoding="utf-8",
    )
    read = read_study(study).study
    model = tmp_path / "consensus.safetensors"
    write_model(model, of_module(build_parts(read, ()).module()), read, digest(read), 1)
    for channel in ("t1", "t2"):
        balls.write_nifti(tmp_path / f"in/a/{channel}.nii.gz", balls.random(1).image(1))
    with pytest.raises(UsageError, match=r"FR-U82.*generation has no explanation"):
        predict(
            model, tmp_path / "in", tmp_path / "out", study=study, why=["all"], reader="nifti_folder",
            settings=["images=(?P<case>\\w+)/(?P<channel>t\\d)\\.nii\\.gz"],
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
