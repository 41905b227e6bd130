"""A folder that nobody described is read by the way its files are named, if there is one that fits."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fedrounds_common.errors import DataError, UsageError
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.guess import NO_LABELS, has_root, placed_at, reader_for
from fedrounds_sites.simulation import READERS

ONE = CaseForm(channels=("t1",))
FOUR = CaseForm(channels=("t1", "t1ce", "t2", "flair"), labels={"necrosis": 1, "oedema": 2, "enhancing": 4})


def volume(file: Path, shape: tuple[int, ...] = (4, 5, 6)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), np.eye(4)), file)


def laid_out(root: Path, names: list[str], shape: tuple[int, ...] = (4, 5, 6)) -> Path:
    for name in names:
        mask = "label" in name or "seg" in name or "mask" in name
        volume(root / f"{name}.nii.gz", shape[:3] if mask else shape)
    return root


LAYOUTS = {
    "Decathlon": (ONE, ["imagesTr/a", "imagesTr/b", "labelsTr/a", "labelsTr/b"]),
    "Decathlon's test folder": (ONE, ["imagesTs/a", "imagesTs/b", "labelsTs/a", "labelsTs/b"]),
    "images and masks": (ONE, ["images/a", "images/b", "masks/a", "masks/b"]),
    "nnU-Net": (ONE, ["imagesTr/a_0000", "imagesTr/b_0000", "labelsTr/a", "labelsTr/b"]),
    "nnU-Net, four channels": (
        FOUR,
        [f"imagesTs/{case}_000{number}" for case in "ab" for number in range(4)] + ["labelsTs/a", "labelsTs/b"],
    ),
    "a channel's name in each file": (
        FOUR,
        [f"images/{case}_{channel}" for case in "ab" for channel in FOUR.channels] + ["labels/a", "labels/b"],
    ),
    "BraTS": (
        FOUR,
        [f"{case}/{case}_{channel}" for case in "ab" for channel in ("t1", "t1ce", "t2", "flair", "seg")],
    ),
    "BraTS-GLI": (
        FOUR,
        [f"{case}/{case}-{channel}" for case in "ab" for channel in ("t1n", "t1c", "t2w", "t2f", "seg")],
    ),
    "flat, masks by their name": (ONE, ["a", "b", "a_seg", "b_seg"]),
    "flat, channel and mask by name": (ONE, ["a_t1", "b_t1", "a_mask", "b_mask"]),
    "flat nnU-Net": (ONE, ["a_0000", "b_0000", "a_seg", "b_seg"]),
}


@pytest.mark.parametrize(("form", "names"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_usual_ways_of_naming_cases_are_known(form: CaseForm, names: list[str], tmp_path: Path) -> None:
    reader = READERS.load(reader_for(laid_out(tmp_path, names), form))
    refs = reader.cases(form)
    assert [ref.name for ref in refs] == ["a", "b"]
    case = reader.load(refs[0], form)
    assert case.image.shape == (len(form.channels), 4, 5, 6)
    assert case.target is not None


@pytest.mark.parametrize(("form", "names"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_without_labels_the_same_cases_are_found_and_no_mask_is_read(
    form: CaseForm, names: list[str], tmp_path: Path
) -> None:
    laid_out(tmp_path, names)
    for file in tmp_path.rglob("*"):
        if file.is_file() and any(word in str(file.relative_to(tmp_path)) for word in ("label", "seg", "mask")):
            file.write_bytes(b"broken")
    reader = READERS.load(reader_for(tmp_path, form, labelled=False))
    refs = reader.cases(form)
    assert [ref.name for ref in refs] == ["a", "b"]
    assert reader.load(refs[1], form).target is None


def test_one_file_for_all_channels_must_hold_them_all(tmp_path: Path) -> None:
    laid_out(tmp_path / "four", ["images/a", "labels/a"], (4, 5, 6, 4))
    reader = READERS.load(reader_for(tmp_path / "four", FOUR))
    assert reader.load(reader.cases(FOUR)[0], FOUR).image.shape == (4, 4, 5, 6)
    laid_out(tmp_path / "one", ["images/a", "labels/a"])
    with pytest.raises(UsageError, match=r"FR-U52 .*images/a\.nii\.gz"):
        reader_for(tmp_path / "one", FOUR)


def test_the_reader_of_the_run_comes_first_where_it_fits(tmp_path: Path) -> None:
    own = {
        "name": "nifti_folder", "root": "elsewhere", "label_map": {"7": 1},
        "images": r"images/(?P<site>[A-Z])(?P<case>\d)\.nii\.gz", "labels": r"labels/(?P<site>[A-Z])(?P<case>\d)\.nii\.gz",
    }  # fmt: skip
    laid_out(tmp_path / "same", ["images/A1", "images/B1", "labels/A1", "labels/B1"])
    found = reader_for(tmp_path / "same", ONE, own)
    assert found == {**own, "root": str(tmp_path / "same")}
    assert [ref.site for ref in READERS.load(found).cases(ONE)] == ["A", "B"]
    laid_out(tmp_path / "other", ["images/x", "images/y", "labels/x", "labels/y"])
    found = reader_for(tmp_path / "other", ONE, own)
    # the labels of another folder are its own: nothing of the run's map may touch them
    assert "label_map" not in found
    assert [ref.name for ref in READERS.load(found).cases(ONE)] == ["x", "y"]


def test_how_volumes_were_cut_into_slices_is_carried_along(tmp_path: Path) -> None:
    own = {"name": "nifti_folder", "root": "x", "layout": "brats", "slices": "coronal"}
    laid_out(tmp_path, ["images/x", "labels/x"])
    assert reader_for(tmp_path, CaseForm(dims=2, channels=("t1",)), own)["slices"] == "coronal"


def test_most_files_say_what_kind_of_folder_it_is(tmp_path: Path) -> None:
    laid_out(tmp_path, ["images/a", "images/b", "labels/a", "labels/b"])
    Image.new("L", (4, 4)).save(tmp_path / "preview.png")
    assert reader_for(tmp_path, ONE)["name"] == "nifti_folder"


def test_pictures_are_read_as_the_run_read_its_own_or_not_at_all(tmp_path: Path) -> None:
    form = CaseForm(dims=2)
    Image.new("L", (4, 4)).save(tmp_path / "p1_1.png")
    own = {"name": "image_pairs", "root": "x", "pattern": r"(?P<patient>p\d)_(?P<slice>\d)\.png$"}
    assert reader_for(tmp_path, form, own, labelled=False)["root"] == str(tmp_path)
    with pytest.raises(UsageError, match=r"FR-U52 .*--reader image_pairs"):
        reader_for(tmp_path, form, {"name": "phantom_glioma"}, labelled=False)


def test_a_folder_without_an_image_is_an_error_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="FR-D01"):
        reader_for(tmp_path / "gone", ONE)
    (tmp_path / "readme.txt").write_text("words")
    with pytest.raises(DataError, match=r"FR-D70 .*none of 1 files is an image, e\.g\. readme\.txt"):
        reader_for(tmp_path, ONE)


def test_only_a_reader_with_a_root_is_given_one(tmp_path: Path) -> None:
    assert placed_at({"name": "phantom_glioma", "seed": 3}, tmp_path, labelled=False) == {
        "name": "phantom_glioma",
        "seed": 3,
    }
    assert not has_root({"name": "phantom_glioma"})
    placed = placed_at({"name": "nifti_folder", "labels": "x"}, tmp_path, labelled=False)
    assert placed == {"name": "nifti_folder", "root": str(tmp_path), "labels": NO_LABELS, "labels_required": False}
    dicom = placed_at({"name": "dicom_series", "labels": "seg"}, tmp_path, labelled=False)
    assert (dicom["labels"], dicom["labels_required"]) == ("", False)
