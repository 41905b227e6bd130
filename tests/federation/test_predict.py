"""Predictions lie on their inputs: same grid, same place in the patient, right on the right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from fedrounds.predict import predict
from fedrounds_common.errors import DataError, UsageError

Make = Callable[..., Any]

# where the three axes of a file may run, and how far apart its voxels may lie
FILES = {
    "as the study": ("RAS", (2.0, 2.0, 2.0)),
    "first axis to the left": ("LPS", (2.0, 2.0, 2.0)),
    "axes in another order": ("PIR", (2.0, 2.0, 2.0)),
    "thick slices, fine pixels": ("LAS", (1.0, 1.0, 4.0)),
    "sagittal slices": ("ASL", (1.5, 1.5, 3.0)),
}
GRIDS = {"RAS": (20, 24, 22), "LPS": (21, 20, 23), "PIR": (24, 20, 22), "LAS": (44, 40, 12), "ASL": (30, 28, 16)}
HARD = 'dims = 3\nchannels = ["t1"]\nlabels = { lesion = 1 }\nintensity = "none"\nspacing_mm = [2.0, 2.0, 2.0]'


def affine_of(codes: str, spacing: tuple[float, ...], grid: tuple[int, ...]) -> np.ndarray:
    """An affine whose axes run as `codes` say, with the grid's middle near the origin, 3 mm off."""
    affine = np.zeros((4, 4))
    for axis, code in enumerate(codes):
        row = next(row for row, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[row, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    middle = affine[:3, :3] @ ((np.array(grid) - 1) / 2)
    affine[:3, 3] = 3.0 - middle
    affine[3, 3] = 1
    return affine


def centre_mm(file: Path) -> np.ndarray:
    image = nib.load(file)
    voxels = np.argwhere(np.asarray(image.dataobj) > 0)
    return nib.affines.apply_affine(image.affine, voxels).mean(axis=0)


@pytest.mark.parametrize(("codes", "spacing"), FILES.values(), ids=FILES.keys())
def test_a_lesion_is_found_where_it_is_in_the_patient(
    codes: str, spacing: tuple[float, ...], tmp_path: Path, balls: Any, brightness: Make
) -> None:
    model, grid = brightness(HARD), GRIDS[codes]
    affine = affine_of(codes, spacing, grid)
    # 9 mm to the patient's right, 5 mm to the back, 4 mm up: R, P and S
    right = balls.Ball((9.0, -5.0, 4.0), 6.0, grid, affine)
    balls.write(tmp_path / "in", "right", right, noise_sd=0)
    found = predict(model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins)
    mask = tmp_path / "out/masks/right.nii.gz"
    assert found.exit == 0
    np.testing.assert_allclose(centre_mm(mask), right.centre_mm, atol=0.6)
    image, written = nib.load(tmp_path / "in/images/right.nii.gz"), nib.load(mask)
    assert written.shape == image.shape
    np.testing.assert_array_equal(written.affine, image.affine)
    assert nib.aff2axcodes(written.affine) == tuple(codes)
    overlap = (
        2
        * np.sum(right.mask() & np.asarray(written.dataobj))
        / (right.mask().sum() + np.asarray(written.dataobj).sum())
    )
    # 2 mm voxels cannot say more of a ball of 6 mm on a finer grid
    assert overlap > (0.999 if spacing == (2.0, 2.0, 2.0) else 0.8)


def test_a_mask_is_what_its_probabilities_say(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness(HARD)
    affine = affine_of("LAS", (1.0, 1.0, 4.0), GRIDS["LAS"])
    balls.write(tmp_path / "in", "a", balls.Ball((5.0, 0.0, 0.0), 8.0, GRIDS["LAS"], affine), noise_sd=0)
    found = predict(model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins)
    chances = nib.load(tmp_path / "out/probabilities/a.nii.gz")
    mask = np.asarray(nib.load(tmp_path / "out/masks/a.nii.gz").dataobj)
    assert found.outputs == ("lesion",)
    assert chances.get_data_dtype() == np.float32
    assert chances.shape == GRIDS["LAS"]
    np.testing.assert_array_equal(chances.affine, affine)
    values = np.asarray(chances.dataobj)
    assert values.min() >= 0
    assert values.max() <= 1
    np.testing.assert_array_equal(mask == 1, values > 0.5)


def test_overlapping_regions_have_a_volume_each_in_the_order_that_is_said(
    tmp_path: Path, balls: Any, brightness: Make
) -> None:
    regions = (
        'dims = 3\nchannels = ["t1"]\nlabels = { rim = 1, core = 2 }\nintensity = "none"\n'
        'regions = { whole = ["rim", "core"], inner = ["core"] }'
    )
    # regions stand by name: inner above 180, whole above 130
    model = brightness(regions, at=(180.0, 130.0))
    image = np.full(balls.grid, 100, np.float32)
    image[4:12, 4:12, 4:12] = 150
    image[6:10, 6:10, 6:10] = 200
    balls.write_nifti(tmp_path / "in/case.nii.gz", image)
    found = predict(model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins)
    chances = nib.load(tmp_path / "out/probabilities/case.nii.gz")
    assert found.outputs == ("inner", "whole")
    assert chances.shape == (*balls.grid, 2)
    values = np.asarray(chances.dataobj)
    np.testing.assert_array_equal(values[..., 0] > 0.5, image == 200)
    np.testing.assert_array_equal(values[..., 1] > 0.5, image >= 150)
    mask = np.asarray(nib.load(tmp_path / "out/masks/case.nii.gz").dataobj)
    np.testing.assert_array_equal(mask, np.where(image == 200, 2, np.where(image == 150, 1, 0)))


def test_the_inputs_own_sform_and_qform_are_kept_and_its_free_text_is_not(
    tmp_path: Path, balls: Any, brightness: Make
) -> None:
    model = brightness()
    image = nib.Nifti1Image(balls.Ball((0, 0, 0)).image(0, 0).astype(np.int16), None)
    turn = np.deg2rad(12)  # an oblique scan: no axis runs along the patient's
    sform = balls.affine @ nib.affines.from_matvec(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    image.set_sform(sform, code=4)
    image.set_qform(balls.affine, code=1)
    image.header["descrip"] = b"DOE^JANE"
    image.header.set_xyzt_units("mm", "sec")
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in/oblique.nii.gz")
    predict(model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins)
    for kind in ("masks", "probabilities"):
        header = nib.load(tmp_path / f"out/{kind}/oblique.nii.gz").header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 1)
        np.testing.assert_array_equal(header.get_sform(), image.header.get_sform())
        np.testing.assert_array_equal(header.get_qform(), image.header.get_qform())
        assert bytes(header["descrip"].item()).strip(b"\0") == b""


def test_no_mask_is_needed_and_a_broken_one_is_not_even_read(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    balls.write_nifti(tmp_path / "in/images/a.nii.gz", balls.Ball((0, 0, 0)).image(0, 0))
    balls.write_nifti(tmp_path / "in/images/b.nii.gz", balls.Ball((0, 0, 0)).image(0, 0))
    (tmp_path / "in/labels").mkdir()
    (tmp_path / "in/labels/b.nii.gz").write_bytes(b"not an image")
    found = predict(model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins)
    assert (sorted(found.files), found.exit) == (["a", "b"], 0)


def test_a_bad_case_is_named_and_the_others_are_predicted(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    balls.write_many(tmp_path / "in", ["a", "b"])
    (tmp_path / "in/images/bad.nii.gz").write_bytes(b"\x1f\x8b not gzip")
    heard = []
    found = predict(
        model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins,
        listen=lambda event, facts: heard.append((facts["case"], facts["state"])),
    )  # fmt: skip
    assert found.exit == 9
    assert sorted(found.files) == ["a", "b"]
    assert [error.code for error in found.left_out.values()] == ["FR-D12"]
    assert heard == [("a", "ok"), ("b", "ok"), ("bad", "error:FR-D12")]
    says = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [entry["case"] for entry in says["left_out"]] == ["bad"]
    assert not (tmp_path / "out/masks/bad.nii.gz").exists()


def test_a_reader_that_calls_exit_costs_the_case_it_was_at(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    (tmp_path / "own/readers").mkdir(parents=True)
    (tmp_path / "own/readers/leaves.py").write_text(READER_THAT_EXITS, encoding="utf-8")
    found = predict(
        model.file, None, tmp_path / "out", study=model.study, plugins=[*model.plugins, tmp_path / "own"],
        reader="leaves",
    )  # fmt: skip
    assert (list(found.files), found.exit) == (["a"], 9)
    assert [(name, error.code) for name, error in found.left_out.items()] == [("b", "FR-H20")]


READER_THAT_EXITS = """
from dataclasses import dataclass

import numpy as np

from fedrounds_common.case import Case, CaseRef
from fedrounds_sites.reader import Reader


@dataclass(frozen=True)
class Leaves(Reader):
    def cases(self, form):
        return (CaseRef("a", "a"), CaseRef("b", "b"))

    def load(self, ref, form):
        if ref.name == "b":
            raise SystemExit
        return Case(ref, np.random.default_rng(1).normal(100, 20, (1, 8, 8, 8)).astype(np.float32), None, np.eye(4))
"""


def test_a_folder_in_which_no_case_can_be_used_is_an_error_that_names_them(tmp_path: Path, brightness: Make) -> None:
    model = brightness()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.nii.gz").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"none of 1 cases can be used.*\n.*bad\.nii\.gz: is not NIfTI") as caught:
        predict(model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins)
    assert caught.value.exit_status == 4
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over_unless_it_is_said(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    balls.write_many(tmp_path / "in", ["a"])
    (tmp_path / "out/masks").mkdir(parents=True)
    mine = tmp_path / "out/masks/a.nii.gz"
    mine.write_text("a doctor's own work")

    def again(**more: Any) -> Any:
        return predict(model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins, **more)

    with pytest.raises(UsageError, match="there is something in the output folder"):
        again()
    assert mine.read_text() == "a doctor's own work"
    again(force=True)
    assert nib.load(mine).shape == balls.grid
    with pytest.raises(UsageError, match="input and output are one folder"):
        predict(model.file, tmp_path / "in", tmp_path / "in", study=model.study, plugins=model.plugins, force=True)


def test_labels_are_described_as_itk_snap_reads_them(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness(
        'dims = 3\nchannels = ["t1"]\nlabels = { core = 4, rim = 2 }\nintensity = "none"', at=(130.0, 999.0)
    )
    balls.write_many(tmp_path / "in", ["a"])
    predict(model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins)
    lines = (tmp_path / "out/labels.txt").read_text().splitlines()
    entries = [line.split(None, 7) for line in lines if not line.startswith("#")]
    assert [(entry[0], entry[7]) for entry in entries] == [("0", '"Clear Label"'), ("2", '"rim"'), ("4", '"core"')]
    assert all(0 <= int(colour) <= 255 for entry in entries for colour in entry[1:4])


PLANES = 'dims = 2\nchannels = ["grey"]\nlabels = { spot = 1 }\nintensity = "none"'
PAIRS = """
[simulation.reader]
name = "image_pairs"
root = "in"
pattern = '(?P<site>[A-Z])_(?P<patient>\\d+)_(?P<slice>\\d+)\\.png$'
mask = "{stem}_mask.png"
"""


def spot(rows: slice, columns: slice) -> np.ndarray:
    plane = np.full((20, 30), 60, np.uint8)
    plane[rows, columns] = 220
    return plane


def test_pictures_get_masks_and_probabilities_of_their_own_size_and_side(tmp_path: Path, brightness: Make) -> None:
    model = brightness(PLANES, more=PAIRS)
    folder = tmp_path / "new/deep"
    folder.mkdir(parents=True)
    planes = {
        1: spot(slice(2, 6), slice(20, 28)),
        2: spot(slice(0, 0), slice(0, 0)),
        10: spot(slice(15, 20), slice(0, 5)),
    }
    for number, plane in planes.items():
        Image.fromarray(plane).save(folder / f"A_7_{number}.png")
    found = predict(model.file, tmp_path / "new", tmp_path / "out", study=model.study, plugins=model.plugins)
    assert list(found.files) == ["A_7"]
    for number, plane in planes.items():
        mask = np.asarray(Image.open(tmp_path / f"out/masks/deep/A_7_{number}.png"))
        chance = np.asarray(Image.open(tmp_path / f"out/probabilities/deep/A_7_{number}_spot.png"))
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, np.where(plane > 130, 255, 0))
        assert chance.dtype == np.uint16
        np.testing.assert_array_equal(chance > 32768, plane > 130)


def test_masks_of_label_values_are_written_as_label_values(tmp_path: Path, brightness: Make) -> None:
    two = 'dims = 2\nchannels = ["grey"]\nlabels = { dim = 3, bright = 7 }\nintensity = "none"'
    reader = PAIRS + 'mask_values = "labels"\n'
    model = brightness(two, at=(100.0, 180.0), more=reader)
    plane = spot(slice(2, 6), slice(20, 28))
    plane[10:12, 10:12] = 140
    (tmp_path / "new").mkdir()
    Image.fromarray(plane).save(tmp_path / "new/B_1_1.png")
    predict(model.file, tmp_path / "new", tmp_path / "out", study=model.study, plugins=model.plugins)
    mask = np.asarray(Image.open(tmp_path / "out/masks/B_1_1.png"))
    # above 180 both logits are positive; the one of the lower threshold is larger everywhere, so 3 wins
    np.testing.assert_array_equal(mask, np.where(plane > 100, 3, 0))


def test_pictures_whose_names_say_nothing_ask_for_a_reader(tmp_path: Path, brightness: Make) -> None:
    model = brightness(PLANES, more=PAIRS)
    (tmp_path / "new").mkdir()
    Image.fromarray(spot(slice(1, 3), slice(1, 3))).save(tmp_path / "new/scan.png")

    def run(**more: Any) -> Any:
        return predict(model.file, tmp_path / "new", tmp_path / "out", study=model.study, plugins=model.plugins, **more)

    with pytest.raises(UsageError, match=r"FR-U52.*scan\.png"):
        run()
    found = run(reader="image_pairs", settings=[r"pattern=^(?P<patient>[a-z]+)\.png$"])
    assert list(found.files) == ["scan"]
    assert run(settings=[r"pattern=^(?P<patient>[a-z]+)\.png$"], force=True).files == found.files


def test_a_dicom_study_gets_a_nifti_mask_in_the_scanners_own_space(
    tmp_path: Path, shared_data: Path, brightness: Make
) -> None:
    reader = """
[simulation.reader]
name = "dicom_series"
root = "in"
channels = { t1ce = "T1post", flair = "FLAIR" }
match = "folder"
"""
    form = 'dims = 3\nchannels = ["t1ce", "flair"]\nlabels = { bright = 1 }\nintensity = "none"'
    model = brightness(form, at=(700.0,), more=reader)
    root = shared_data / "data/dicom/brain_tumor_progression_study3_siemens"
    found = predict(model.file, root, tmp_path / "out", study=model.study, plugins=model.plugins, probabilities=False)
    ((name, (file,)),) = found.files.items()
    written = nib.load(file)
    case = _dicom_case(model, root, name)
    np.testing.assert_allclose(written.affine, case.affine, atol=1e-4)
    # 700 in the first channel, whatever the second says
    np.testing.assert_array_equal(np.asarray(written.dataobj) == 1, case.image[0] > 700)
    assert 0.001 < np.asarray(written.dataobj).mean() < 0.5


SERIES = """
[simulation.reader]
name = "dicom_series"
root = "in"
"""
PLANE_FORM = 'dims = {dims}\nchannels = ["epi"]\nlabels = {{ bright = 1 }}\nintensity = "none"'


@pytest.mark.parametrize(("dims", "unit"), [(3, "study"), (2, "study"), (2, "image")])
def test_each_pixel_of_a_dicom_plane_has_its_label_where_the_plane_says_it_lies(
    tmp_path: Path, brightness: Make, dims: int, unit: str
) -> None:
    model = brightness(PLANE_FORM.format(dims=dims), at=(700.0,), more=SERIES + f'unit = "{unit}"\n')
    root = Path(__file__).parents[1] / "data/dicom/ge_epi"
    found = predict(model.file, root, tmp_path / "out", study=model.study, plugins=model.plugins)
    masks = [nib.load(file) for files in found.files.values() for file in files
             if "masks" in file.parts and file.name.endswith(".nii.gz")]  # fmt: skip
    assert len(masks) == (15 if unit == "image" else 1)
    planes = [pydicom.dcmread(file) for file in sorted(root.glob("*.dcm"))]
    to_ras = np.array([-1, -1, 1])
    seen = 0
    for dataset in planes:
        right, down = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
        between_rows, between_columns = map(float, dataset.PixelSpacing)
        bright = np.argwhere(dataset.pixel_array > 700)
        steps = bright[:, :1] * down * between_rows + bright[:, 1:] * right * between_columns
        wanted_mm = (np.array(dataset.ImagePositionPatient, float) + steps) * to_ras
        for mask in masks:
            there = nib.affines.apply_affine(np.linalg.inv(mask.affine), wanted_mm)
            number = round(float(there[0, 2]))
            if abs(there[0, 2] - number) < 0.1 and 0 <= number < mask.shape[2]:
                np.testing.assert_allclose(there[:, :2], bright[:, ::-1], atol=1e-3)
                assert mask.shape[:2] == (dataset.Columns, dataset.Rows)
                plane = np.asarray(mask.dataobj)[..., number]
                np.testing.assert_array_equal(plane.T == 1, dataset.pixel_array > 700)
                seen += 1
    assert seen == 15


def test_a_dicom_picture_that_lies_nowhere_gets_no_place(tmp_path: Path, brightness: Make) -> None:
    root = Path(__file__).parents[1] / "data/dicom/ge_epi"
    (tmp_path / "in").mkdir()
    dataset = pydicom.dcmread(sorted(root.glob("*.dcm"))[7])
    del dataset.ImagePositionPatient
    dataset.save_as(tmp_path / "in/still.dcm")
    model = brightness(PLANE_FORM.format(dims=2), at=(700.0,), more=SERIES + 'unit = "image"\n')
    found = predict(model.file, tmp_path / "in", tmp_path / "out", study=model.study, plugins=model.plugins)
    ((name, files),) = found.files.items()
    assert sorted(file.relative_to(tmp_path / "out").as_posix() for file in files) == [
        f"masks/{name}.png", f"probabilities/{name}_bright.png",
    ]  # fmt: skip
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / f"out/masks/{name}.png")) == 1, dataset.pixel_array > 700
    )


def _dicom_case(model: Any, root: Path, name: str) -> Any:
    from fedrounds.judge import open_cases
    from fedrounds.model import open_model

    opened = open_model(model.file, model.study, plugins=model.plugins)
    folder = open_cases(opened, root, None, (), labelled=False)
    ref = next(ref for ref in folder.refs if ref.name == name)
    return folder.reader.load(ref, opened.study.cases)
