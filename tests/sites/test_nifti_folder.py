"""Folders of NIfTI files: the usual layouts read right, and each wrong file named with what to do."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import Shelf
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.nifti import write_like
from fedrounds_sites.prepare import prepare, restore
from fedrounds_sites.reader import Reader
from fedrounds_sites.readers.nifti_folder import NiftiFolder

HIPPOCAMPUS = CaseForm(labels={"anterior": 1, "posterior": 2})
GLIOMA = CaseForm(
    channels=("t1", "t1ce", "t2", "flair"), labels={"necrosis": 1, "oedema": 2, "enhancing": 4}, intensity="none"
)
ONE = CaseForm(labels={"lesion": 1, "core": 3})
GRID = (4, 5, 6)
OBLIQUE = np.array([[0, -1.2, 0.1, 7.5], [0.9, 0, 0, -3], [0, 0.1, 2.0, 11], [0, 0, 0, 1]])


def put(file: Path, array: Any, affine: Any = OBLIQUE, dtype: str = "float32") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.asarray(array).astype(dtype), affine).to_filename(file)
    return file


def image(seed: int = 0, grid: tuple[int, ...] = GRID) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, grid).astype(np.float32)


def mask(grid: tuple[int, ...] = GRID) -> np.ndarray:
    labels = np.zeros(grid, np.uint8)
    labels[1:3, 2:4, 1:4] = 1
    return labels


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with one good case, `a`."""
    put(tmp_path / "images" / "a.nii.gz", image())
    put(tmp_path / "labels" / "a.nii.gz", mask(), dtype="uint8")
    return tmp_path


def refused(root: Path, form: CaseForm = ONE, **fields: Any) -> CaseError:
    """The error with which the folder's only case fails to load."""
    reader = NiftiFolder(root=root, **fields)
    (ref,) = reader.cases(form)
    with pytest.raises(CaseError) as caught:
        reader.load(ref, form)
    assert caught.value.case == ref.name
    assert caught.value.where
    return caught.value


def test_files_that_fit_no_pattern_are_counted_and_a_few_are_named(pair: Path) -> None:
    reader = NiftiFolder(root=pair)
    reader.cases(ONE)
    assert (reader.passed_over, reader.passed_over_names) == ({}, {})
    put(pair / "a.nii.gz", image())
    for number in range(3):
        (pair / f"notes{number}.txt").write_text("")
    (pair / "labels" / ".DS_Store").write_text("")
    (pair / "empty").mkdir()
    assert [ref.name for ref in reader.cases(ONE)] == ["a"]
    (why,) = reader.passed_over
    assert reader.passed_over[why] == 4
    assert reader.passed_over_names == {why: ("a.nii.gz", "notes0.txt", "notes1.txt")}


@pytest.mark.parametrize(("images", "unit"), [("", "image"), (r"(?P<patient>[^_]+)_(?P<case>\d+)\.nii", "patient")])
def test_the_unit_is_the_patient_only_where_a_pattern_tells_it(images: str, unit: str, tmp_path: Path) -> None:
    assert NiftiFolder(root=tmp_path, images=images).split_by == unit


# ---------------------------------------------------------------- layouts


def test_the_plain_folder_of_real_cases_reads_and_prepares(repo: Path) -> None:
    reader = NiftiFolder(root=repo / "tests" / "data" / "hippocampus", layout="msd")
    refs = reader.cases(HIPPOCAMPUS)
    assert [ref.name for ref in refs] == sorted(ref.name for ref in refs)
    assert len(refs) == 6
    for ref in refs:
        case = prepare(reader.load(ref, HIPPOCAMPUS), HIPPOCAMPUS)
        assert case.target is not None
        assert case.target.voxels.shape == case.grid
        assert set(np.unique(case.target.voxels)) == {0, 1, 2}
        # anterior hippocampus lies in front of posterior: +y is anterior in RAS
        front, back = (np.argwhere(case.target.voxels == value).mean(axis=0)[1] for value in (1, 2))
        assert front > back
        # hippocampus is about 3 cm³ a side
        assert 1500 < np.count_nonzero(case.target.voxels) < 6000


def test_all_shared_hippocampus_cases_are_found_and_read(shared_data: Path) -> None:
    reader = NiftiFolder(root=shared_data / "data" / "msd_hippocampus", layout="msd")
    refs = reader.cases(HIPPOCAMPUS)
    assert len(refs) == 160
    assert all(reader.load(ref, HIPPOCAMPUS).target is not None for ref in refs[::16])


def test_msd_reads_imagestr_and_passes_over_test_images_and_hidden_files(tmp_path: Path) -> None:
    put(tmp_path / "imagesTr" / "a.nii.gz", image())
    put(tmp_path / "labelsTr" / "a.nii.gz", mask(), dtype="uint8")
    put(tmp_path / "imagesTs" / "b.nii.gz", image())
    (tmp_path / "imagesTr" / "._a.nii.gz").write_bytes(b"macOS")
    assert NiftiFolder(root=tmp_path, layout="msd").cases(ONE) == (CaseRef("a", "a"),)


def test_msd_holds_channels_on_the_fourth_axis(tmp_path: Path) -> None:
    four = np.stack([image(seed) for seed in range(4)], axis=-1)
    put(tmp_path / "imagesTr" / "a.nii.gz", four)
    put(tmp_path / "labelsTr" / "a.nii.gz", mask() * 4, dtype="uint8")
    reader = NiftiFolder(root=tmp_path, layout="msd")
    case = reader.load(reader.cases(GLIOMA)[0], GLIOMA)
    for index in range(4):
        np.testing.assert_array_equal(case.image[index], four[..., index])
    assert case.image.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(case.affine, OBLIQUE, atol=1e-6)


def test_nnunet_numbers_channels_in_the_studys_order(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / "imagesTr" / f"BRATS_001_{number:04d}.nii.gz", image(number))
    put(tmp_path / "labelsTr" / "BRATS_001.nii.gz", mask(), dtype="uint8")
    reader = NiftiFolder(root=tmp_path, layout="nnunet")
    (ref,) = reader.cases(GLIOMA)
    assert ref.name == "BRATS_001"
    case = reader.load(ref, GLIOMA)
    np.testing.assert_array_equal(case.image, np.stack([image(number) for number in range(4)]))


@pytest.mark.parametrize("folders", ["", "HGG/BraTS20_001/"])
def test_brats_finds_channels_and_masks_by_their_endings(tmp_path: Path, folders: str) -> None:
    for seed, ending in enumerate(["t1", "t1ce", "t2", "flair"]):
        put(tmp_path / f"{folders}BraTS20_001_{ending}.nii.gz", image(seed))
    put(tmp_path / f"{folders}BraTS20_001_seg.nii.gz", mask() * 4, dtype="uint8")
    reader = NiftiFolder(root=tmp_path, layout="brats")
    (ref,) = reader.cases(GLIOMA)
    assert ref.name == "BraTS20_001"
    case = reader.load(ref, GLIOMA)
    np.testing.assert_array_equal(case.image, np.stack([image(seed) for seed in range(4)]))
    assert case.target is not None
    np.testing.assert_array_equal(case.target.voxels, mask() * 4)


def test_brats_gli_says_three_where_the_study_says_four(tmp_path: Path) -> None:
    for seed, ending in enumerate(["t1n", "t1c", "t2w", "t2f"]):
        put(tmp_path / "BraTS-GLI-00000-000" / f"BraTS-GLI-00000-000-{ending}.nii.gz", image(seed))
    labels = mask()
    labels[0] = 3
    put(tmp_path / "BraTS-GLI-00000-000" / "BraTS-GLI-00000-000-seg.nii.gz", labels, dtype="uint8")
    reader = NiftiFolder(root=tmp_path, layout="brats-gli")
    case = reader.load(reader.cases(GLIOMA)[0], GLIOMA)
    np.testing.assert_array_equal(case.image, np.stack([image(seed) for seed in range(4)]))
    assert case.target is not None
    np.testing.assert_array_equal(case.target.voxels, np.where(labels == 3, 4, labels))


def test_a_pattern_names_site_patient_and_channel(tmp_path: Path) -> None:
    for site in ("north", "south"):
        for visit in (1, 2):
            for seed, ending in enumerate(["A", "B"]):
                put(tmp_path / site / f"p7_v{visit}_{ending}.nii", image(seed))
            put(tmp_path / site / f"p7_v{visit}_m.nii", mask(), dtype="uint8")
    form = CaseForm(channels=("t1", "t2"))
    reader = NiftiFolder(
        root=tmp_path,
        images=r"(?P<site>\w+)/(?P<case>(?P<patient>p\d+)_v\d)_(?P<channel>[AB])\.nii",
        labels=r"(?P<site>\w+)/(?P<case>p\d+_v\d)_m\.nii",
        channels={"A": "t2", "B": "t1"},
    )
    refs = reader.cases(form)
    # both sites have a p7: their names must not meet
    assert refs == (
        CaseRef("north_p7_v1", "north_p7", "north"),
        CaseRef("north_p7_v2", "north_p7", "north"),
        CaseRef("south_p7_v1", "south_p7", "south"),
        CaseRef("south_p7_v2", "south_p7", "south"),
    )
    np.testing.assert_array_equal(reader.load(refs[3], form).image, np.stack([image(1), image(0)]))


def test_further_channels_of_a_case_are_passed_over(tmp_path: Path) -> None:
    for seed, ending in enumerate(["t1", "t2"]):
        put(tmp_path / f"x_{ending}.nii.gz", image(seed))
    put(tmp_path / "x_seg.nii.gz", mask(), dtype="uint8")
    form = CaseForm(channels=("t2",))
    reader = NiftiFolder(root=tmp_path, layout="brats")
    np.testing.assert_array_equal(reader.load(reader.cases(form)[0], form).image, image(1)[None])


def test_a_table_of_a_study_builds_the_reader(pair: Path) -> None:
    shelf: Shelf[Reader] = Shelf("readers", Reader)
    built, faults = shelf.build(
        {"name": "nifti_folder", "root": str(pair), "label_map": {"1": 3, "9": 0}}, "simulation.reader"
    )
    assert not faults
    assert isinstance(built, NiftiFolder)
    case = built.load(built.cases(ONE)[0], ONE)
    assert case.target is not None
    assert set(np.unique(case.target.voxels)) == {0, 3}


def test_names_that_are_unfit_for_a_file_are_changed_and_stay_apart(tmp_path: Path) -> None:
    for name in ("J. Doe 1", "J. Doe?1"):
        put(tmp_path / "images" / f"{name}.nii.gz", image())
        put(tmp_path / "labels" / f"{name}.nii.gz", mask(), dtype="uint8")
    reader = NiftiFolder(root=tmp_path)
    refs = reader.cases(ONE)
    assert len({ref.name for ref in refs}) == 2
    assert all(ref.name.replace("_", "").replace(".", "").isalnum() for ref in refs)
    assert reader.load(refs[0], ONE).grid == GRID


# ---------------------------------------------------------------- values


def test_scaled_integers_come_out_in_real_units(tmp_path: Path) -> None:
    stored = np.arange(-60, 60, dtype=np.int16).reshape(GRID)
    picture = nib.Nifti1Image(stored, OBLIQUE)
    picture.header.set_slope_inter(0.5, -1024)
    picture.to_filename(tmp_path / "a.nii.gz")
    # nibabel computes the slope anew when it writes, so the header is set in the file
    raw = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    raw[112:120] = struct.pack("<ff", 0.5, -1024)
    raw[352:] = stored.tobytes(order="F")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii").write_bytes(raw)
    reader = NiftiFolder(root=tmp_path, labels_required=False)
    case = reader.load(reader.cases(ONE)[0], ONE)
    np.testing.assert_allclose(case.image[0], stored * 0.5 - 1024)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", ">i2", "uint16", "int32", ">f4", "float64"])
def test_every_usual_voxel_type_reads(tmp_path: Path, dtype: str) -> None:
    values = np.arange(120).reshape(GRID).astype(dtype)
    header = nib.Nifti1Header(endianness=np.dtype(dtype).byteorder.replace("|", "<").replace("=", "<"))
    header.set_data_dtype(values.dtype)
    (tmp_path / "images").mkdir()
    nib.Nifti1Image(values, OBLIQUE, header).to_filename(tmp_path / "images" / "a.nii.gz")
    reader = NiftiFolder(root=tmp_path, labels_required=False)
    case = reader.load(reader.cases(ONE)[0], ONE)
    assert case.image.dtype == np.float32
    np.testing.assert_array_equal(case.image[0], np.arange(120).reshape(GRID))


def test_version_two_files_and_unpacked_files_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    nib.Nifti2Image(image(), OBLIQUE).to_filename(tmp_path / "images" / "two.nii")
    put(tmp_path / "images" / "one.nii", image())
    reader = NiftiFolder(root=tmp_path, labels_required=False)
    one, two = (reader.load(ref, ONE) for ref in reader.cases(ONE))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_allclose(one.affine, two.affine, atol=1e-6)


def test_a_mask_saved_as_real_numbers_is_still_a_mask(pair: Path) -> None:
    put(pair / "labels" / "a.nii.gz", mask() * 3.00001, dtype="float64")
    reader = NiftiFolder(root=pair)
    target = reader.load(reader.cases(ONE)[0], ONE).target
    assert target is not None
    np.testing.assert_array_equal(target.voxels, mask() * 3)
    assert target.voxels.dtype == np.uint8


def test_a_label_map_maps_negative_values_too(pair: Path) -> None:
    labels = mask().astype(int)
    labels[0] = -1
    put(pair / "labels" / "a.nii.gz", labels, dtype="int16")
    assert refused(pair).code == "FR-D10"
    reader = NiftiFolder(root=pair, label_map={-1: 0, 1: 3})
    target = reader.load(reader.cases(ONE)[0], ONE).target
    assert target is not None
    np.testing.assert_array_equal(target.voxels, mask() * 3)


def test_new_files_are_seen_when_cases_are_listed_again(pair: Path) -> None:
    reader = NiftiFolder(root=pair)
    assert len(reader.cases(ONE)) == 1
    put(pair / "images" / "b.nii.gz", image())
    put(pair / "labels" / "b.nii.gz", mask(), dtype="uint8")
    assert len(reader.cases(ONE)) == 2
    assert reader.load(CaseRef("b", "b"), ONE).grid == GRID


def test_the_stamp_changes_with_the_files_and_only_then(pair: Path) -> None:
    reader = NiftiFolder(root=pair)
    (ref,) = reader.cases(ONE)
    before = reader.stamp(ref, ONE)
    assert reader.stamp(ref, ONE) == before
    os.utime(pair / "labels" / "a.nii.gz", ns=(1, 1))
    assert reader.stamp(ref, ONE) != before


# ---------------------------------------------------------------- two dimensions


def test_a_volume_becomes_slices_as_one_looks_at_them(tmp_path: Path) -> None:
    grid = (10, 12, 4)  # RAS: to the right, to the front, upwards
    volume = np.zeros(grid, np.float32)
    volume[9, 11, 3] = 1  # right, front, top
    put(tmp_path / "images" / "a.nii.gz", volume, np.eye(4))
    put(tmp_path / "labels" / "a.nii.gz", volume, np.eye(4), dtype="uint8")
    form = CaseForm(dims=2)
    reader = NiftiFolder(root=tmp_path)
    case = reader.load(reader.cases(form)[0], form)
    assert case.grid == (4, 12, 10)
    assert case.orientation == "SPL"
    # the top slice comes last; the front is the upper edge; the patient's right is the left edge
    assert np.argwhere(case.image[0]).tolist() == [[3, 0, 0]]
    assert case.target is not None
    assert np.argwhere(case.target.voxels).tolist() == [[3, 0, 0]]


def test_a_picture_file_is_a_stack_of_one(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.nii.gz", np.arange(20).reshape(4, 5), np.eye(4))
    form = CaseForm(dims=2, intensity="none")
    reader = NiftiFolder(root=tmp_path, labels_required=False)
    case = reader.load(reader.cases(form)[0], form)
    assert case.grid == (1, 5, 4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_prediction_is_written_on_the_inputs_grid_with_its_affine(tmp_path: Path, dims: Any, suffix: str) -> None:
    grid = (9, 8, 7)
    labels = np.zeros(grid, np.uint8)
    labels[2:7, 1:6, 3:6] = 1
    source = put(tmp_path / "images" / f"a{suffix}", labels, OBLIQUE)
    put(tmp_path / "labels" / f"a{suffix}", labels, OBLIQUE, dtype="uint8")
    form = CaseForm(dims=dims, spacing_mm=(0.6,) * dims, intensity="none")
    reader = NiftiFolder(root=tmp_path)
    (ref,) = reader.cases(form)
    original = reader.load(ref, form)
    prepared = prepare(original, form)
    assert prepared.target is not None
    assert prepared.grid != original.grid
    for name, array in (
        ("labels", restore(prepared.target.voxels, prepared, original)),
        ("chance", restore(prepared.image, prepared, original)),
    ):
        out = tmp_path / "out" / f"{name}{suffix}"
        write_like(reader.source(ref, form), out, array, original.affine)
        written, read = nib.load(out), nib.load(source)
        np.testing.assert_array_equal(written.affine, read.affine)
        np.testing.assert_array_equal(written.get_qform(), read.get_qform())
        np.testing.assert_array_equal(np.asarray(written.dataobj).squeeze() > 0.5, labels > 0)
        assert written.get_data_dtype() == (np.uint8 if name == "labels" else np.float32)


# ---------------------------------------------------------------- what is wrong with a folder


def test_a_missing_root_is_named() -> None:
    with pytest.raises(DataError, match="FR-D01 /nowhere/at/all: there is no such folder"):
        NiftiFolder(root=Path("/nowhere/at/all")).cases(ONE)


def test_a_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(DataError, match=r"FR-D01.*is not a folder"):
        NiftiFolder(root=tmp_path / "x").cases(ONE)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"FR-D02.*the folder is empty"):
        NiftiFolder(root=tmp_path).cases(ONE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_one_may_not_list_is_named_not_passed_over(pair: Path) -> None:
    (pair / "images" / "more").mkdir(mode=0)
    with pytest.raises(DataError, match=r"FR-D01.*more: cannot be listed"):
        NiftiFolder(root=pair).cases(ONE)


def test_a_folder_of_other_files_is_named_with_the_pattern(pair: Path) -> None:
    with pytest.raises(DataError, match=r"FR-D02.*none of 4 files is a case; files named like .*flair"):
        NiftiFolder(root=pair, layout="brats").cases(GLIOMA)


@pytest.mark.parametrize(("pattern", "found"), [("(", "unterminated"), (r"images/(?P<name>.*)", "no group")])
def test_a_pattern_that_cannot_be_used_is_named(pair: Path, pattern: str, found: str) -> None:
    with pytest.raises(DataError, match=f"FR-D03 images: .*{found}"):
        NiftiFolder(root=pair, images=pattern).cases(ONE)


def test_a_label_map_that_leads_nowhere_is_named(pair: Path) -> None:
    with pytest.raises(DataError, match=r"FR-D20.*label_map leads to 7.*1, 3"):
        NiftiFolder(root=pair, label_map={1: 7}).cases(ONE)


# ---------------------------------------------------------------- what is wrong with a case


def test_an_image_without_a_mask_is_listed_and_named(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.nii.gz", image())
    assert refused(tmp_path).code == "FR-D04"
    reader = NiftiFolder(root=tmp_path, labels_required=False)
    assert reader.load(reader.cases(ONE)[0], ONE).target is None


def test_a_mask_without_an_image_is_listed_and_named(tmp_path: Path) -> None:
    put(tmp_path / "labels" / "a.nii.gz", mask(), dtype="uint8")
    assert refused(tmp_path).code == "FR-D05"
    assert refused(tmp_path, labels_required=False).code == "FR-D05"


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    put(tmp_path / "x_t1.nii.gz", image())
    error = refused(tmp_path, GLIOMA, layout="brats")
    assert error.code == "FR-D06"
    assert "no file for channel t1ce, t2, flair" in str(error)


def test_two_files_for_one_channel_are_named(pair: Path) -> None:
    put(pair / "images" / "a.nii", image())
    error = refused(pair)
    assert error.code == "FR-D07"
    assert "a.nii, a.nii.gz" in str(error)


def test_other_shapes_are_named(pair: Path) -> None:
    put(pair / "labels" / "a.nii.gz", mask((4, 5, 7)), dtype="uint8")
    error = refused(pair)
    assert error.code == "FR-D08"
    assert "(4, 5, 7)" in str(error)
    assert "(4, 5, 6)" in str(error)


def test_channels_of_other_shapes_are_named(tmp_path: Path) -> None:
    for ending, grid in (("t1", GRID), ("t2", (4, 5, 7))):
        put(tmp_path / f"x_{ending}.nii.gz", image(0, grid))
    assert refused(tmp_path, CaseForm(channels=("t1", "t2")), layout="brats").code == "FR-D08"


@pytest.mark.parametrize("change", ["shift", "mirror"])
def test_a_mask_that_lies_elsewhere_is_named_with_the_distance(pair: Path, change: str) -> None:
    other = OBLIQUE.copy()
    if change == "shift":
        other[0, 3] += 0.5
    else:
        other[:, 1] *= -1
    put(pair / "labels" / "a.nii.gz", mask(), other, dtype="uint8")
    error = refused(pair)
    assert error.code == "FR-D09"
    assert "at most 0.1 mm" in str(error)
    assert "0.5 mm" in str(error) or change == "mirror"


def test_rounding_in_the_header_is_no_fault(pair: Path) -> None:
    put(pair / "labels" / "a.nii.gz", mask(), OBLIQUE + 1e-4, dtype="uint8")
    reader = NiftiFolder(root=pair)
    assert reader.load(reader.cases(ONE)[0], ONE).target is not None


def test_a_label_the_study_does_not_know_is_named_with_those_it_does(pair: Path) -> None:
    labels = mask()
    labels[0, 0, 0] = 9
    put(pair / "labels" / "a.nii.gz", labels, dtype="uint8")
    error = refused(pair)
    assert error.code == "FR-D10"
    assert "label 9; 0, 1, 3" in str(error)
    assert refused(pair, label_map={9: 1}).code == "FR-D10"  # now it is 1 that is not in the map


@pytest.mark.parametrize("values", [mask() * 0.5, mask() * 1e6])
def test_a_mask_that_is_no_label_map_is_named(pair: Path, values: Any) -> None:
    put(pair / "labels" / "a.nii.gz", values)
    assert refused(pair).code == "FR-D11"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("folder", ["images", "labels"])
def test_voxels_that_are_no_numbers_are_counted(pair: Path, bad: float, folder: str) -> None:
    values = mask().astype(np.float32)
    values[0, 0, :2] = bad
    put(pair / folder / "a.nii.gz", values)
    error = refused(pair)
    assert error.code == "FR-D14"
    assert "2 of 120 voxels" in str(error)


def test_a_time_series_where_a_volume_is_wanted_is_named(pair: Path) -> None:
    put(pair / "images" / "a.nii.gz", np.zeros((*GRID, 7)))
    error = refused(pair)
    assert error.code == "FR-D17"
    assert "(4, 5, 6, 7)" in str(error)


def test_a_mask_of_several_volumes_is_named(pair: Path) -> None:
    put(pair / "labels" / "a.nii.gz", np.zeros((*GRID, 2)), dtype="uint8")
    assert refused(pair).code == "FR-D17"


def test_two_channels_wanted_and_one_there_is_named(pair: Path) -> None:
    assert refused(pair, CaseForm(channels=("t1", "t2"))).code == "FR-D17"


def test_a_case_that_is_not_there_is_named(pair: Path) -> None:
    with pytest.raises(CaseError, match=r"FR-D18.*no case named b"):
        NiftiFolder(root=pair).load(CaseRef("b", "b"), ONE)


# ---------------------------------------------------------------- damaged and hostile files


def edited(file: Path, change: Callable[[bytearray], None]) -> None:
    raw = bytearray(gzip.decompress(file.read_bytes()))
    change(raw)
    file.write_bytes(gzip.compress(bytes(raw)))


@pytest.mark.parametrize(
    "damage",
    {
        "empty": lambda raw: b"",
        "text": lambda raw: b"patient,age\n" * 99,
        "cut in the header": lambda raw: gzip.compress(gzip.decompress(raw)[:200]),
        "cut in the voxels": lambda raw: gzip.compress(gzip.decompress(raw)[:-9]),
        "cut in the gzip": lambda raw: raw[:-30],
        "gzip without its sum": lambda raw: raw[:-8],
        "one bit of gzip turned": lambda raw: raw[:60] + bytes([raw[60] ^ 1]) + raw[61:],
        "one bit of the sum turned": lambda raw: raw[:-6] + bytes([raw[-6] ^ 1]) + raw[-5:],
        "not gzip inside": lambda raw: b"\x1f\x8b" + raw[40:],
        "far more than it says": lambda raw: gzip.compress(gzip.decompress(raw) + bytes(2**18)),
    }.items(),
    ids=lambda item: item[0].replace(" ", "-"),
)
@pytest.mark.parametrize("folder", ["images", "labels"])
def test_a_damaged_file_is_named(pair: Path, folder: str, damage: Any) -> None:
    file = pair / folder / "a.nii.gz"
    file.write_bytes(damage[1](file.read_bytes()))
    error = refused(pair)
    assert error.code == "FR-D12"
    assert f"{folder}/a.nii.gz" in error.where


@pytest.mark.parametrize(
    ("offset", "content", "code"),
    [
        (42, struct.pack("<3h", 32767, 32767, 32767), "FR-D16"),  # 140 TB
        (42, struct.pack("<3h", 400, 400, 400), "FR-D12"),  # within the limit, but the file is far too short
        (42, struct.pack("<h", 0), "FR-D12"),
        (42, struct.pack("<h", -4), "FR-D12"),
        (40, struct.pack("<h", 0), "FR-D12"),
        (70, struct.pack("<h", 32), "FR-D12"),  # complex numbers
        (70, struct.pack("<h", 128), "FR-D12"),  # RGB
        (70, struct.pack("<h", 999), "FR-D12"),
        (80, struct.pack("<f", 0), "FR-D15"),
        (84, struct.pack("<f", -1), "FR-D15"),
        (88, struct.pack("<f", np.nan), "FR-D15"),
        (80, struct.pack("<f", np.inf), "FR-D15"),
        (280, bytes(16), "FR-D15"),  # a row of the affine is 0
        (280, struct.pack("<4f", np.nan, 0, 0, 0), "FR-D15"),
        (108, struct.pack("<f", np.nan), "FR-D12"),
        (108, struct.pack("<f", 1e9), "FR-D12"),
        (108, struct.pack("<f", -5), "FR-D12"),
        (112, struct.pack("<2f", 2, np.inf), "FR-D12"),
        (344, b"ni1\0", "FR-D12"),
        (344, b"xyz\0", "FR-D12"),
    ],
)
def test_a_header_that_lies_is_caught_before_the_voxels(pair: Path, offset: int, content: bytes, code: str) -> None:
    def lie(raw: bytearray) -> None:
        raw[offset : offset + len(content)] = content

    edited(pair / "images" / "a.nii.gz", lie)
    assert refused(pair).code == code


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((1500, 1500, 1500))
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(2**20)))
    error = refused(tmp_path, labels_required=False)
    assert error.code == "FR-D16"
    assert "3,375,000,000 voxels" in str(error)
    # and with a limit that lets the header pass, it is the file's own size that tells
    assert refused(tmp_path, labels_required=False, limit_voxels=2**32).code == "FR-D12"


@pytest.mark.parametrize("kind", ["link", "dead link", "folder", "pipe"])
def test_what_is_no_plain_file_is_refused_without_waiting(pair: Path, kind: str) -> None:
    file = pair / "images" / "a.nii.gz"
    elsewhere = file.rename(pair / "elsewhere.nii.gz")
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(elsewhere if kind == "link" else pair / "nowhere")
    assert refused(pair).code == "FR-D13"
    if kind == "link":
        reader = NiftiFolder(root=pair, follow_links=True)
        assert reader.load(reader.cases(ONE)[0], ONE).grid == GRID


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_one_may_not_read_is_named(pair: Path) -> None:
    (pair / "images" / "a.nii.gz").chmod(0)
    assert refused(pair).code == "FR-D12"
