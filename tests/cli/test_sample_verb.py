"""`fedrounds sample`: what a generator's run gives out, and that nobody can take it for a patient."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from fedrounds_common.case import Case, CaseRef, Target, orientation_of
from fedrounds_common.errors import UsageError
from fedrounds_common.generative.drawing import NOTE, contact_sheet
from fedrounds_common.generative.grids import affine_of
from fedrounds_common.study.tables import CaseForm

DATA = Path(__file__).parents[1] / "data"
Write = Callable[..., Path]
PICTURES = f"""
[task]
name = "generation"
method = "gan"
by = "classes"
pool = 4
[cases]
dims = 2
classes = ["normal", "pneumonia"]
intensity = "unit"
[model]
name = "image_gan"
grid = [28, 28]
widths = [8, 4]
latent = 4
[training]
rounds = 1
local_steps = 1
batch = 2
augment = []
[cohort]
minimum = 1
held_out = ["test"]
[evaluation]
primary = "fid"
resamples = 5
[simulation]
baselines = []
report = false
pictures = 0
[simulation.reader]
name = "npz_arrays"
root = "{DATA / "medmnist" / "pneumonia24.npz"}"
[simulation.partition]
name = "sizes"
sizes = [3, 2]
"""
VOLUMES = """
[task]
name = "generation"
method = "gan"
by = "labels"
[cases]
channels = ["t1"]
labels = { cube = 1 }
spacing_mm = [2.0, 1.0, 1.0]
orientation = "LPS"
intensity = "unit"
[model]
name = "image_gan"
grid = [8, 12, 8]
widths = [8, 4]
latent = 4
[training]
rounds = 1
local_steps = 1
batch = 2
augment = []
[evaluation]
primary = "fid"
resamples = 5
[simulation]
baselines = []
report = false
pictures = 0
[simulation.reader]
name = "cubes"
"""


@pytest.fixture
def run_of(fedrounds: Any, study: Write) -> Callable[..., None]:
    def simulate(lines: str, *more: str) -> None:
        said = fedrounds("simulate", study(lines), *more)
        assert said.status == 0, said.err

    return simulate


@pytest.mark.slow
def test_pictures_come_with_their_class_and_say_that_they_are_synthetic(
    fedrounds: Any, run_of: Callable[..., None]
) -> None:
    run_of(PICTURES)
    said = fedrounds("sample", "1", "-n", 5, "-o", "made", "--format", "json")
    assert said.status == 0, said.err
    folder = Path("made")
    with (folder / "conditions.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["class"] for row in rows] == ["normal", "pneumonia", "normal", "pneumonia", "normal"]
    for row in rows:
        assert row["images"] == f"{row['case']}-{row['class']}.png"
        assert row["case"].startswith("synthetic-")
        assert row["synthetic"] == "yes"
        picture = Image.open(folder / row["images"])
        assert picture.size == (28, 28)
        assert picture.text["Comment"] == NOTE  # type: ignore[attr-defined]
    assert Image.open(folder / "contact-sheet.png").text["Comment"] == NOTE  # type: ignore[attr-defined]
    about = json.loads((folder / "synthetic.json").read_text("utf-8"))
    assert about["synthetic"] is True
    assert about["for"] == NOTE
    assert "for research only" in fedrounds("sample", "1", "-n", 1, "-o", "other").out
    # the same seed gives the same bytes; another one does not; one class can be asked for
    first = (folder / "synthetic-0001-normal.png").read_bytes()
    fedrounds("sample", "1", "-n", 5, "-o", "again")
    assert Path("again/synthetic-0001-normal.png").read_bytes() == first
    fedrounds("sample", "1", "-n", 2, "--seed", 7, "--class", "normal", "-o", "ill")
    assert sorted(file.name for file in Path("ill").glob("synthetic-*")) == [
        "synthetic-0001-normal.png",
        "synthetic-0002-normal.png",
    ]
    assert Path("ill/synthetic-0001-normal.png").read_bytes() != first
    # what is there is not written over unasked, and what no generator knows is refused
    assert "FR-U54" in fedrounds("sample", "1", "-n", 1, "-o", "made").err
    assert "FR-U77 there is no class 'sick'" in fedrounds("sample", "1", "--class", "sick", "-o", "new").err


@pytest.mark.slow
def test_volumes_lie_where_the_study_says_beside_the_label_map_they_were_made_for(
    fedrounds: Any, run_of: Callable[..., None]
) -> None:
    plugins = ("--plugins", str(DATA / "cubes"))
    run_of(VOLUMES, *plugins)
    assert "FR-U77 a model of label maps" in fedrounds("sample", "1", "-n", 2, "-o", "none", *plugins).err
    said = fedrounds("sample", "1", "-n", 2, "-o", "made", "--reader", "cubes", *plugins)
    assert said.status == 0, said.err
    image = nibabel.load("made/synthetic-0001.nii.gz")
    labels = nibabel.load("made/synthetic-0001-labels.nii.gz")
    assert image.shape == labels.shape == (8, 12, 8)
    np.testing.assert_array_equal(image.affine, labels.affine)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_allclose(image.header.get_zooms(), (2, 1, 1))
    assert bytes(image.header["descrip"]).startswith(NOTE.encode())
    assert set(np.unique(np.asarray(labels.dataobj)).tolist()) == {0, 1}


def test_a_task_that_makes_no_images_says_so() -> None:
    from fedrounds_common.networks.tiny_unet import TinyUNet
    from fedrounds_common.tasks.segmentation import Segmentation

    network = Segmentation().network(TinyUNet(channels=(4,)), CaseForm(dims=2))
    with pytest.raises(UsageError, match="FR-U76 this task makes no images from nothing"):
        Segmentation().sample(network, CaseForm(dims=2), 1, seed=1)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAS"])
def test_an_image_that_was_never_anywhere_is_turned_as_the_study_says_with_its_middle_at_nought(
    orientation: Any,
) -> None:
    form = CaseForm(orientation=orientation, spacing_mm=(1.0, 2.0, 3.0))
    affine = affine_of(form, (5, 7, 9))
    assert orientation_of(affine) == orientation
    np.testing.assert_allclose(affine @ [2, 3, 4, 1], [0, 0, 0, 1], atol=1e-12)


def test_a_contact_sheet_has_every_image_eight_a_row() -> None:
    form = CaseForm(dims=2, classes=("a", "b"))
    cases = [
        Case(CaseRef(f"{n}", f"{n}"), np.full((1, 28, 28), n / 12, np.float32), Target(classes=np.eye(2, dtype=np.float32)[n % 2]), np.eye(4))
        for n in range(1, 12)
    ]  # fmt: skip
    sheet = contact_sheet(cases, form)
    assert sheet.shape[1] == 8 * 96
    # the middle of each tile has its image's grey
    height = (sheet.shape[0] - 16) // 2
    for place in range(11):
        row, column = divmod(place, 8)
        grey = sheet[16 + row * height + 46, column * 96 + 46, 0]
        assert grey == pytest.approx(255 * (place + 1) / 12, abs=1)
