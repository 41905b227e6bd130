"""Preparing a case and bringing a prediction back: geometry checked in world coordinates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.geometry import onto, respaced, turned
from fedrounds_common.sampling import content_box
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.prepare import prepare, prepared_grid, refuse_blank, restore

F64 = NDArray[np.float64]


def form(**fields: Any) -> CaseForm:
    return CaseForm(**({"intensity": "none", "orientation": "RAS"} | fields))


def affine_of(codes: str = "RAS", spacing: tuple[float, ...] = (1, 1, 1), tilt_deg: float = 0.0) -> F64:
    """Axes along `codes`, of these spacings, tilted, with an offset that is no whole number."""
    columns = np.zeros((3, 3))
    for axis, code in enumerate(codes):
        columns["RL AP SI".replace(" ", "").index(code) // 2, axis] = 1 if code in "RAS" else -1
    turn = Rotation.from_euler("xyz", [tilt_deg, tilt_deg / 2, -tilt_deg], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ columns @ np.diag(spacing)
    affine[:3, 3] = (11.3, -7.7, 3.1)
    return affine


def case_of(image: Any, affine: F64 | None = None, labels: Any = None) -> Case:
    target = None if labels is None else Target(np.asarray(labels, np.uint8))
    return Case(CaseRef("c", "p"), np.asarray(image, np.float32), target, np.eye(4) if affine is None else affine)


def world_centre(mask: NDArray[Any], affine: F64) -> F64:
    """Centre of mass in RAS mm."""
    voxels = np.argwhere(mask)
    centre: F64 = (affine @ np.append(voxels.mean(axis=0), 1))[:3]
    return centre


def ball(grid: tuple[int, ...], affine: F64, centre_mm: F64, radius_mm: float) -> NDArray[np.bool_]:
    where = np.stack(np.meshgrid(*(np.arange(size) for size in grid), indexing="ij"), axis=-1)
    mm = where @ affine[:3, :3].T + affine[:3, 3]
    inside: NDArray[np.bool_] = np.linalg.norm(mm - centre_mm, axis=-1) <= radius_mm
    return inside


ORIENTATIONS = ["RAS", "LPS", "LAS", "PIR", "SAL", "AIL"]


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("tilt_deg", [0.0, 17.0])
def test_turning_moves_no_voxel_in_the_patient(codes: str, tilt_deg: float) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 4, 5, 6)).astype(np.float32)
    case = case_of(image, affine_of(codes, (1, 2, 3), tilt_deg))
    prepared = prepare(case, form())
    assert prepared.orientation == "RAS"
    for voxel in ((0, 0, 0), (3, 4, 5), (1, 3, 2)):
        mm = case.affine @ np.append(voxel, 1)
        there = np.linalg.inv(prepared.affine) @ mm
        assert prepared.image[(0, *np.rint(there[:3]).astype(int))] == image[(0, *voxel)]
        np.testing.assert_allclose(there, np.rint(there), atol=1e-9)


@pytest.mark.parametrize("wanted", ["RAS", "LPS", "LAS"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_marker_at_the_patients_right_stays_there(codes: str, wanted: str) -> None:
    affine = affine_of(codes, (1.0, 1.5, 3.0), tilt_deg=9.0)
    grid = (30, 28, 26)
    middle = (affine @ np.append((np.array(grid) - 1) / 2, 1))[:3]
    marker = ball(grid, affine, middle + [9.0, 0, 0], 4.0)  # +x is the patient's right
    case = case_of(marker[None], affine, marker)
    prepared = prepare(case, form(orientation=wanted, spacing_mm=(1.0, 1.0, 1.0)))
    assert prepared.target is not None
    assert prepared.orientation == wanted
    for mask in (prepared.target.voxels == 1, prepared.image[0] > 0.5):
        moved = world_centre(mask, prepared.affine) - world_centre(marker, affine)
        assert np.abs(moved).max() < 0.3
    # RAS counts towards the right: the marker lies in the upper half of the first axis; LPS and LAS mirror that
    half = np.argwhere(prepared.target.voxels)[:, 0].mean() > prepared.grid[0] / 2
    assert half == (wanted == "RAS")


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (0.7, 1.3, 4.0)])
@pytest.mark.parametrize("tilt_deg", [0.0, 23.0])
def test_a_prediction_lands_on_the_files_own_grid(spacing: tuple[float, float, float], tilt_deg: float) -> None:
    affine = affine_of("LPS", (0.9, 0.9, 3.0), tilt_deg)
    grid = (32, 30, 14)
    middle = (affine @ np.append((np.array(grid) - 1) / 2, 1))[:3]
    marker = ball(grid, affine, middle + [6.0, -2.0, 1.0], 9.0)
    case = case_of(marker[None], affine, marker)
    prepared = prepare(case, form(spacing_mm=spacing))
    assert prepared.target is not None
    labels = restore(prepared.target.voxels, prepared, case)
    assert labels.dtype == np.uint8
    assert labels.shape == grid
    overlap = 2 * np.count_nonzero(labels & marker) / (np.count_nonzero(labels) + np.count_nonzero(marker))
    coarse = max(spacing) == 4.0  # 4 mm slices cost a ball of 9 mm one of its caps, a quarter of a voxel of its centre
    assert overlap > (0.88 if coarse else 0.94)
    assert np.abs(world_centre(labels, affine) - world_centre(marker, affine)).max() < (1.0 if coarse else 0.25)
    chance = restore(np.stack([prepared.image[0], 1 - prepared.image[0]]), prepared, case)
    assert chance.dtype == np.float32
    assert chance.shape == (2, *grid)
    np.testing.assert_allclose(chance.sum(axis=0), 1, atol=1e-5)
    assert (chance[0] > 0.5)[marker].mean() > 0.85


@settings(max_examples=40, deadline=None)
@given(
    codes=st.sampled_from(ORIENTATIONS),
    tilt_deg=st.floats(-44, 44),
    grid=st.tuples(*[st.integers(1, 7)] * 3),
    seed=st.integers(0, 99),
)
def test_without_resampling_the_round_trip_is_exact_but_for_the_rounding(
    codes: str, tilt_deg: float, grid: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    case = case_of(
        rng.normal(size=(2, *grid)), affine_of(codes, (0.5, 1.0, 2.5), tilt_deg), rng.integers(0, 4, size=grid)
    )
    prepared = prepare(case, form(channels=("a", "b")))
    assert prepared.target is not None
    assert case.target is not None
    # of 15 bits for the largest value, half the last
    half = float(np.abs(case.image).max()) * 2.0**-15
    np.testing.assert_allclose(restore(prepared.image, prepared, case), case.image, rtol=0, atol=half)
    np.testing.assert_array_equal(restore(prepared.target.voxels, prepared, case), case.target.voxels)


def test_axes_tilted_by_half_a_right_angle_still_come_back() -> None:
    # at 45 degrees two axes are equally near to one direction: a name per axis would be a coin toss
    rng = np.random.default_rng(3)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    case = case_of(rng.normal(size=(1, 3, 4, 5)), affine)
    prepared = prepare(case, form(orientation="LPS"))
    np.testing.assert_array_equal(restore(prepared.image, prepared, case), case.image)


def test_respacing_keeps_the_centre_and_the_field_of_view() -> None:
    # 10 voxels of 3 mm = 30 mm = 15 voxels of 2 mm; centres: (10 - 1) / 2 * 3 = 13.5 = 14 / 2 * 2 - 0.5
    grid, affine = respaced((10, 10, 10), np.diag([3.0, 3.0, 3.0, 1.0]), (2.0, None, 3.0))
    assert grid == (15, 10, 10)
    np.testing.assert_allclose(np.diag(affine), [2, 3, 3, 1])
    np.testing.assert_allclose(affine[:3, 3], [-0.5, 0, 0])


def test_a_spacing_that_differs_by_rounding_is_left_alone() -> None:
    # 1.00004 mm over 200 voxels is 0.008 voxel of drift
    grid, affine = respaced((200,) * 3, np.diag([1.00004, 1.0, 1.0, 1.0]), (1.0, 1.0, 1.0))
    assert grid == (200,) * 3
    assert affine[0, 0] == 1.00004


def test_a_ramp_keeps_its_slope_in_mm() -> None:
    ramp = np.broadcast_to(np.arange(20.0)[:, None, None], (20, 4, 4))
    for spacing in (0.5, 1.7, 3.0):
        grid, affine = respaced(ramp.shape, np.eye(4), (spacing, None, None))
        moved = onto(ramp, np.eye(4), grid, affine)
        steps = np.diff(moved[:, 0, 0])[2:-2]  # at the ends there is no ramp beyond the field of view
        np.testing.assert_allclose(steps, spacing, rtol=1e-4)


@pytest.mark.parametrize("size", [2.9, 3.0])
def test_stripes_too_fine_for_the_new_voxels_become_grey_not_stripes(size: float) -> None:
    # period 2 voxels: plain interpolation would invent slow stripes of full contrast. At 3.0 every new
    # centre lies on an old one, and copying would be just as wrong
    stripes = np.broadcast_to((np.arange(63) % 2.0)[:, None, None], (63, 4, 4))
    grid, affine = respaced(stripes.shape, np.eye(4), (size, None, None))
    smooth = onto(stripes, np.eye(4), grid, affine)[2:-2]
    plain = onto(stripes, np.eye(4), grid, affine, smooth=False)[2:-2]
    assert np.abs(smooth - 0.5).max() < 0.1
    assert np.abs(plain - 0.5).max() > 0.35


def test_the_blur_makes_up_the_difference_of_the_two_voxel_sizes() -> None:
    # FWHM sqrt(3² - 1²) = 2.828 old voxels, sigma 1.201: a point keeps 1 / (sqrt(2 pi) 1.201) = 0.332 of its height
    point = np.zeros((63, 1, 1))
    point[31] = 1
    grid, affine = respaced(point.shape, np.eye(4), (3.0, None, None))
    assert onto(point, np.eye(4), grid, affine)[10, 0, 0] == pytest.approx(0.332, abs=0.003)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_turning_agrees_with_nibabels_closest_canonical(codes: str) -> None:
    case = case_of(np.random.default_rng(0).normal(size=(1, 4, 5, 6)), affine_of(codes, (1, 2, 3), 17))
    theirs = nib.as_closest_canonical(nib.Nifti1Image(case.image[0], case.affine))
    prepared = prepare(case, form())
    np.testing.assert_array_equal(prepared.image[0], theirs.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(prepared.affine, theirs.affine, atol=1e-9)


@pytest.mark.parametrize("spacing", [(0.6, 0.8, 0.9), (1.0, 1.5, 2.2)])
def test_interpolation_agrees_with_scipy_in_world_coordinates(spacing: tuple[float, float, float]) -> None:
    case = case_of(np.random.default_rng(0).normal(size=(1, 8, 9, 7)), affine_of("PIR", (1, 2, 3), 17))
    grid, affine = prepared_grid(case, form(spacing_mm=spacing))
    ours = onto(case.image[0], case.affine, grid, affine, smooth=False)
    voxels = np.stack([axis.ravel() for axis in np.indices(grid)] + [np.ones(int(np.prod(grid)))])
    old = (np.linalg.inv(case.affine) @ affine @ voxels)[:3]
    theirs = map_coordinates(case.image[0], old, order=1, mode="nearest").reshape(grid)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_label_of_any_value_survives_and_none_is_invented() -> None:
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:9, 2:9, 2:9], labels[4:7, 4:7, 4:7] = 255, 3
    case = case_of(np.ones((1, 12, 12, 12)), None, labels)
    target = prepare(case, form(spacing_mm=(0.6, 0.6, 1.9))).target
    assert target is not None
    assert set(np.unique(target.voxels)) == {0, 3, 255}
    # volume in mm³: 27 and 343 - 27, to within the coarse axis
    assert np.count_nonzero(target.voxels == 255) * 0.6 * 0.6 * 1.9 == pytest.approx(316, rel=0.2)


def test_a_mirrored_case_prepares_to_the_mirrored_grid_values() -> None:
    rng = np.random.default_rng(5)
    image = rng.normal(size=(1, 11, 9, 7)).astype(np.float32)
    plain = prepare(case_of(image), form(orientation=None, spacing_mm=(1.6, 0.7, 1.0)))
    mirrored = prepare(case_of(image[:, ::-1]), form(orientation=None, spacing_mm=(1.6, 0.7, 1.0)))
    np.testing.assert_allclose(mirrored.image[:, ::-1], plain.image, atol=1e-5)


def test_zscore_nonzero_leaves_background_exactly_zero() -> None:
    image = np.zeros((1, 6, 6, 6), np.float32)
    image[0, 1:5, 1:5, 1:5] = np.arange(1, 65).reshape(4, 4, 4)
    prepared = prepare(case_of(image), form(intensity="zscore-nonzero")).image
    inside = image[0] != 0
    assert (prepared[0][~inside] == 0).all()
    assert prepared[0][inside].mean() == pytest.approx(0, abs=1e-5)
    assert prepared[0][inside].std() == pytest.approx(1, abs=1e-5)


def test_resampling_does_not_smear_the_brain_over_the_background() -> None:
    image = np.zeros((1, 40, 40, 40), np.float32)
    image[0, 8:32, 8:32, 8:32] = 100 + np.random.default_rng(0).normal(size=(24, 24, 24))
    prepared = prepare(case_of(image), form(intensity="zscore-nonzero", spacing_mm=(4.0, 4.0, 4.0)))
    # 24 mm of brain are 6 voxels of 4 mm; a smear would add a rim and values far below the mean
    box = content_box(prepared.image)
    assert [cut.stop - cut.start for cut in box] == [6, 6, 6]
    assert prepared.image.min() > -4


@pytest.mark.parametrize(
    ("intensity", "low", "high"), [("percentile", 0, 1), ("unit", 0, 1), ("none", 0, 999), ("zscore", -1.8, 1.8)]
)
def test_intensities_lie_where_the_study_says(intensity: str, low: float, high: float) -> None:
    image = np.arange(1000, dtype=np.float32).reshape(1, 10, 10, 10)
    prepared = prepare(case_of(image), form(intensity=intensity)).image
    assert prepared.dtype == np.float32
    assert prepared.flags["C_CONTIGUOUS"]
    assert prepared.min() == pytest.approx(low, abs=0.1)
    assert prepared.max() == pytest.approx(high, abs=0.1)


def test_percentiles_clip_the_tails() -> None:
    image = np.zeros((1, 10, 10, 10), np.float32)
    image[0, :5] = 10
    image[0, 0, 0, 0] = 1e6  # one hot voxel of 1000 would leave nothing of the rest
    assert prepare(case_of(image), form(intensity="percentile")).image[0, 1, 1, 1] == 1.0


def test_unit_scales_hounsfield_units_from_their_minimum() -> None:
    image = np.array([-1000, 0, 1000], np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(prepare(case_of(image), form(intensity="unit")).image.ravel(), [0, 0.5, 1])


def test_unit_keeps_zero_where_it_is() -> None:
    image = np.array([10, 15, 20], np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(prepare(case_of(image), form(intensity="unit")).image.ravel(), [0.5, 0.75, 1])


def test_an_image_that_is_nearly_all_background_keeps_its_content() -> None:
    image = np.zeros((1, 20, 10, 10), np.float32)
    image[0, 5, 5, :2] = 3, 6  # 2 of 2000 voxels: both percentiles are background
    done = prepare(case_of(image), form(intensity="percentile")).image
    np.testing.assert_allclose(done[0, 5, 5, :3], [0.5, 1, 0])


def test_probabilities_come_back_to_a_coarser_grid_unblurred() -> None:
    # every third prepared voxel lies on an acquired one, and its value is the answer there
    case = case_of(np.zeros((1, 9, 1, 1)), np.diag([3.0, 1.0, 1.0, 1.0]))
    prepared = prepare(case, form(spacing_mm=(1.0, 1.0, 1.0)))
    chance = np.random.default_rng(0).random((1, 27, 1, 1), np.float32)
    np.testing.assert_array_equal(restore(chance, prepared, case)[0, :, 0, 0], chance[0, 1::3, 0, 0])


@pytest.mark.parametrize("intensity", ["zscore-nonzero", "zscore", "percentile", "unit", "none"])
@pytest.mark.parametrize("value", [0.0, 0.1, 7.0])
def test_a_constant_channel_stays_finite(intensity: str, value: float) -> None:
    prepared = prepare(case_of(np.full((1, 5, 5, 5), value)), form(intensity=intensity)).image
    assert np.isfinite(prepared).all()
    assert np.ptp(prepared) == 0


def test_each_channel_is_normalised_alone() -> None:
    rng = np.random.default_rng(0)
    image = np.stack([rng.normal(100, 5, (6, 6, 6)), rng.normal(3, 0.1, (6, 6, 6))])
    prepared = prepare(case_of(image), form(channels=("t1", "t2"), intensity="zscore")).image
    np.testing.assert_allclose(prepared.std(axis=(1, 2, 3)), 1, atol=1e-4)


def test_a_picture_is_resampled_by_rows_and_columns_and_never_turned() -> None:
    picture = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    case = case_of(picture, np.diag([-1.0, 2.0, 1.0, 1.0]), np.ones((4, 6)))
    prepared = prepare(case, form(dims=2, spacing_mm=(1.0, 1.0)))
    assert prepared.grid == (4, 12)
    assert prepared.target is not None
    assert prepared.target.voxels.shape == (4, 12)
    np.testing.assert_allclose(prepared.image[0, :, 0], picture[0, :, 0])
    assert restore(prepared.image, prepared, case).shape == (1, 4, 6)


def test_a_stack_of_slices_keeps_its_slices() -> None:
    stack = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    case = case_of(stack, np.diag([5.0, 1.0, 1.0, 1.0]))
    prepared = prepare(case, form(dims=2, spacing_mm=(2.0, 2.0)))
    assert prepared.grid == (3, 4, 4)
    assert prepared.spacing_mm == (5.0, 2.0, 2.0)


def test_the_case_itself_is_not_changed() -> None:
    image = np.random.default_rng(0).normal(size=(1, 5, 5, 5)).astype(np.float32)
    case = case_of(image.copy(), None, np.ones((5, 5, 5)))
    prepare(case, form(intensity="zscore", spacing_mm=(2.0, 2.0, 2.0), orientation="LPS"))
    np.testing.assert_array_equal(case.image, image)
    assert (case.affine == np.eye(4)).all()


def test_as_acquired_means_untouched() -> None:
    case = case_of(np.random.default_rng(0).normal(size=(1, 5, 6, 7)), affine_of("PIR", (1, 2, 3), 12))
    prepared = prepare(case, form(orientation=None, spacing_mm=None))
    np.testing.assert_array_equal(prepared.image, case.image)
    np.testing.assert_array_equal(prepared.affine, case.affine)


def test_the_prepared_grid_is_known_before_any_voxel_is_moved() -> None:
    case = case_of(np.zeros((1, 10, 12, 14)), affine_of("LPS", (1, 2, 3), 12))
    wanted = form(spacing_mm=(1.5, 1.5, 1.5))
    grid, affine = prepared_grid(case, wanted)
    prepared = prepare(case, wanted)
    assert prepared.grid == grid
    np.testing.assert_array_equal(prepared.affine, affine)


@pytest.mark.parametrize(
    ("image", "fields", "code"),
    [
        (np.zeros((2, 4, 4, 4)), {}, "FR-D17"),
        (np.zeros((1, 4, 4)), {}, "FR-D17"),
        (np.zeros((1, 4, 4, 4, 4)), {"dims": 2}, "FR-D17"),
        (np.full((1, 4, 4, 4), np.inf), {"intensity": "none"}, "FR-D14"),
        (np.zeros((1, 4, 4, 4)), {"spacing_mm": (0.001, 0.001, 0.001)}, "FR-D19"),
    ],
)
def test_a_case_that_cannot_be_prepared_is_named(image: Any, fields: dict[str, Any], code: str) -> None:
    with pytest.raises(CaseError) as caught:
        prepare(case_of(image), form(**fields))
    assert caught.value.code == code
    assert caught.value.case == "c"


def test_a_prediction_of_another_case_is_refused() -> None:
    case = case_of(np.zeros((1, 10, 10, 10)))
    tilted = replace(case, affine=affine_of("RAS", (1, 1, 1), 30))
    with pytest.raises(DataError, match="FR-D27"):
        restore(case.image, case, tilted)
    with pytest.raises(DataError, match=r"FR-D27.*\(1, 9, 10, 10\)"):
        restore(case.image[:, 1:], case, case)


def test_turning_reads_the_nearest_direction_of_an_oblique_axis() -> None:
    grid, affine = turned((3, 4, 5), affine_of("PIR", (1, 1, 1), 20), "RAS")
    assert grid == (5, 3, 4)
    assert (np.diag(affine[:3, :3]) > 0.8).all()


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_blank_channel_is_no_image(value: float) -> None:
    image = np.stack([np.full((4, 4, 4), value), np.arange(64.0).reshape(4, 4, 4)]).astype(np.float32)
    two = form(channels=("t1", "flair"))
    with pytest.raises(CaseError, match=rf"FR-D29 .*channel t1 is blank: {value:g} everywhere"):
        refuse_blank(case_of(image), two)
    assert refuse_blank(case_of(image[[1, 1]]), two).image.shape == (2, 4, 4, 4)
