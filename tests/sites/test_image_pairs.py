"""Pictures and masks in a folder become cases, or a fault that says which file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fedrounds_common.case import Case, CaseRef
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import validate
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.pictures import read_pixels
from fedrounds_sites.readers.image_pairs import ImagePairs

GREY = CaseForm(dims=2)
COLOUR = CaseForm(dims=2, channels=("red", "green", "blue"))
RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4)
SQUARE = np.array([[0, 0, 0, 0], [0, 255, 255, 0], [0, 255, 255, 0]], np.uint8)


def save(file: Path, array: NDArray[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def pair(folder: Path, stem: str, image: NDArray[Any] = RAMP, mask: NDArray[Any] = SQUARE) -> None:
    save(folder / f"{stem}.png", image)
    save(folder / f"{stem}_mask.png", mask)


def only(reader: ImagePairs, form: CaseForm = GREY) -> Case:
    (ref,) = reader.cases(form)
    return reader.load(ref, form)


def refusal(reader: ImagePairs, form: CaseForm = GREY) -> CaseError:
    """What loading the folder's only case raises."""
    (ref,) = reader.cases(form)
    with pytest.raises(CaseError) as caught:
        reader.load(ref, form)
    assert caught.value.case == ref.name
    return caught.value


def test_files_that_are_no_cases_picture_or_mask_are_counted_and_named(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    reader = ImagePairs(tmp_path)
    reader.cases(GREY)
    assert (reader.passed_over, reader.passed_over_names) == ({}, {})
    save(tmp_path / "logo.png", RAMP)
    (tmp_path / "read.me").write_text("")
    # the mask of no image is a fault of a case, and so not passed over
    save(tmp_path / "A_2_1_mask.png", SQUARE)
    assert [ref.name for ref in reader.cases(GREY)] == ["A_1", "A_2"]
    (why,) = reader.passed_over
    assert reader.passed_over[why] == 2
    assert reader.passed_over_names == {why: ("logo.png", "read.me")}


# ---------------------------------------------------------------- what becomes a case


def test_real_slices_of_four_patients_at_two_sites_are_four_stacks(repo: Path) -> None:
    reader = ImagePairs(repo / "tests/data/pairs")
    refs = reader.cases(GREY)
    assert [(ref.name, ref.patient, ref.site) for ref in refs] == [
        ("A_001", "A_001", "A"),
        ("A_002", "A_002", "A"),
        ("B_001", "B_001", "B"),
        ("B_002", "B_002", "B"),
    ]
    case = reader.load(refs[0], GREY)
    files = sorted(name for name in os.listdir(repo / "tests/data/pairs") if name.startswith("A_001"))
    assert case.image.shape == (1, len(files) // 2, 35, 35)
    assert case.image.dtype == np.float32
    assert case.target is not None
    assert case.target.voxels.shape == case.grid
    # each slice was chosen because it crosses the hippocampus
    assert all(plane.any() for plane in case.target.voxels)
    assert np.unique(case.target.voxels).tolist() == [0, 1]
    # grey matter of the hippocampus is darker than the white matter around, and no slice is blank
    assert case.image[0].std(axis=(1, 2)).min() > 20


def test_slices_are_stacked_by_number_not_by_spelling(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        pair(tmp_path, f"A_1_{number}", RAMP + np.uint8(number))
    case = only(ImagePairs(tmp_path))
    assert case.image[0, :, 0, 0].tolist() == [2, 9, 10]


def test_one_site_s_patient_1_is_not_another_s(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    pair(tmp_path, "B_1_1")
    assert [ref.patient for ref in ImagePairs(tmp_path).cases(GREY)] == ["A_1", "B_1"]


def test_without_a_slice_group_each_picture_is_a_case_of_its_patient(tmp_path: Path) -> None:
    pair(tmp_path, "p1_left")
    pair(tmp_path, "p1_right")
    reader = ImagePairs(tmp_path, pattern=r"(?P<patient>p\d+)_[a-z]+\.png$", spacing_mm=(0.5, 0.25))
    refs = reader.cases(GREY)
    assert refs == (CaseRef("p1_left", "p1"), CaseRef("p1_right", "p1"))
    case = reader.load(refs[0], GREY)
    assert case.image.shape == (1, 3, 4)
    assert case.spacing_mm == (0.5, 0.25)


def test_without_any_group_the_image_is_the_unit(tmp_path: Path) -> None:
    pair(tmp_path / "ward 3", "x")
    (ref,) = ImagePairs(tmp_path, pattern=r"\.png$").cases(GREY)
    assert ref.patient == ref.name
    assert "/" not in ref.name
    assert " " not in ref.name


def test_spacing_is_given_by_row_column_and_slice_and_stands_in_grid_order(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    pair(tmp_path, "A_1_2")
    case = only(ImagePairs(tmp_path, spacing_mm=(0.5, 0.25, 3.0)))
    assert case.grid == (2, 3, 4)
    assert case.spacing_mm == (3.0, 0.5, 0.25)


def test_masks_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    save(tmp_path / "images/A/1_7.png", RAMP)
    save(tmp_path / "masks/A/1_7.png", SQUARE)
    reader = ImagePairs(
        tmp_path,
        pattern=r"^images/(?P<site>\w+)/(?P<patient>\d+)_(?P<slice>\d+)\.png$",
        mask="masks/{site}/{patient}_{slice}.png",
    )
    case = only(reader)
    assert case.ref == CaseRef("A_1", "A_1", "A")
    assert case.target is not None
    assert int(case.target.voxels.sum()) == 4


def test_a_pattern_that_fits_the_masks_too_still_tells_them_apart(tmp_path: Path) -> None:
    save(tmp_path / "images/A_1_7.png", RAMP)
    save(tmp_path / "masks/A_1_7.png", SQUARE)
    case = only(ImagePairs(tmp_path, mask="masks/{stem}.png"))
    np.testing.assert_array_equal(case.image[0, 0], RAMP)
    pair(tmp_path / "flat", "p1")
    assert only(ImagePairs(tmp_path / "flat", pattern=r"(?P<patient>\w+)\.png$")).ref.name == "p1"


def test_label_values_are_mapped_to_the_study_s(tmp_path: Path) -> None:
    form = CaseForm(dims=2, labels={"liver": 1, "tumour": 5})
    pair(tmp_path, "A_1_1", mask=np.array([[0, 1, 2, 3]] * 3, np.uint8))
    reader = ImagePairs(tmp_path, mask_values="labels", label_map={1: 1, 2: 5, 3: 0})
    target = only(reader, form).target
    assert target is not None
    assert target.voxels[0, 0].tolist() == [0, 1, 5, 0]


def test_any_two_values_are_the_study_s_only_label(tmp_path: Path) -> None:
    form = CaseForm(dims=2, labels={"lesion": 4})
    pair(tmp_path, "A_1_1", mask=(SQUARE > 0).astype(np.uint8) * np.uint8(17))
    target = only(ImagePairs(tmp_path), form).target
    assert target is not None
    assert np.unique(target.voxels).tolist() == [0, 4]


def test_an_empty_slice_goes_with_a_drawn_one(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1", mask=SQUARE * 0)
    pair(tmp_path, "A_1_2")
    target = only(ImagePairs(tmp_path)).target
    assert target is not None
    assert [int(plane.sum()) for plane in target.voxels] == [0, 4]


def test_images_alone_can_be_read_for_prediction(tmp_path: Path) -> None:
    save(tmp_path / "A_1_1.png", RAMP)
    assert only(ImagePairs(tmp_path, mask="")).target is None
    assert only(ImagePairs(tmp_path, labels_required=False)).target is None
    reader = ImagePairs(tmp_path, mask="")
    assert reader.pictures(reader.cases(GREY)[0]) == (tmp_path / "A_1_1.png",)


def test_a_case_s_stamp_changes_with_its_mask(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    reader = ImagePairs(tmp_path)
    (ref,) = reader.cases(GREY)
    before = reader.stamp(ref, GREY)
    assert reader.stamp(ref, GREY) == before
    os.utime(tmp_path / "A_1_1_mask.png", ns=(1, 1))
    assert reader.stamp(ref, GREY) != before


def test_cases_are_listed_anew_when_the_folder_has_grown(tmp_path: Path) -> None:
    reader = ImagePairs(tmp_path)
    pair(tmp_path, "A_1_1")
    assert len(reader.cases(GREY)) == 1
    pair(tmp_path, "A_2_1")
    assert len(reader.cases(GREY)) == 2


# ---------------------------------------------------------------- pixels as stored


DEEP = np.array([[[1, 300, 65535], [256, 0, 4660]]] * 3, np.uint16)


def png_16_bit_colour(samples: NDArray[np.uint16]) -> bytes:
    """A PNG written by hand, since Pillow has no mode for it; each row uses another of the five filters."""
    height, width, _ = samples.shape
    rows = samples.astype(">u2").tobytes()
    before, body = np.zeros(width * 6, np.int64), b""
    for y in range(height):
        row = np.frombuffer(rows, np.uint8, width * 6, y * width * 6).astype(np.int64)
        left = np.concatenate([np.zeros(6, np.int64), row[:-6]])
        corner = np.concatenate([np.zeros(6, np.int64), before[:-6]])
        guess = left + before - corner
        nearest = np.argmin([abs(guess - left), abs(guess - before), abs(guess - corner)], axis=0)
        paeth = np.choose(nearest, [left, before, corner])
        predicted = [np.zeros_like(row), left, before, (left + before) // 2, paeth][y % 5]
        body += bytes([y % 5]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        before = row
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(body)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def test_16_bit_colour_keeps_its_16_bits(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (11, 7, 3)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png_16_bit_colour(samples))
    tifffile.imwrite(tmp_path / "b.tif", samples, photometric="rgb")
    tifffile.imwrite(tmp_path / "c.tif", np.moveaxis(samples, -1, 0), photometric="rgb", planarconfig="separate")
    for file in ("a.png", "b.tif", "c.tif"):
        pixels = read_pixels(tmp_path / file, "case")
        assert pixels.dtype == np.uint16
        np.testing.assert_array_equal(pixels, samples)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_16_bits(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"A_1_1.{suffix}", DEEP[..., 1])
    case = only(ImagePairs(tmp_path, mask=""))
    np.testing.assert_array_equal(case.image[0, 0], DEEP[..., 1])


def test_a_tiff_may_hold_signed_or_real_numbers_in_either_byte_order(tmp_path: Path) -> None:
    for dtype in ("<i2", ">i2", "<f4", ">f4", ">u2"):
        values = np.array([[-1000, 3000], [7, 0]]).clip(0 if "u" in dtype else -1000).astype(dtype)
        order: Any = dtype[0]
        tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", byteorder=order)
        pixels = read_pixels(tmp_path / "x.tif", "case")
        np.testing.assert_array_equal(pixels[..., 0], values)
        assert pixels.dtype.isnative


def test_a_jpeg_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 100, np.uint8)).save(tmp_path / "A_1_1.jpg", quality=95)
    assert only(ImagePairs(tmp_path, mask="")).image.mean() == pytest.approx(100, abs=1)


def test_colours_become_three_channels_in_their_order(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1", image=np.dstack([RAMP, RAMP + np.uint8(50), RAMP + np.uint8(100)]))
    case = only(ImagePairs(tmp_path), COLOUR)
    assert case.image.shape == (3, 1, 3, 4)
    assert case.image[:, 0, 0, 0].tolist() == [0, 50, 100]


def test_grey_stored_as_colour_is_grey(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1", image=np.dstack([RAMP] * 3))
    np.testing.assert_array_equal(only(ImagePairs(tmp_path)).image[0, 0], RAMP)


def test_colour_becomes_grey_only_if_the_table_says_so(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1", image=np.dstack([RAMP * 0, RAMP * 0 + np.uint8(100), RAMP * 0]))
    assert refusal(ImagePairs(tmp_path)).code == "FR-D32"
    case = only(ImagePairs(tmp_path, grey_from_rgb="luminance"))
    np.testing.assert_allclose(case.image, 58.7, rtol=1e-6)  # Rec. 601: 0.587 of green


def test_grey_is_not_tripled_for_a_study_in_colour(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    error = refusal(ImagePairs(tmp_path), COLOUR)
    assert (error.code, error.found) == ("FR-D32", "grey")


def test_an_opaque_alpha_channel_is_dropped_and_any_other_refused(tmp_path: Path) -> None:
    opaque = np.dstack([RAMP, RAMP, RAMP, RAMP * 0 + np.uint8(255)])
    pair(tmp_path, "A_1_1", image=opaque)
    np.testing.assert_array_equal(only(ImagePairs(tmp_path)).image[0, 0], RAMP)
    opaque[0, 0, 3] = 254
    pair(tmp_path, "A_1_1", image=opaque)
    error = refusal(ImagePairs(tmp_path))
    assert error.code == "FR-D31"
    assert "alpha" in error.found


def test_a_palette_is_refused_in_an_image_and_its_index_is_a_mask_s_value(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 2, 1]] * 3, np.uint8))
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    save(tmp_path / "A_1_1.png", RAMP)
    picture.save(tmp_path / "A_1_1_mask.png")
    form = CaseForm(dims=2, labels={"one": 1, "two": 2})
    target = only(ImagePairs(tmp_path, mask_values="labels"), form).target
    assert target is not None
    assert target.voxels[0, 0].tolist() == [0, 1, 2, 1]
    picture.save(tmp_path / "A_1_1.png")
    assert "palette" in refusal(ImagePairs(tmp_path, mask_values="labels"), form).found


def test_a_palette_whose_background_is_not_black_is_refused(tmp_path: Path) -> None:
    picture = Image.fromarray((SQUARE == 0).astype(np.uint8))
    picture.putpalette([255, 255, 255, 0, 0, 0])
    save(tmp_path / "A_1_1.png", RAMP)
    picture.save(tmp_path / "A_1_1_mask.png")
    assert "index 0 is [255, 255, 255], not black" in refusal(ImagePairs(tmp_path)).found


def several_pages(file: Path) -> None:
    Image.fromarray(RAMP).save(file, format="TIFF", save_all=True, append_images=[Image.fromarray(RAMP)])


def turned(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(file, format="JPEG", exif=exif)


def turned_tiff(file: Path) -> None:
    tifffile.imwrite(file, RAMP, photometric="minisblack", extratags=[(274, 3, 1, 3, True)])


def white_is_zero(file: Path) -> None:
    tifffile.imwrite(file, RAMP.astype(np.uint16), photometric="miniswhite")


def four_inks(file: Path) -> None:
    Image.new("CMYK", (4, 3)).save(file, format="TIFF")


def see_through(file: Path) -> None:
    Image.fromarray(RAMP).save(file, format="PNG", transparency=3)


def wide_numbers(file: Path) -> None:
    tifffile.imwrite(file, RAMP.astype(np.uint32), photometric="minisblack")


@pytest.mark.parametrize(
    ("write", "suffix", "found"),
    [
        (several_pages, "tif", "2 pages"),
        (turned, "jpg", "EXIF orientation 6"),
        (turned_tiff, "tif", "EXIF orientation 3"),
        (white_is_zero, "tif", "0 is white"),
        (four_inks, "tif", "CMYK"),
        (see_through, "png", "transparent colour"),
        (wide_numbers, "tif", "32 bits"),
    ],
)
def test_pixels_that_would_have_to_be_guessed_are_refused(tmp_path: Path, write: Any, suffix: str, found: str) -> None:
    write(tmp_path / f"A_1_1.{suffix}")
    error = refusal(ImagePairs(tmp_path, mask=""))
    assert error.code == "FR-D31"
    assert found in error.found


def test_a_mask_of_few_bits_is_refused_because_reading_stretches_it(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    # one row of four 2-bit samples: 0, 1, 2, 3
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0\x1b"))
    save(tmp_path / "A_1_1.png", RAMP[:1])
    (tmp_path / "A_1_1_mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))
    assert np.asarray(Image.open(tmp_path / "A_1_1_mask.png")).tolist() == [[0, 85, 170, 255]]
    assert "2 bits" in refusal(ImagePairs(tmp_path)).found


# ---------------------------------------------------------------- wrong folders, a clear message each


def test_a_missing_root_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"FR-D01 .*nowhere: there is no such folder"):
        ImagePairs(tmp_path / "nowhere").cases(GREY)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"FR-D02 .*none of 0 files"):
        ImagePairs(tmp_path).cases(GREY)


def test_a_folder_in_which_nothing_fits_says_how_many_files_and_names_one(tmp_path: Path) -> None:
    save(tmp_path / "scan1.png", RAMP)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"none of 2 files \(1 of them pictures\) is a case, e.g. scan1.png"):
        ImagePairs(tmp_path).cases(GREY)


def test_an_image_without_mask_is_named(tmp_path: Path) -> None:
    pair(tmp_path, "B_1_1")
    save(tmp_path / "A_1_1.png", RAMP)
    reader = ImagePairs(tmp_path)
    bad, good = reader.cases(GREY)
    with pytest.raises(CaseError, match=r"FR-D04 A_1: A_1_1.png has no mask; A_1_1_mask.png"):
        reader.load(bad, GREY)
    assert reader.load(good, GREY).target is not None


def test_a_mask_without_image_spoils_the_patient_it_is_of(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    save(tmp_path / "A_1_2_mask.png", SQUARE)
    assert str(refusal(ImagePairs(tmp_path))).startswith("FR-D05 A_1: A_1_2_mask.png is the mask of no image")


def test_a_mask_without_image_is_told_from_an_image_though_the_pattern_fits_both(tmp_path: Path) -> None:
    pair(tmp_path, "p1")
    save(tmp_path / "p2_mask.png", SQUARE)
    reader = ImagePairs(tmp_path, pattern=r"(?P<patient>\w+)\.png$")
    good, bad = reader.cases(GREY)
    assert (good.name, bad.name) == ("p1", "p2")
    with pytest.raises(CaseError, match=r"FR-D05 p2: p2_mask.png is the mask of no image"):
        reader.load(bad, GREY)


def test_a_rule_by_which_no_image_has_a_mask_spoils_the_folder(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    with pytest.raises(DataError, match=r"FR-D04 none of 1 images has a mask; e.g. A_1_1_seg.png for A_1_1.png"):
        ImagePairs(tmp_path, mask="{stem}_seg.png").cases(GREY)
    with pytest.raises(DataError, match="FR-D04 the rule for masks names each image itself"):
        ImagePairs(tmp_path, mask="{stem}.png").cases(GREY)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1", mask=SQUARE[:2])
    error = refusal(ImagePairs(tmp_path))
    assert (error.code, error.found, error.wanted) == ("FR-D08", "4 x 2 pixels", "4 x 3 pixels as its image")


@pytest.mark.parametrize("other", [RAMP[:2], RAMP.astype(np.uint16)])
def test_slices_of_unequal_size_or_depth_are_refused(tmp_path: Path, other: NDArray[Any]) -> None:
    pair(tmp_path, "A_1_1")
    pair(tmp_path, "A_1_2", image=other, mask=SQUARE[: len(other)])
    error = refusal(ImagePairs(tmp_path))
    assert (error.code, error.where) == ("FR-D08", "A_1_2.png")


def test_a_label_that_is_not_in_the_map_is_named(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1", mask=RAMP)
    error = refusal(ImagePairs(tmp_path, mask_values="labels", label_map={1: 1, 2: 1}))
    assert error.code == "FR-D10"
    assert error.found == "label 3, 4, 5, 6, 7, 8, 9, 10 ..."


def test_a_smoothed_mask_is_no_mask_of_two_values(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1", mask=np.array([[0, 128, 255, 255]] * 3, np.uint8))
    error = refusal(ImagePairs(tmp_path))
    assert error.code == "FR-D34"
    assert error.found == "the mask holds 2 values besides 0, from 128 to 255"


def test_slices_drawn_with_1_and_with_255_are_not_taken_for_the_same(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    pair(tmp_path, "A_1_2", mask=SQUARE // 255)
    assert refusal(ImagePairs(tmp_path)).found == "A_1_2_mask.png holds 1, A_1_1_mask.png holds 255"


def test_a_mask_in_colour_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1", mask=np.dstack([SQUARE, SQUARE * 0, SQUARE * 0]))
    assert refusal(ImagePairs(tmp_path)).found == "a mask in colour"


@pytest.mark.parametrize("stems", [("A_1_3", "A_1_003"), ("A_1_3", "x/A_1_3")])
def test_two_files_for_one_slice_are_refused(tmp_path: Path, stems: tuple[str, str]) -> None:
    for stem in stems:
        pair(tmp_path, stem)
    error = refusal(ImagePairs(tmp_path))
    assert error.code == "FR-D07"
    assert "are both slice 3" in error.found


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "p1.png", RAMP)
    save(tmp_path / "p1.tif", RAMP)
    reader = ImagePairs(tmp_path, pattern=r"(?P<patient>p\d)\.(png|tif)$", mask="")
    assert refusal(reader).found == "p1.png and p1.tif are both this case"


def test_patients_that_differ_in_upper_and_lower_case_only_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "A_k1_1")
    pair(tmp_path, "A_K1_1")
    pair(tmp_path, "A_2_1")
    reader = ImagePairs(tmp_path)
    good, *alike = reader.cases(GREY)
    assert reader.load(good, GREY).grid == (1, 3, 4)
    for ref in alike:
        with pytest.raises(CaseError, match="A_K1 and A_k1 differ in upper and lower case only"):
            reader.load(ref, GREY)


def test_sites_that_differ_in_upper_and_lower_case_only_spoil_the_folder(tmp_path: Path) -> None:
    pair(tmp_path, "Nord_1_1")
    pair(tmp_path, "nord_2_1")
    with pytest.raises(DataError, match="FR-D36 sites are called Nord and nord"):
        ImagePairs(tmp_path).cases(GREY)


def test_a_slice_group_that_holds_no_number_spoils_the_folder(tmp_path: Path) -> None:
    pair(tmp_path, "p1_a")
    with pytest.raises(DataError, match=r"FR-D35 p1_a.png: the group slice of the pattern is 'a'"):
        ImagePairs(tmp_path, pattern=r"(?P<patient>p1)_(?P<slice>\w)\.png$").cases(GREY)


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (CaseForm(dims=3), "dims = 3"),
        (CaseForm(dims=2, channels=("a", "b")), "2 channels"),
        (CaseForm(dims=2, labels={"a": 1, "b": 2}), "labels a, b for masks of two values"),
    ],
)
def test_a_study_that_pictures_cannot_fill_is_refused(tmp_path: Path, form: CaseForm, found: str) -> None:
    pair(tmp_path, "A_1_1")
    with pytest.raises(DataError, match=f"FR-D33 .*{found}"):
        ImagePairs(tmp_path).cases(form)


def test_a_label_map_that_leads_out_of_the_study_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    with pytest.raises(DataError, match="FR-D20 label_map leads to 7"):
        ImagePairs(tmp_path, mask_values="labels", label_map={255: 7}).cases(GREY)


def test_an_unreadable_file_is_named_and_the_other_cases_load(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    pair(tmp_path, "A_2_1")
    (tmp_path / "A_2_1.png").write_bytes(b"no picture at all")
    reader = ImagePairs(tmp_path)
    good, bad = reader.cases(GREY)
    assert reader.load(good, GREY).target is not None
    with pytest.raises(CaseError, match=r"FR-D30 .*A_2_1.png: is no PNG, TIFF or JPEG"):
        reader.load(bad, GREY)


def test_a_flipped_bit_in_the_pixels_is_found(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    pair(tmp_path, "A_1_1", image=noise, mask=np.zeros_like(noise))
    file = tmp_path / "A_1_1.png"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert refusal(ImagePairs(tmp_path)).code == "FR-D30"


def test_a_decompression_bomb_is_refused_unread(tmp_path: Path) -> None:
    # 20,000 x 20,000 black pixels in 400 kB; decoded it would take 400 MB
    Image.new("1", (20_000, 20_000)).save(tmp_path / "A_1_1.png")
    assert (tmp_path / "A_1_1.png").stat().st_size < 1_000_000
    error = refusal(ImagePairs(tmp_path, mask=""))
    assert error.code == "FR-D30"
    assert "decompression bomb" in error.found


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_neither_hangs_nor_passes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "A_1_1.png")
    error = refusal(ImagePairs(tmp_path, mask=""))
    assert (error.code, error.found) == ("FR-D13", "is a named pipe")


def test_a_link_is_followed_only_when_asked(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/x.png", RAMP)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/A_1_1.png").symlink_to(tmp_path / "elsewhere/x.png")
    assert refusal(ImagePairs(tmp_path / "data", mask="")).found == "is a symbolic link"
    np.testing.assert_array_equal(only(ImagePairs(tmp_path / "data", mask="", follow_links=True)).image[0, 0], RAMP)


def test_a_case_that_is_gone_is_a_case_error(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    reader = ImagePairs(tmp_path)
    (ref,) = reader.cases(GREY)
    (tmp_path / "A_1_1.png").unlink()
    with pytest.raises(CaseError, match="FR-D12"):
        reader.load(ref, GREY)
    with pytest.raises(CaseError, match="FR-D18"):
        reader.load(CaseRef("Z", "Z"), GREY)


# ---------------------------------------------------------------- the table, and damage at random


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"pattern": "("}, "pattern"),
        ({"pattern": r"(?P<slice>\d+)"}, "pattern"),
        ({"mask": "{stem"}, "mask"),
        ({"mask": "{ward}_mask.png"}, "mask"),
        ({"mask": "../{stem}.png"}, "mask"),
        ({"mask": "{stem}.npy"}, "mask"),
        ({"label_map": {"255": 1}}, "label_map"),
        ({"spacing_mm": [1.0]}, "spacing_mm"),
        ({"spacing_mm": [1.0, 0.0]}, "spacing_mm.1"),
        ({"maks": "x"}, "maks"),
    ],
)
def test_a_wrong_table_is_a_fault_with_its_key(table: dict[str, Any], key: str) -> None:
    built, faults = validate(ImagePairs, {"root": "x", **table}, "reader")
    assert built is None
    assert [fault.key for fault in faults] == [f"reader.{key}"]


def test_a_table_made_in_python_is_checked_when_used(tmp_path: Path) -> None:
    pair(tmp_path, "A_1_1")
    with pytest.raises(DataError, match="FR-D03 pattern: no regular expression"):
        ImagePairs(tmp_path, pattern="(").cases(GREY)


def picture_bytes(kind: str) -> bytes:
    stream = io.BytesIO()
    samples = np.random.default_rng(1).integers(0, 255, (24, 20, 3)).astype(np.uint8)
    if kind == "deep png":
        return png_16_bit_colour(samples.astype(np.uint16) * 257)
    if kind == "deep tiff":
        tifffile.imwrite(stream, samples.astype(np.uint16), photometric="rgb", compression="zlib")
    else:
        Image.fromarray(samples).save(stream, format=kind)
    return stream.getvalue()


KINDS = ("PNG", "JPEG", "TIFF", "deep png", "deep tiff")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=4),
)
def test_a_damaged_picture_is_read_or_refused_and_never_breaks_out(
    tmp_path: Path, kind: str, cut: float, flips: list[tuple[float, int]]
) -> None:
    content = bytearray(picture_bytes(kind))
    for place, bits in flips:
        content[int(place * len(content))] ^= bits
    file = tmp_path / "x.png"
    file.write_bytes(content[: int(cut * len(content))] if not flips else content)
    try:
        pixels = read_pixels(file, "case")
    except CaseError as error:
        assert error.code in ("FR-D30", "FR-D31")  # noqa: PT017
    else:
        assert pixels.ndim == 3
        assert pixels.shape[-1] in (1, 3)
