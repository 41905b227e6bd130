"""NIfTI files we write: read back by nibabel, whole or not at all, and the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fedrounds_common.errors import CaseError, DataError
from fedrounds_sites.nifti import apart_mm, read_geometry, read_volume, write_like, write_nifti


def oblique(shear: float = 0.0) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix() @ np.diag([0.9, 1.1, 3])
    affine[0, 2] += shear
    affine[:3, 3] = (-12.5, 40, 7)
    return affine


def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, (4, 5, 6)).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_labels_are_read_back_by_nibabel(tmp_path: Path, suffix: str) -> None:
    write_nifti(tmp_path / "new" / f"a{suffix}", labels(), oblique())
    read = nib.load(tmp_path / "new" / f"a{suffix}")
    np.testing.assert_array_equal(np.asarray(read.dataobj), labels())
    assert read.get_data_dtype() == np.uint8
    for affine in (read.get_sform(), read.get_qform()):
        np.testing.assert_allclose(affine, oblique(), atol=1e-5)
    assert read.header.get_xyzt_units()[0] == "mm"
    assert [file.name for file in (tmp_path / "new").iterdir()] == [f"a{suffix}"]


def test_probabilities_have_their_classes_last(tmp_path: Path) -> None:
    chances = np.random.default_rng(0).random((3, 4, 5, 6), np.float32)
    write_nifti(tmp_path / "a.nii.gz", chances, oblique())
    np.testing.assert_array_equal(np.moveaxis(np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj), -1, 0), chances)
    np.testing.assert_array_equal(np.moveaxis(read_volume(tmp_path / "a.nii.gz").voxels, -1, 0), chances)


def test_a_sheared_grid_gets_no_wrong_quaternion(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", labels(), oblique(shear=0.4))
    read = nib.load(tmp_path / "a.nii")
    np.testing.assert_allclose(read.affine, oblique(shear=0.4), atol=1e-5)
    assert int(read.header["qform_code"]) == 0


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, labels(), oblique())
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_free_text_of_the_source_does_not_travel(tmp_path: Path) -> None:
    source = nib.Nifti1Image(labels(), oblique())
    source.header["descrip"], source.header["aux_file"] = b"DOE^JANE 1970", b"/data/doe"
    source.header["db_name"], source.header["intent_name"] = b"doe", b"jane"
    source.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    source.to_filename(tmp_path / "in.nii")
    write_like(tmp_path / "in.nii", tmp_path / "out.nii", labels(), oblique())
    raw = (tmp_path / "out.nii").read_bytes().lower()
    assert b"doe" in (tmp_path / "in.nii").read_bytes().lower()
    assert b"doe" not in raw
    assert b"jane" not in raw


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_prediction_keeps_codes_units_and_version_of_its_source(tmp_path: Path, kind: type) -> None:
    source = kind(labels().astype(np.int16), oblique())
    source.set_sform(oblique(), code="mni")
    source.set_qform(oblique(), code="scanner")
    source.header.set_slope_inter(2.0, 5.0)
    source.to_filename(tmp_path / "in.nii.gz")
    write_like(tmp_path / "in.nii.gz", tmp_path / "out.nii.gz", labels(), oblique())
    read = nib.load(tmp_path / "out.nii.gz")
    assert type(read) is kind
    np.testing.assert_array_equal(np.asarray(read.dataobj), labels())
    np.testing.assert_array_equal(read.affine, nib.load(tmp_path / "in.nii.gz").affine)
    assert (int(read.header["sform_code"]), int(read.header["qform_code"])) == (4, 1)


def test_a_prediction_of_another_scan_is_refused(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in.nii", labels(), oblique())
    shifted = oblique()
    shifted[0, 3] += 5
    for array, affine in ((labels(), np.eye(4)), (labels(), shifted), (labels()[1:], oblique())):
        with pytest.raises(DataError, match="FR-D27"):
            write_like(tmp_path / "in.nii", tmp_path / "out.nii", array, affine)
    assert not (tmp_path / "out.nii").exists()


def test_the_header_alone_tells_shape_and_affine(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", np.zeros((2, 4, 5, 6), np.float32), oblique())
    (tmp_path / "cut.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:352])
    geometry = read_geometry(tmp_path / "cut.nii")
    assert geometry.shape == (4, 5, 6, 2)
    assert geometry.grid == (4, 5, 6)
    np.testing.assert_allclose(geometry.affine, oblique(), atol=1e-5)
    with pytest.raises(CaseError, match="FR-D12"):
        read_volume(tmp_path / "cut.nii")


def test_the_distance_of_two_grids_is_that_of_their_farthest_corners() -> None:
    # 1 % larger voxels over 101 voxels of 1 mm: the last corner moves by 1 mm an axis, sqrt(3) in all
    assert apart_mm((101, 101, 101), np.eye(4), np.diag([1.01, 1.01, 1.01, 1.0])) == pytest.approx(3**0.5)


def test_our_reading_is_nibabels_on_real_images(shared_data: Path) -> None:
    files = sorted((shared_data / "data" / "templates").glob("*.nii.gz"))
    assert files
    for file in files:
        ours, theirs = read_volume(file), nib.load(file)
        np.testing.assert_array_equal(ours.affine, theirs.affine)
        np.testing.assert_allclose(ours.voxels, theirs.get_fdata(dtype=np.float32), rtol=1e-6)
