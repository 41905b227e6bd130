"""Pictures: right is right, whatever way the voxels are stored."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fedrounds_common import pictures
from fedrounds_common.case import F64, U8, Case, CaseRef, Target
from fedrounds_common.pictures import LINE, MARGIN, SIZE
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.task import Picture

FORM = CaseForm(channels=("t1", "flair"), labels={"core": 1, "rim": 3})
FLAT = CaseForm(dims=2, channels=("t1", "flair"), labels={"core": 1, "rim": 3})
# a head of 20 x 24 x 12 voxels in RAS: a lesion at the patient's right (high x), front (high y), top (high z)
LESION = (slice(13, 17), slice(17, 21), slice(8, 11))
ORIENTATIONS = ["".join(code) for order in permutations(("RL", "AP", "SI")) for code in product(*order)]


def head(spacing: tuple[float, float, float] = (1, 1, 1)) -> Case:
    image = np.zeros((2, 20, 24, 12), np.float32)
    image[:, 2:18, 2:22, 1:11] = 1 + np.arange(20, dtype=np.float32)[:, None] / 100  # a little texture
    labels = np.zeros((20, 24, 12), np.uint8)
    labels[LESION] = 1
    image[1][LESION] = 3
    return Case(CaseRef("case-7", "patient-7"), image, Target(labels), np.diag([*spacing, 1.0]))


def stored_as(case: Case, codes: str) -> Case:
    """The same head with its voxels stored along other axes; the affine says so."""
    assert case.target is not None
    image, labels, affine = case.image, case.target.voxels, case.affine.copy()
    for axis in range(3):
        if codes.find("LPI"[axis]) >= 0:
            image, labels = np.flip(image, axis + 1), np.flip(labels, axis)
            affine[:3, 3] += affine[:3, axis] * (labels.shape[axis] - 1)
            affine[:3, axis] *= -1
    order = ["RLAPSI".index(code) // 2 for code in codes]
    columns: F64 = affine[:, [*order, 3]]
    image, labels = image.transpose(0, *(axis + 1 for axis in order)), labels.transpose(order)
    return Case(case.ref, np.ascontiguousarray(image), Target(np.ascontiguousarray(labels)), columns)


def draw(case: Case, form: CaseForm = FORM, predicted: U8 | None = None) -> Picture:
    assert case.target is not None
    return pictures.compare(case, case.target.voxels if predicted is None else predicted, form)


def slice_pixels(panel: U8) -> U8:
    """Without the margins of the letters and the lines of text."""
    return panel[: panel.shape[0] - 2 * LINE, MARGIN:-MARGIN]


def coloured(panel: U8) -> tuple[float, float]:
    """Where colour is, as (row, column) shares of the slice; grey pixels have three equal values."""
    pixels = slice_pixels(panel).astype(int)
    rows, columns = np.nonzero(pixels.max(axis=2) - pixels.min(axis=2) > 20)
    assert len(rows)
    return float(rows.mean() / pixels.shape[0]), float(columns.mean() / pixels.shape[1])


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_patients_right_is_on_the_viewers_left_and_the_front_on_top(codes: str) -> None:
    stored = stored_as(head(), codes)
    assert stored.orientation == codes
    row, column = coloured(draw(stored).panels["reference"])
    assert row < 0.4
    assert column < 0.4


def test_every_way_of_storing_gives_the_same_pixels() -> None:
    expected = draw(head((1, 1.5, 3)))
    for codes in ORIENTATIONS:
        found = draw(stored_as(head((1, 1.5, 3)), codes))
        for name, panel in expected.panels.items():
            np.testing.assert_array_equal(found.panels[name], panel)


def test_letters_are_written_beside_the_slice() -> None:
    panel = draw(head()).panels["image"]
    height = panel.shape[0] - 2 * LINE
    for letter, left in (("R", 0), ("L", panel.shape[1] - MARGIN)):
        canvas = Image.new("RGB", (MARGIN, height))
        ImageDraw.Draw(canvas).text((MARGIN / 2, height / 2), letter, (255, 255, 255), pictures.font(), anchor="mm")
        np.testing.assert_array_equal(panel[:height, left : left + MARGIN], np.array(canvas))
        assert np.array(canvas).max() == 255


def test_the_slice_with_most_of_the_lesion_is_taken_and_named() -> None:
    case = head()
    assert case.target is not None
    case.target.voxels[13, 17, 2] = 1
    assert draw(case).title == "case-7: flair, slice 9 of 12, R is on the left"
    prediction = np.zeros_like(case.target.voxels)
    prediction[5:15, 5:15, 4] = 1
    assert "slice 9 of 12" in draw(case, predicted=prediction).title  # a prediction gone wild moves nothing
    assert "slice 5 of 12" in pictures.compare(replace(case, target=None), prediction, FORM).title


def test_the_channel_that_shows_the_lesion_is_taken() -> None:
    assert draw(head()).title.startswith("case-7: flair")
    case = head()
    swapped = case.with_image(np.ascontiguousarray(case.image[::-1]), case.target)
    assert draw(swapped).title.startswith("case-7: t1")


def test_reference_and_prediction_have_the_same_colours_and_size() -> None:
    case = head()
    assert case.target is not None
    both = np.where(case.target.voxels == 1, 3, 0).astype(np.uint8)
    panels = draw(case, predicted=both).panels
    assert list(panels) == ["image", "reference", "prediction"]
    assert len({panel.shape for panel in panels.values()}) == 1
    seen = {
        name: {tuple(pixel) for pixel in slice_pixels(panel).reshape(-1, 3).tolist()} for name, panel in panels.items()
    }
    core, rim = pictures.COLOURS[:2]
    assert (core in seen["reference"], rim in seen["reference"]) == (True, False)
    assert (core in seen["prediction"], rim in seen["prediction"]) == (False, True)
    assert seen["image"] & {core, rim} == set()


def test_the_legend_shows_each_label_in_its_colour() -> None:
    panels = draw(head()).panels
    for name, expected in (("reference", {0, 1}), ("image", set())):
        strip = {tuple(pixel) for pixel in panels[name][-LINE:].reshape(-1, 3).tolist()}
        assert {place for place in (0, 1) if pictures.COLOURS[place] in strip} == expected


def test_many_labels_take_more_lines_and_every_panel_stays_as_high() -> None:
    labels = {f"structure-{number}": number for number in range(1, 12)}
    form = CaseForm(channels=("t1", "flair"), labels=labels)
    panels = draw(head(), form).panels
    heights = {panel.shape[0] for panel in panels.values()}
    assert len(heights) == 1
    assert heights.pop() > draw(head()).panels["image"].shape[0]


def test_a_case_without_reference_has_no_panel_of_it() -> None:
    case = head()
    assert case.target is not None
    bare = Case(case.ref, case.image, None, case.affine)
    picture = pictures.compare(bare, case.target.voxels, FORM)
    assert list(picture.panels) == ["image", "prediction"]


def test_nothing_marked_shows_the_middle_of_the_head() -> None:
    nothing = np.zeros((20, 24, 12), np.uint8)
    bare = Case(CaseRef("a", "a"), head().image, Target(nothing), np.eye(4))
    assert "slice 7 of 12" in pictures.compare(bare, nothing, FORM).title


def test_pixels_are_as_high_as_wide_in_millimetres() -> None:
    # the content is 16 voxels of 1 mm wide and 20 voxels of 2 mm high
    pixels = slice_pixels(draw(head((1, 2, 1))).panels["image"])
    assert pixels.shape == (SIZE, SIZE * 16 // 40, 3)


def test_background_is_black_also_where_it_is_the_mean_of_the_head() -> None:
    case = head()
    image = np.where(case.image != 0, case.image - 1.1, 0).astype(np.float32)  # as after z-scoring
    image[:, 2:6, 2:6] = 0  # a corner of the head is missing, at the patient's back left
    pixels = slice_pixels(draw(case.with_image(image, case.target)).panels["image"])
    assert pixels[-20:, -20:].max() == 0
    assert pixels[-20:, :20].max() > 0


def test_a_picture_without_geometry_is_drawn_as_stored_without_letters() -> None:
    image = np.zeros((2, 10, 20), np.float32)
    image[:, 1:, 1:] = 1
    labels = np.zeros((10, 20), np.uint8)
    labels[7:9, 15:18] = 1
    image[1] += labels
    picture = pictures.compare(Case(CaseRef("a", "a"), image, Target(labels), np.eye(4)), labels, FLAT)
    assert picture.title == "a: flair, as stored, sides unknown"
    row, column = coloured(picture.panels["reference"])
    assert row > 0.6
    assert column > 0.6
    panel = picture.panels["image"]
    assert panel[: panel.shape[0] - 2 * LINE, :MARGIN].max() == 0


def test_a_stack_with_geometry_is_turned_and_lettered() -> None:
    # slices along z, rows to the front (A), columns to the right (R): both run against the screen
    turned = stored_as(head(), "SAR")
    picture = draw(turned, FLAT)
    assert picture.title == "case-7: flair, slice 9 of 12, R is on the left"
    row, column = coloured(picture.panels["reference"])
    assert row < 0.4
    assert column < 0.4


def test_a_stack_of_sagittal_slices_looks_to_the_left() -> None:
    picture = draw(stored_as(head(), "RIP"), FLAT)
    assert picture.title.endswith("A is on the left")
    row, column = coloured(picture.panels["reference"])
    assert row < 0.4  # top of the head on top
    assert column < 0.4  # front on the left


def test_a_real_lesion_is_drawn_on_its_side(shared_data: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    folder = shared_data / "data/open_ms_patient07"
    flair = nibabel.load(next(folder.glob("FLAIR*")))
    lesions = (np.asarray(nibabel.load(next(folder.glob("GOLD*"))).dataobj) > 0).astype(np.uint8)
    x = flair.affine[0, 0] * np.arange(lesions.shape[0]) + flair.affine[0, 3]  # RAS mm: above 0 is the right
    right = lesions * (x > 5)[:, None, None].astype(np.uint8)
    image = flair.get_fdata(dtype=np.float32)[None]
    case = Case(CaseRef("a", "a"), image, Target(lesions), flair.affine)
    picture = pictures.compare(case, right, CaseForm(channels=("flair",), labels={"lesion": 1}))
    assert coloured(picture.panels["prediction"])[1] < 0.5
    assert coloured(picture.panels["prediction"])[1] < coloured(picture.panels["reference"])[1]


def test_a_value_that_tissue_shares_with_the_corner_is_not_drawn_black() -> None:
    draws = np.random.default_rng(0)
    tissue = draws.integers(50, 150, (60, 60)).astype(np.float32)
    corner = float(tissue[0, 0])
    assert 0 < (tissue == corner).mean() < 0.05
    # as if nothing were background
    np.testing.assert_array_equal(pictures.greys(tissue, corner, (1.0, 1.0)), pictures.greys(tissue, -1.0, (1.0, 1.0)))
    brain = np.zeros((60, 60), np.float32)
    brain[20:40, 20:40] = draws.normal(0, 1, (20, 20))
    assert pictures.greys(brain, 0.0, (1.0, 1.0))[:60].max() == 0, "around a brain it is background"
