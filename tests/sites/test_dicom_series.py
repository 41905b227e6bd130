"""DICOM folders become cases that lie where the scanner says, or a fault that says what is wrong."""

from __future__ import annotations

import os
import pickle
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from fedrounds_common.case import Case, CaseRef
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import validate
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.dicom.headers import LIMIT_BYTES, Header, read_header
from fedrounds_sites.dicom.identity import pseudonymous
from fedrounds_sites.dicom.pixels import read_plane
from fedrounds_sites.prepare import prepare
from fedrounds_sites.readers.dicom_series import DicomSeries

ONE = CaseForm(intensity="none")
TWO = CaseForm(channels=("t1", "t2"))
FLAT = CaseForm(dims=2)
COLOUR = CaseForm(dims=2, channels=("red", "green", "blue"))
NAMES = {"t1": "^t1$", "t2": "^t2$"}
PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"  # some of them broken on purpose
STUDY, FRAME = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["frame"])
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)


def plane(stored: NDArray[Any], series: str, number: int, **elements: Any) -> Dataset:
    """One MR plane with the identifiers of a patient in it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    image = generate_uid(entropy_srcs=[series, str(number), str(elements.get("PatientID"))])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = image
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "DOE^JANE", "MRN0012345", "19700101"
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = STUDY, FRAME
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[series])
    dataset.SeriesDescription, dataset.Modality = series, "MR"
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel = 1 if stored.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = stored.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def save(dataset: Dataset, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(file, enforce_file_format=True)


def write_series(
    folder: Path,
    volume: NDArray[Any],
    series: str = "t1",
    *,
    directions: Sequence[float] = AXIAL,
    first: Sequence[float] = (0.0, 0.0, 0.0),
    step: float = 3.0,
    spacing: Sequence[float] = (1.0, 1.0),
    **elements: Any,
) -> list[Path]:
    """Write (planes, rows, columns) upwards along the normal, under names that sort otherwise."""
    right, down = np.array(directions).reshape(2, 3)
    normal = np.cross(right, down)
    files = []
    for number, stored in enumerate(volume):
        position = [round(float(value), 6) for value in np.array(first) + number * step * normal]
        said = {
            "ImagePositionPatient": position,
            "ImageOrientationPatient": list(directions),
            "PixelSpacing": list(spacing),
            "SliceThickness": 1.0,  # thinner than the planes lie apart
            **elements,
        }
        files.append(folder / f"{zlib.crc32(bytes([number]))}.dcm")
        save(plane(stored, series, number, **said), files[-1])
    return files


def numbered(planes: int = 4, rows: int = 5, columns: int = 6) -> NDArray[np.uint16]:
    """Voxels that tell where they are: 100 * plane + 10 * row + column."""
    z, y, x = np.indices((planes, rows, columns))
    return (100 * z + 10 * y + x).astype(np.uint16)


def only(reader: DicomSeries, form: CaseForm = ONE) -> Case:
    (ref,) = reader.cases(form)
    return reader.load(ref, form)


def refusal(reader: DicomSeries, form: CaseForm = ONE) -> CaseError:
    """What loading the folder's only case raises."""
    (ref,) = reader.cases(form)
    with pytest.raises(CaseError) as caught:
        reader.load(ref, form)
    assert caught.value.case == ref.name
    return caught.value


# ---------------------------------------------------------------- real scanners


def test_a_real_series_lies_where_each_file_says(repo: Path) -> None:
    case = only(DicomSeries(repo / "tests/data/dicom/ge_epi"))
    files = sorted((repo / "tests/data/dicom/ge_epi").iterdir())
    assert case.image.shape == (1, 64, 64, 15)
    assert case.spacing_mm == pytest.approx((3.75, 3.75, 5.0))  # SliceThickness says 3: there are gaps
    assert case.orientation == "LPS"
    for file in files:
        dataset = pydicom.dcmread(file)
        x, y, z = (float(value) for value in dataset.ImagePositionPatient)
        index = np.linalg.inv(case.affine) @ [-x, -y, z, 1]
        assert index[:2] == pytest.approx([0, 0], abs=1e-4)
        k = round(float(index[2]))
        assert index[2] == pytest.approx(k, abs=1e-3)
        np.testing.assert_array_equal(case.image[0, :, :, k], dataset.pixel_array.T)


def test_a_real_study_of_four_series_lies_on_itself(shared_data: Path) -> None:
    form = CaseForm(channels=("t1", "t1ce", "t2", "flair"), intensity="none")
    channels = {"t1": "T1pre", "t1ce": "T1post", "flair": "FLAIR", "t2": "T2"}
    folder = shared_data / "data/dicom/brain_tumor_progression_study3_siemens"
    case = only(DicomSeries(folder, channels=channels), form)
    assert case.image.shape == (4, 280, 320, 22)
    assert case.spacing_mm == pytest.approx((0.6875, 0.6875, 6.5), abs=1e-4)
    centre = (case.affine @ [139.5, 159.5, 10.5, 1])[:3]
    assert np.abs(centre).max() < 60  # mm: a head in a scanner lies about its origin
    turned = prepare(case, form)
    assert turned.orientation == "RAS"
    head = tuple(slice(cut, -cut) for cut in (20, 20, 2))
    t1ce = turned.image[1][head].ravel()
    for other in (turned.image[index] for index in (0, 2, 3)):
        here = np.corrcoef(t1ce, other[head].ravel())[0, 1]
        moved = [np.roll(other, shift, axis) for axis, shift in ((0, 3), (0, -3), (1, 3), (1, -3), (2, 1), (2, -1))]
        flipped = [np.flip(other, axis) for axis in range(3)]
        assert all(np.corrcoef(t1ce, wrong[head].ravel())[0, 1] < here - 0.02 for wrong in moved + flipped)


def test_a_real_series_of_ten_time_points_is_refused_as_such(shared_data: Path) -> None:
    error = refusal(DicomSeries(shared_data / "data/dicom/nih_ge_epi_mr_0004"))
    assert error.code == "FR-D54"
    assert "150 planes in 15 places" in error.found


def test_a_real_mosaic_is_refused_as_such(shared_data: Path, tmp_path: Path) -> None:
    file = min((shared_data / "data/dicom/nih_siemens_phantom_mr_0003").glob("*.dcm"))
    shutil.copy(file, tmp_path / "x.dcm")
    assert refusal(DicomSeries(tmp_path), FLAT).found == "a mosaic of planes"


# ---------------------------------------------------------------- order, place and values


@pytest.mark.parametrize("directions", [AXIAL, (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1), OBLIQUE])
def test_every_voxel_lies_where_its_plane_says(tmp_path: Path, directions: Sequence[float]) -> None:
    first, step, (between_rows, between_columns) = np.array([10.0, -20.0, 30.0]), 3.0, (0.5, 0.75)
    write_series(
        tmp_path, numbered(), directions=directions, first=first, step=step, spacing=(between_rows, between_columns)
    )
    case = only(DicomSeries(tmp_path))
    assert case.spacing_mm == pytest.approx((between_columns, between_rows, step))
    right, down = np.array(directions, float).reshape(2, 3)
    for column, row, k in [(0, 0, 0), (5, 0, 0), (0, 4, 0), (0, 0, 3), (2, 3, 1)]:
        left_back_head = first + column * between_columns * right + row * between_rows * down
        left_back_head = left_back_head + k * step * np.cross(right, down)
        expected = left_back_head * [-1, -1, 1]
        assert (case.affine @ [column, row, k, 1])[:3] == pytest.approx(expected, abs=1e-5)
        assert case.image[0, column, row, k] == 100 * k + 10 * row + column


def test_slope_and_intercept_are_each_plane_s_own(tmp_path: Path) -> None:
    for number, (slope, intercept) in enumerate([(2.0, -1000.0), (0.5, 7.0)]):
        said = {"ImagePositionPatient": [0, 0, number], "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [1, 1]}
        dataset = plane(numbered(1)[0], "t1", number, RescaleSlope=slope, RescaleIntercept=intercept, **said)
        save(dataset, tmp_path / f"{number}.dcm")
    case = only(DicomSeries(tmp_path))
    assert case.image[0, 5, 4].tolist() == [2 * 45 - 1000, 0.5 * 45 + 7]


@pytest.mark.parametrize(("dtype", "most"), [(np.uint16, 4095), (np.int16, -1)])
def test_monochrome1_is_turned_so_that_more_is_brighter(tmp_path: Path, dtype: Any, most: int) -> None:
    stored = numbered(1)[0].astype(dtype)
    save(
        plane(stored, "cr", 1, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11), tmp_path / "cr.dcm"
    )
    case = only(DicomSeries(tmp_path), FLAT)
    np.testing.assert_array_equal(case.image[0], most - stored.astype(np.float32))


def test_a_series_without_a_uid_is_told_by_its_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "t1", numbered(), SeriesInstanceUID=None)
    write_series(tmp_path / "t2", numbered(), SeriesInstanceUID=None, SeriesDescription=None)
    assert only(DicomSeries(tmp_path, channels=NAMES), TWO).image.shape == (2, 6, 5, 4)


# ---------------------------------------------------------------- series and channels


def two_series(folder: Path, **second: Any) -> DicomSeries:
    write_series(folder / "a", numbered(), "t1")
    write_series(folder / "b", numbered() + np.uint16(1000), "T2", **second)
    return DicomSeries(folder, channels=NAMES)


def test_channels_come_in_the_study_s_order(tmp_path: Path) -> None:
    reader = two_series(tmp_path)
    assert only(reader, CaseForm(channels=("t2", "t1"))).image[:, 0, 0, 0].tolist() == [1000, 0]
    assert only(reader, TWO).image[:, 0, 0, 0].tolist() == [0, 1000]


def test_series_are_told_by_folder_or_description_as_asked(tmp_path: Path) -> None:
    two_series(tmp_path)
    by_folder = {"t1": "^a$", "t2": "^b$"}
    assert only(DicomSeries(tmp_path, channels=by_folder), TWO).image.shape[0] == 2
    assert only(DicomSeries(tmp_path, channels=by_folder, match="folder"), TWO).image.shape[0] == 2
    error = refusal(DicomSeries(tmp_path, channels=by_folder, match="description"), TWO)
    assert error.code == "FR-D52"
    assert error.found == "0 series fit channel t1, '^a$': a (t1), b (T2)"


def test_a_series_that_fits_two_channels_is_refused(tmp_path: Path) -> None:
    two_series(tmp_path)
    error = refusal(DicomSeries(tmp_path, channels={"t1": "t1", "t2": "1"}), TWO)
    assert error.found == "one series fits both t1 and t2: a (t1)"


def test_two_series_for_one_channel_are_refused(tmp_path: Path) -> None:
    two_series(tmp_path)
    assert refusal(DicomSeries(tmp_path, channels={"t1": "t", "t2": "t2"}), TWO).found.startswith("2 series fit")
    assert refusal(DicomSeries(tmp_path)).found == "2 series: a (t1), b (T2)"


def test_series_that_no_channel_asks_for_are_left_alone(tmp_path: Path) -> None:
    two_series(tmp_path)
    write_series(tmp_path / "c", numbered(2, 3, 3), "localizer", directions=OBLIQUE)
    assert only(DicomSeries(tmp_path, channels=NAMES), TWO).image.shape == (2, 6, 5, 4)


@pytest.mark.parametrize(
    ("second", "found"),
    [
        ({"first": (0.0, 0.2, 0.0)}, "up to 0.2 mm"),
        ({"step": 3.1}, "up to 0.3 mm"),
        ({"spacing": (1.0, 1.1)}, "up to 0.5 mm"),
    ],
)
def test_channels_on_other_grids_are_refused(tmp_path: Path, second: dict[str, Any], found: str) -> None:
    error = refusal(two_series(tmp_path, **second), TWO)
    assert error.code == "FR-D56"
    assert found in error.found


def test_rounding_within_the_tolerance_is_no_other_grid(tmp_path: Path) -> None:
    assert only(two_series(tmp_path, first=(0.05, 0.0, 0.0)), TWO).image.shape[0] == 2


def test_channels_of_different_frames_of_reference_are_refused_unless_said(tmp_path: Path) -> None:
    two_series(tmp_path, FrameOfReferenceUID=generate_uid())
    assert refusal(DicomSeries(tmp_path, channels=NAMES), TWO).found == "channels in 2 frames of reference"
    assert only(DicomSeries(tmp_path, channels=NAMES, same_frame=False), TWO).image.shape[0] == 2


def test_resampling_brings_a_turned_channel_onto_the_first(tmp_path: Path) -> None:
    # the same brightness in space, 2 x + y (mm to the left and back), seen by two scanners at an angle
    def seen(directions: Sequence[float], first: Sequence[float], planes: int, size: int) -> NDArray[np.uint16]:
        right, down = np.array(directions).reshape(2, 3)
        z, y, x = np.indices((planes, size, size))
        place = np.array(first) + x[..., None] * right + y[..., None] * down + 3 * z[..., None] * np.cross(right, down)
        return (1000 + 10 * (2 * place[..., 0] + place[..., 1])).round().astype(np.uint16)

    write_series(tmp_path / "a", seen(AXIAL, (0, 0, 0), 3, 8), "t1")
    far = (1.0, -12.0, -3.0)
    write_series(tmp_path / "b", seen(OBLIQUE, far, 6, 24), "t2", directions=OBLIQUE, first=far)
    reader = DicomSeries(tmp_path, channels=NAMES, resample=True)
    case = only(reader, TWO)
    assert case.grid == (8, 8, 3)
    # a plane in space stays one under linear interpolation; the numbers were rounded to whole ones
    inside = case.image[1] > case.image[1].min()
    assert inside.mean() > 0.8
    np.testing.assert_allclose(case.image[1][inside], case.image[0][inside], atol=1.5)


def test_a_channel_of_another_part_of_the_body_is_not_resampled(tmp_path: Path) -> None:
    two_series(tmp_path, first=(0.0, 0.0, 500.0))
    error = refusal(DicomSeries(tmp_path, channels=NAMES, resample=True), TWO)
    assert "covers less than half of the first channel" in error.found


# ---------------------------------------------------------------- what is wrong with a series


def test_a_missing_plane_is_a_gap_that_is_named(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(6))[2].unlink()
    error = refusal(DicomSeries(tmp_path))
    assert error.code == "FR-D54"
    assert "6.00 mm between the planes at 3.00 and 9.00 mm" in error.found
    assert error.wanted == "3.00 mm as between the others"


def test_two_planes_in_one_place_are_refused(tmp_path: Path) -> None:
    file = write_series(tmp_path, numbered())[1]
    shutil.copy(file, tmp_path / "copy.dcm")
    assert "5 planes in 4 places" in refusal(DicomSeries(tmp_path)).found


def test_a_single_plane_is_no_volume(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(1))
    assert "one plane" in refusal(DicomSeries(tmp_path)).found


@pytest.mark.parametrize(
    ("changed", "code", "found"),
    [
        ({"ImageOrientationPatient": list(OBLIQUE)}, "FR-D55", "planes of different directions"),
        ({"PixelSpacing": [1.0, 1.5]}, "FR-D55", "pixels of (1.0, 1.0) and of (1.0, 1.5) mm"),
        ({"ImagePositionPatient": None}, "FR-D15", "without position"),
        ({"ImagePositionPatient": [5.0, 0.0, 3.0]}, "FR-D54", "5.00 mm beside its place"),
        ({"ImageOrientationPatient": [2.0, 0, 0, 0, 1, 0]}, "FR-D15", "ImageOrientationPatient holds"),
        ({"ImageOrientationPatient": [1.0, 0, 0, 1, 0, 0]}, "FR-D15", "ImageOrientationPatient holds"),
        ({"PixelSpacing": [0.0, 1.0]}, "FR-D15", "PixelSpacing is [0.0, 1.0]"),
        ({"FrameOfReferenceUID": "1.2.3"}, "FR-D55", "frames of reference"),
        ({"NumberOfFrames": 2}, "FR-D57", "2 frames in one file"),
        ({"RescaleSlope": 0}, "FR-D50", "cannot be read"),
        ({"RescaleSlope": 1e308, "RescaleIntercept": 1e308}, "FR-D14", "not finite"),
        ({"ModalityLUTSequence": [Dataset()]}, "FR-D57", "modality LUT"),
        ({"Rows": 60_000, "Columns": 60_000}, "FR-D16", "60000 x 60000 pixels"),
    ],
)
def test_one_odd_plane_spoils_its_series(tmp_path: Path, changed: dict[str, Any], code: str, found: str) -> None:
    files = write_series(tmp_path, numbered())
    dataset = pydicom.dcmread(files[1])
    for name, value in changed.items():
        delattr(dataset, name) if value is None else setattr(dataset, name, value)
    save(dataset, files[1])
    error = refusal(DicomSeries(tmp_path))
    assert (error.code, found in error.found) == (code, True), str(error)


def test_planes_of_unequal_size_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, numbered())
    write_series(tmp_path / "more", numbered(1, 7, 7), first=(0.0, 0.0, 12.0))
    assert "planes of 5 x 6 and of 7 x 7 pixels" in refusal(DicomSeries(tmp_path)).found


def test_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    for number, stored in enumerate(numbered()):
        said = {"ImagePositionPatient": [0, number * 0.5, number * 3], "ImageOrientationPatient": list(AXIAL)}
        save(plane(stored, "ct", number, PixelSpacing=[1, 1], **said), tmp_path / f"{number}.dcm")
    assert "shifted sideways by 0.167 mm for each mm" in refusal(DicomSeries(tmp_path)).found


# ---------------------------------------------------------------- broken files


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.5, 0.75, 0.9, 0.999])
def test_a_truncated_file_spoils_its_case_wherever_it_ends(tmp_path: Path, share: float) -> None:
    file = write_series(tmp_path, numbered(4, 32, 32))[3]  # the last one: its loss would leave no gap
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    error = refusal(DicomSeries(tmp_path))
    assert error.code == "FR-D50"
    assert error.where == str(file)


def test_no_beginning_of_a_file_passes_for_the_whole(tmp_path: Path) -> None:
    save(plane(numbered(1, 4, 4)[0], "t1", 0), tmp_path / "whole.dcm")
    content = (tmp_path / "whole.dcm").read_bytes()
    cut = tmp_path / "cut.dcm"
    for end in [*range(0, len(content), 5), len(content) - 1]:
        cut.write_bytes(content[:end])
        with pytest.raises(CaseError):
            read_whole(cut)
    cut.write_bytes(content)
    assert read_whole(cut).sum() == numbered(1, 4, 4).sum()


def read_whole(file: Path) -> NDArray[np.float32]:
    header = read_header(file, "case")
    assert header is not None
    return read_plane(header, "case")


def test_other_cases_load_beside_a_broken_one(tmp_path: Path) -> None:
    write_series(tmp_path / "one", numbered(), PatientID="1", StudyInstanceUID="1.1")
    write_series(tmp_path / "two", numbered(), PatientID="2", StudyInstanceUID="1.2")[0].write_bytes(b"")
    reader = DicomSeries(tmp_path)
    results = {}
    for ref in reader.cases(ONE):
        try:
            results[ref.patient] = str(reader.load(ref, ONE).grid)
        except CaseError as error:
            results[ref.patient] = error.found
    assert results == {pseudonymous("P", "1", b""): "(6, 5, 4)", pseudonymous("P", "2", b""): "is empty"}


def test_files_that_are_no_dicom_are_passed_over_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path, numbered())
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "VERSION").write_text("1.2")
    for name in ("rtplan.dcm", "reportsi.dcm"):
        shutil.copy(PYDICOM / name, tmp_path / name)
    shutil.copy(PYDICOM / "dicomdirtests" / "DICOMDIR", tmp_path / "DICOMDIR")
    reader = DicomSeries(tmp_path)
    assert only(reader).grid == (6, 5, 4)
    assert reader.passed_over == {"no DICOM": 1, "no DICOM image": 4}


@pytest.mark.slow
def test_a_deflated_file_is_read_and_a_deflated_bomb_is_not(tmp_path: Path) -> None:
    content = (PYDICOM / "image_dfl.dcm").read_bytes()
    (tmp_path / "x.dcm").write_bytes(content)
    assert read_whole(tmp_path / "x.dcm").shape == (512, 512)
    body = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)  # 16 MiB of zeros, to be repeated
    (tmp_path / "x.dcm").write_bytes(content[:body] + block * (LIMIT_BYTES // 2**24 + 2))
    assert (tmp_path / "x.dcm").stat().st_size < 2_000_000
    with pytest.raises(CaseError, match=f"FR-D16 .*holds more than {LIMIT_BYTES:,} bytes"):
        read_header(tmp_path / "x.dcm", "case")


def test_pixels_that_nothing_can_decode_name_their_syntax_and_what_to_install(tmp_path: Path) -> None:
    shutil.copy(PYDICOM / "JPGExtended.dcm", tmp_path / "x.dcm")
    error = refusal(DicomSeries(tmp_path), FLAT)
    assert error.code == "FR-D51"
    assert "JPEG Extended (Process 2 and 4)" in error.found
    assert 'pip install "fedrounds[dicom]"' in error.do


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_neither_hangs_nor_passes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.dcm")
    with pytest.raises(DataError, match=r"FR-D02 .*FR-D13 .*is a named pipe"):
        DicomSeries(tmp_path).cases(ONE)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(
        ["MR_small.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "examples_rgb_color.dcm", "693_J2KI.dcm"]
    ),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=6),
    early=st.booleans(),
)
def test_a_damaged_file_is_read_or_refused_and_never_breaks_out(
    tmp_path: Path, name: str, flips: list[tuple[float, int]], early: bool
) -> None:
    content = bytearray((PYDICOM / name).read_bytes())
    for place, bits in flips:
        content[int(place * (1500 if early else len(content)))] ^= bits
    file = tmp_path / "x.dcm"
    file.write_bytes(content)
    try:
        header = read_header(file, "case")
        values = None if header is None else read_plane(header, "case")
    except CaseError as error:
        assert error.code.startswith("FR-D")  # noqa: PT017
    else:
        assert values is None or np.isfinite(values).all()


@pytest.mark.parametrize("name", sorted(file.name for file in PYDICOM.glob("*") if file.is_file()))
def test_each_of_pydicom_s_own_odd_files_is_read_or_refused(name: str) -> None:
    try:
        header = read_header(PYDICOM / name, "case")
        if isinstance(header, Header):
            values = read_plane(header, "case")
            assert values.shape[:2] == (header.rows, header.columns)
    except CaseError as error:
        assert error.wanted or error.do  # noqa: PT017


# ---------------------------------------------------------------- who a file is of


def test_neither_case_nor_reader_nor_error_holds_the_patient(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(), SeriesInstanceUID="1.2.3.4.5")[2].unlink()
    write_series(tmp_path / "good", numbered(), StudyInstanceUID="1.9.9")
    reader = DicomSeries(tmp_path)
    kept = b""
    for ref in reader.cases(ONE):
        try:
            kept += pickle.dumps(reader.load(ref, ONE))
        except CaseError as error:
            kept += str(error).encode() + pickle.dumps(error)
    kept += pickle.dumps(reader)
    for secret in (b"DOE", b"JANE", b"MRN0012345", b"12345", b"19700101", str(STUDY).encode(), b"1.9.9"):
        assert secret not in kept


def test_pseudonyms_follow_the_key_and_nothing_else(tmp_path: Path) -> None:
    write_series(tmp_path / "data", numbered())
    (tmp_path / "one").write_text("a secret")
    (tmp_path / "two").write_text("another")
    names = []
    for key_file in (None, tmp_path / "one", tmp_path / "one", tmp_path / "two"):
        names += [ref.patient for ref in DicomSeries(tmp_path / "data", key_file=key_file).cases(ONE)]
    assert names[1] == names[2]
    assert len(set(names)) == 3
    with pytest.raises(DataError, match="FR-D53 .*no-key"):
        DicomSeries(tmp_path / "data", key_file=tmp_path / "no-key").cases(ONE)


def test_two_visits_of_a_patient_are_two_cases_of_one_patient(tmp_path: Path) -> None:
    write_series(tmp_path / "a", numbered(), StudyInstanceUID="1.1")
    write_series(tmp_path / "b", numbered(), StudyInstanceUID="1.2")
    one, two = DicomSeries(tmp_path).cases(ONE)
    assert one.patient == two.patient
    assert one.name != two.name


def test_folders_tell_site_patient_and_case(tmp_path: Path) -> None:
    for site, patient, visit in [("A", "1", "v1"), ("A", "1", "v2"), ("B", "1", "v1")]:
        write_series(tmp_path / site / patient / visit / "t1", numbered())
    reader = DicomSeries(tmp_path, pattern=r"^(?P<site>\w+)/(?P<patient>\w+)/(?P<case>\w+)/")
    assert reader.cases(ONE) == (
        CaseRef("A_1_v1", "A_1", "A"),
        CaseRef("A_1_v2", "A_1", "A"),
        CaseRef("B_1_v1", "B_1", "B"),
    )
    assert all(reader.load(ref, ONE).grid == (6, 5, 4) for ref in reader.cases(ONE))


def test_what_folders_do_not_tell_comes_from_the_files(tmp_path: Path) -> None:
    write_series(tmp_path / "A" / "x", numbered())
    (ref,) = DicomSeries(tmp_path, pattern=r"^(?P<site>\w+)/").cases(ONE)
    assert ref.site == "A"
    assert ref.patient == "A_" + pseudonymous("P", "MRN0012345", b"")
    (ref,) = DicomSeries(tmp_path, pattern=r"^(?P<site>\w+)/(?P<case>\w+)/").cases(ONE)
    assert ref.name == "A_x"


def test_two_patients_in_one_case_s_folder_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "x" / "a", numbered(), PatientID="1")
    write_series(tmp_path / "x" / "b", numbered(), PatientID="2")
    error = refusal(DicomSeries(tmp_path, pattern=r"^(?P<case>\w+)/"))
    assert (error.code, error.found) == ("FR-D53", "holds files of two patients")


def test_files_that_name_no_patient_are_refused_unless_folders_do(tmp_path: Path) -> None:
    write_series(tmp_path / "one", numbered(), PatientID="")
    write_series(tmp_path / "two", numbered(), PatientID="7", StudyInstanceUID="1.7")
    reader = DicomSeries(tmp_path)
    faults = {}
    for ref in reader.cases(ONE):
        try:
            reader.load(ref, ONE)
        except CaseError as error:
            faults[ref.name] = (error.code, error.found)
    assert faults == {"unreadable_one": ("FR-D53", "the file does not say which patient it is of")}
    told = DicomSeries(tmp_path, pattern=r"^(?P<patient>\w+)/")
    assert [ref.patient for ref in told.cases(ONE)] == ["one", "two"]


# ---------------------------------------------------------------- masks


def write_mask(file: Path, case: Case, voxels: NDArray[np.uint8], orientation: str = "LPS") -> None:
    """A NIfTI mask as a tool might store it: its axes turned to `orientation`."""
    image = nibabel.Nifti1Image(voxels, case.affine)
    here = nibabel.io_orientation(case.affine)
    there = nibabel.orientations.axcodes2ornt(orientation)
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform(here, there)), file)


@pytest.mark.parametrize("orientation", ["LPS", "LAS", "RAS", "SPL"])
def test_a_mask_stored_turned_lies_on_its_voxels_again(tmp_path: Path, orientation: str) -> None:
    write_series(tmp_path / "c" / "t1", numbered(), directions=OBLIQUE)
    bare = only(DicomSeries(tmp_path))
    voxels = (bare.image[0] % 7 == 0).astype(np.uint8) * np.uint8(3)
    write_mask(tmp_path / "c" / "labels" / "seg.nii.gz", bare, voxels, orientation)
    reader = DicomSeries(tmp_path, labels=r"seg\.nii\.gz$", label_map={3: 1})
    target = only(reader).target
    assert target is not None
    np.testing.assert_array_equal(target.voxels, voxels // 3)


def test_each_case_takes_the_mask_that_lies_with_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name / "t1", numbered(), PatientID=name, StudyInstanceUID=f"1.{ord(name)}")
    bare = DicomSeries(tmp_path)
    for ref in bare.cases(ONE):
        case = bare.load(ref, ONE)
        name = next(name for name in ("a", "b") if pseudonymous("P", name, b"") == ref.patient)
        write_mask(tmp_path / name / "seg.nii.gz", case, np.full(case.grid, int(name == "b"), np.uint8))
    reader = DicomSeries(tmp_path, labels=r"seg\.nii")
    sums = {}
    for ref in reader.cases(ONE):
        target = reader.load(ref, ONE).target
        assert target is not None
        sums[ref.patient] = int(target.voxels.sum())
    assert sums == {pseudonymous("P", "a", b""): 0, pseudonymous("P", "b", b""): 120}


def test_a_mask_of_which_no_case_can_be_told_is_counted_as_a_fault(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name, numbered(), PatientID=name, StudyInstanceUID=f"1.{ord(name)}")
    case = DicomSeries(tmp_path).load(DicomSeries(tmp_path).cases(ONE)[0], ONE)
    write_mask(tmp_path / "seg.nii", case, np.zeros(case.grid, np.uint8))
    reader = DicomSeries(tmp_path, labels=r"seg\.nii", labels_required=False)
    faults = []
    for ref in reader.cases(ONE):
        try:
            reader.load(ref, ONE)
        except CaseError as error:
            faults.append((ref.name, error.code))
    assert faults == [("seg.nii", "FR-D05")]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda voxels, affine: (voxels[:-1], affine), "FR-D08"),
        (lambda voxels, affine: (voxels, affine + np.outer([1, 0, 0, 0], [0, 0, 0, 1.0])), "FR-D09"),
        (lambda voxels, affine: (voxels + 9, affine), "FR-D10"),
        (lambda voxels, affine: (voxels + np.float32(0.5), affine), "FR-D11"),
        (lambda voxels, affine: (np.stack([voxels, voxels], -1), affine), "FR-D17"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path, change: Any, code: str) -> None:
    write_series(tmp_path, numbered())
    bare = only(DicomSeries(tmp_path))
    nibabel.save(nibabel.Nifti1Image(*change(np.zeros(bare.grid, np.uint8), bare.affine)), tmp_path / "seg.nii")
    assert refusal(DicomSeries(tmp_path, labels=r"seg\.nii")).code == code


def test_a_mask_on_another_grid_is_resampled_only_when_asked(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(6, 8, 8))
    bare = only(DicomSeries(tmp_path))
    fine = np.kron(np.eye(8, dtype=np.uint8)[:, :, None], np.ones((2, 2, 6), np.uint8))  # twice as fine in the plane
    affine = bare.affine @ np.diag([0.5, 0.5, 1, 1])
    affine[:3, 3] = (bare.affine @ [-0.25, -0.25, 0, 1])[:3]
    nibabel.save(nibabel.Nifti1Image(fine, affine), tmp_path / "seg.nii")
    assert refusal(DicomSeries(tmp_path, labels=r"seg\.nii")).code == "FR-D08"
    target = only(DicomSeries(tmp_path, labels=r"seg\.nii", resample=True)).target
    assert target is not None
    np.testing.assert_array_equal(target.voxels, np.repeat(np.eye(8, dtype=np.uint8)[:, :, None], 6, axis=2))


def test_missing_and_doubled_masks_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, numbered())
    bare = only(DicomSeries(tmp_path))
    assert refusal(DicomSeries(tmp_path, labels="seg")).code == "FR-D04"
    assert only(DicomSeries(tmp_path, labels="seg", labels_required=False)).target is None
    for name in ("seg.nii", "seg.nii.gz"):
        write_mask(tmp_path / name, bare, np.zeros(bare.grid, np.uint8))
    assert refusal(DicomSeries(tmp_path, labels="seg")).code == "FR-D07"


# ---------------------------------------------------------------- 2D studies


def test_a_series_in_a_2d_study_is_a_stack_of_slices(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(), spacing=(0.5, 0.75))
    bare = only(DicomSeries(tmp_path))
    write_mask(tmp_path / "seg.nii", bare, (bare.image[0] == 123).astype(np.uint8), "RAS")
    case = only(DicomSeries(tmp_path, labels="seg"), FLAT)
    np.testing.assert_array_equal(case.image[0], numbered())
    assert case.spacing_mm == pytest.approx((3.0, 0.5, 0.75))
    assert (case.affine @ [1, 2, 3, 1]) == pytest.approx(bare.affine @ [3, 2, 1, 1])
    assert case.target is not None
    assert np.argwhere(case.target.voxels).tolist() == [[1, 2, 3]]


def test_a_radiograph_is_a_picture_with_its_spacing_and_mask(tmp_path: Path) -> None:
    stored = numbered(1)[0]
    save(plane(stored, "cr", 0, ImagerPixelSpacing=[0.2, 0.1]), tmp_path / "film.dcm")
    Image.fromarray((stored > 30).astype(np.uint8)).save(tmp_path / "film_mask.png")
    case = only(DicomSeries(tmp_path, labels=r"_mask\.png$"), FLAT)
    assert case.image.shape == (1, 5, 6)
    assert case.spacing_mm == pytest.approx((0.2, 0.1))
    assert case.target is not None
    np.testing.assert_array_equal(case.target.voxels, stored > 30)


def test_a_plane_that_lies_in_space_keeps_its_place(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(1), directions=OBLIQUE, first=(7.0, 8.0, 9.0), spacing=(2.0, 0.5))
    case = only(DicomSeries(tmp_path), FLAT)
    assert case.grid == (5, 6)
    expected = np.array([7.0, 8.0, 9.0]) + 3 * 2.0 * np.array(OBLIQUE[3:]) + 4 * 0.5 * np.array(OBLIQUE[:3])
    assert (case.affine @ [3, 4, 0, 1])[:3] == pytest.approx(expected * [-1, -1, 1])


def test_every_file_can_be_a_case_of_its_patient(tmp_path: Path) -> None:
    for number in range(3):
        save(plane(numbered(1)[0], "mg", number, PatientID=f"p{number // 2}"), tmp_path / f"view{number}.dcm")
        mask = np.full((5, 6), int(number == 1), np.uint8)
        Image.fromarray(mask).save(tmp_path / f"view{number}_mask.png")
    reader = DicomSeries(tmp_path, unit="image", labels=r"_mask\.png$")
    refs = reader.cases(FLAT)
    assert sorted(ref.patient for ref in refs) == sorted(pseudonymous("P", name, b"") for name in ("p0", "p0", "p1"))
    targets = [reader.load(ref, FLAT).target for ref in refs]
    assert sorted(int(target.voxels.sum()) for target in targets if target is not None) == [0, 0, 30]


def test_one_image_in_two_files_is_refused(tmp_path: Path) -> None:
    save(plane(numbered(1)[0], "mg", 0), tmp_path / "a.dcm")
    shutil.copy(tmp_path / "a.dcm", tmp_path / "b.dcm")
    assert refusal(DicomSeries(tmp_path, unit="image"), FLAT).found == "a.dcm and b.dcm are one image"


def test_an_ultrasound_still_is_three_channels_or_brightness(tmp_path: Path) -> None:
    shutil.copy(PYDICOM / "examples_rgb_color.dcm", tmp_path / "us.dcm")
    colours = only(DicomSeries(tmp_path), COLOUR).image
    assert colours.shape == (3, 240, 320)
    brightness = only(DicomSeries(tmp_path), FLAT).image
    np.testing.assert_allclose(brightness[0], np.tensordot([0.299, 0.587, 0.114], colours, 1), rtol=1e-5)


def test_a_series_in_colour_is_a_stack_of_three_channels(tmp_path: Path) -> None:
    colours = np.stack([numbered() % 200, numbered() % 100, numbered() % 50], axis=-1).astype(np.uint8)
    write_series(tmp_path, colours)
    case = only(DicomSeries(tmp_path), COLOUR)
    np.testing.assert_array_equal(case.image, np.moveaxis(colours, -1, 0))


def test_channels_may_be_single_planes_that_lie_on_each_other(tmp_path: Path) -> None:
    write_series(tmp_path / "a", numbered(1), "t1")
    write_series(tmp_path / "b", numbered(1) + np.uint16(50), "t2")
    form = CaseForm(dims=2, channels=("t1", "t2"))
    assert only(DicomSeries(tmp_path, channels=NAMES), form).image[:, 0, 0].tolist() == [0, 50]
    write_series(tmp_path / "b", numbered(1), "t2", first=(0.0, 1.0, 0.0))
    assert refusal(DicomSeries(tmp_path, channels=NAMES), form).code == "FR-D56"


def test_grey_is_not_tripled_for_a_study_in_colour(tmp_path: Path) -> None:
    save(plane(numbered(1)[0], "cr", 0), tmp_path / "x.dcm")
    assert refusal(DicomSeries(tmp_path), COLOUR).code == "FR-D32"


@pytest.mark.parametrize(
    ("name", "found"),
    [("examples_palette.dcm", "PALETTE COLOR"), ("examples_ybr_color.dcm", "30 frames in one file")],
)
def test_palettes_and_films_are_refused(tmp_path: Path, name: str, found: str) -> None:
    shutil.copy(PYDICOM / name, tmp_path / "x.dcm")
    error = refusal(DicomSeries(tmp_path), FLAT)
    assert error.code == "FR-D57"
    assert found in error.found


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"pattern": "("}, "pattern"),
        ({"pattern": "(?P<ward>x)"}, "pattern"),
        ({"labels": "("}, "labels"),
        ({"channels": {"t1": "("}}, "channels.t1"),
        ({"channels": {"t1": "x"}, "unit": "image"}, "channels"),
        ({"key_file": "secret"}, "key_file"),
        ({"match": "foldr"}, "match"),
        ({"chanels": {}}, "chanels"),
    ],
)
def test_a_wrong_table_is_a_fault_with_its_key(table: dict[str, Any], key: str) -> None:
    built, faults = validate(DicomSeries, {"root": "x", **table}, "reader")
    assert built is None
    assert [fault.key for fault in faults] == [f"reader.{key}"]


@pytest.mark.parametrize(
    ("table", "form", "found"),
    [
        ({"channels": {"t1": "x"}}, TWO, "channel t2"),
        ({}, TWO, "2 channels"),
        ({"unit": "image"}, ONE, "dims = 3"),
    ],
)
def test_a_study_that_the_table_cannot_fill_is_refused(
    tmp_path: Path, table: dict[str, Any], form: CaseForm, found: str
) -> None:
    with pytest.raises(DataError, match=f"FR-D33 .*{found}"):
        DicomSeries(tmp_path, **table).cases(form)


def test_wrong_folders_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"FR-D01 .*nowhere: there is no such folder"):
        DicomSeries(tmp_path / "nowhere").cases(ONE)
    with pytest.raises(DataError, match=r"FR-D02 .*none of 0 files is of a case \(the folder is empty\)"):
        DicomSeries(tmp_path).cases(ONE)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"none of 1 files is of a case \(1 no DICOM\)"):
        DicomSeries(tmp_path).cases(ONE)


def test_a_case_s_stamp_changes_with_one_of_its_planes(tmp_path: Path) -> None:
    files = write_series(tmp_path, numbered())
    reader = DicomSeries(tmp_path)
    (ref,) = reader.cases(ONE)
    before = reader.stamp(ref, ONE)
    os.utime(files[2], ns=(1, 1))
    assert reader.stamp(ref, ONE) != before
    with pytest.raises(CaseError, match="FR-D18"):
        reader.load(CaseRef("Z", "Z"), ONE)
