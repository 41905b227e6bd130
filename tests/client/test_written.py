"""Each kind of file that a task may write of a case lies where the case lies, and is read by other programs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from fedrounds_client.output import write_prediction, write_tables
from fedrounds_common.case import Case, CaseRef
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.written import LabelImage, ScalarImages, Values, VectorImage
from fedrounds_sites.nifti import read_volume, write_nifti
from fedrounds_sites.reader import Reader
from fedrounds_sites.simulation import READERS

FORM = CaseForm(channels=("t1",), labels={"core": 1})
GRID = (4, 5, 6)
# the first axis runs to the left and the second to the back; 2 x 3 x 4 mm
AFFINE = np.array([[-2.0, 0, 0, 10], [0, -3.0, 0, 20], [0, 0, 4.0, -30], [0, 0, 0, 1]])


def folder_of(tmp_path: Path) -> Reader:
    write_nifti(tmp_path / "in" / "a.nii.gz", np.arange(120, dtype=np.float32).reshape(GRID), AFFINE)
    table: dict[str, Any] = {"name": "nifti_folder", "root": str(tmp_path / "in"), "images": r"(?P<case>\w+)\.nii\.gz"}
    return READERS.load({**table, "labels": "", "labels_required": False})


def test_displacements_are_vectors_in_world_millimetres_whatever_the_files_axes(tmp_path: Path) -> None:
    reader = folder_of(tmp_path)
    case = reader.load(reader.cases(FORM)[0], FORM)
    field = np.zeros((3, *case.grid), np.float32)
    field[0], field[1], field[2] = 1.5, -2.5, np.arange(case.grid[2])
    [file] = write_prediction(tmp_path / "out", reader, case, {"fields": VectorImage(field)}, FORM)
    written: Any = nib.load(file)
    assert written.header.get_intent()[0] == "displacement vector"
    assert written.shape == (*GRID, 1, 3)
    np.testing.assert_array_equal(written.affine, AFFINE)
    voxels = np.asarray(written.dataobj)[:, :, :, 0]
    np.testing.assert_array_equal(voxels[..., 0], 1.5)
    np.testing.assert_array_equal(voxels[..., 1], -2.5)
    np.testing.assert_array_equal(voxels[0, 0, :, 2], np.arange(GRID[2]))


def test_images_of_any_range_are_volumes_one_after_the_other(tmp_path: Path) -> None:
    reader = folder_of(tmp_path)
    case = reader.load(reader.cases(FORM)[0], FORM)
    images = {"ct": np.full(case.grid, -1000, np.float32), "t2": np.full(case.grid, 3.5, np.float32)}
    made = {"images": ScalarImages(images, "intensities"), "probabilities": ScalarImages({"core": images["t2"] / 7})}
    [file] = write_prediction(tmp_path / "out", reader, case, made, FORM, probabilities=False)
    assert file == tmp_path / "out/images/a.nii.gz"
    found = read_volume(file)
    np.testing.assert_array_equal(found.affine, AFFINE)
    np.testing.assert_array_equal(found.voxels[0, 0, 0], [-1000, 3.5])


def test_a_case_that_no_file_holds_lies_where_its_affine_says(tmp_path: Path) -> None:
    reader = folder_of(tmp_path)
    case = reader.load(reader.cases(FORM)[0], FORM)
    pair = Case(CaseRef("a--b", "a"), np.concatenate([case.image, case.image]), None, case.affine)
    made = {"masks": LabelImage(np.ones(case.grid, np.uint8))}
    [file] = write_prediction(tmp_path / "out", reader, pair, made, FORM, of_file=False)
    assert file.name == "a--b.nii.gz"
    np.testing.assert_array_equal(read_volume(file).affine, case.affine)


def test_of_pictures_intensities_are_kept_exactly_and_displacements_are_no_picture(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(tmp_path / "in" / "A_001_001.png")
    table = {"name": "image_pairs", "root": str(tmp_path / "in"), "labels_required": False}
    flat = CaseForm(dims=2, channels=("x",), labels={"core": 1})
    reader = READERS.load(table)
    case = reader.load(reader.cases(flat)[0], flat)
    image = np.linspace(-1, 1, 63, dtype=np.float32).reshape(7, 9)
    grid = case.grid
    files = write_prediction(
        tmp_path / "out", reader, case,
        {"images": ScalarImages({"x": image.reshape(grid)}, "intensities"),
         "fields": VectorImage(np.ones((len(grid), *grid), np.float32))},
        flat,
    )  # fmt: skip
    assert [file.relative_to(tmp_path / "out").parts[0] for file in files] == ["images", "fields"]
    assert files[0].suffix == ".tif"
    with Image.open(files[0]) as read:
        np.testing.assert_array_equal(np.asarray(read), image)
    assert nib.load(files[1]).header.get_intent()[0] == "displacement vector"


def test_a_table_has_a_line_for_each_case_and_every_column_that_any_has(tmp_path: Path) -> None:
    rows = {
        "b": {"predictions": Values({"p_ill": 0.25, "named": "well"})},
        "a": {"predictions": Values({"p_odd": 1.0})},
    }
    [file] = write_tables(tmp_path, rows)
    assert file.name == "predictions.csv"
    with file.open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["case", "p_ill", "named", "p_odd"], ["b", "0.25", "well", ""], ["a", "", "", "1.0"],
        ]  # fmt: skip
    assert write_tables(tmp_path / "none", {"a": {"masks": LabelImage(np.zeros(GRID, np.uint8))}}) == ()
