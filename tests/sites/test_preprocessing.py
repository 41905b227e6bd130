"""What `[cases]` can ask for before a network sees an image: crops, sizes, filters, windows, histogram standards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedrounds_common.case import F32, Case, CaseRef, Target
from fedrounds_common.errors import DataError
from fedrounds_common.plugins import validate
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.histogram import PERCENTILES, landmark_sums, standard, standardised
from fedrounds_sites.prepare import prepare, restore

RNG = np.random.default_rng(5)


def case_of(image: Any, labels: Any = None, affine: Any = None, name: str = "c") -> Case:
    target = None if labels is None else Target(np.asarray(labels, np.uint8))
    return Case(CaseRef(name, name), np.asarray(image, np.float32), target, np.eye(4) if affine is None else affine)


def form(**fields: Any) -> CaseForm:
    return CaseForm(**({"intensity": "none"} | fields))


def faults(**fields: Any) -> str:
    return " ".join(map(str, validate(CaseForm, fields, "cases")[1]))


def brain(seed: int, gain: float = 1.0, power: float = 1.0) -> F32:
    """(1, 24, 24, 24): three tissues in nothing, as one scanner shows them."""
    draws = np.random.default_rng(seed)
    image = np.zeros((24, 24, 24), np.float32)
    inside = image[4:20, 4:20, 4:20]
    inside[...] = draws.choice([0.3, 0.6, 0.8], inside.shape, p=[0.2, 0.45, 0.35]) + draws.normal(0, 0.05, inside.shape)
    image[4:20, 4:20, 4:20] = gain * np.clip(inside, 0.05, None) ** power
    return image[None]


# ---------------------------------------------------------------- crop and size


def test_a_crop_keeps_what_differs_from_the_corner_where_it_lies() -> None:
    image = np.full((2, 20, 22, 24), -1000.0)
    image[0, 5:12, 6:18, 7:10] = 40
    image[1, 4:6, 8:9, 7:9] = 500
    labels = (image[0] == 40).astype(np.uint8)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-10, 5, 7)
    case = case_of(image, labels, affine)
    made = prepare(case, form(channels=("a", "b"), crop="content"))
    assert made.grid == (8, 12, 3)  # both channels' boxes together
    np.testing.assert_array_equal(made.image, image[:, 4:12, 6:18, 7:10])
    np.testing.assert_allclose(made.affine[:3, 3], (-10 + 4 * 2, 5 + 6 * 2, 7 + 7 * 3))
    assert made.labels is not None
    back = restore(made.labels, made, case)
    np.testing.assert_array_equal(back, labels)


def test_what_was_cut_away_comes_back_as_background_and_not_as_the_edge() -> None:
    image = np.zeros((1, 16, 16))
    image[0, 4:10, 5:12] = 1
    case = case_of(image)
    made = prepare(case, form(dims=2, crop="content"))
    restored = restore(np.ones(made.grid, np.uint8), made, case)
    assert restored[4:10, 5:12].all()
    assert not restored[[0, 2, 12, 15]].any()
    chances = restore(np.ones((2, *made.grid), np.float32), made, case)
    assert not chances[:, [0, 15]].any()
    # where nothing was cropped, nothing becomes background
    coarse = prepare(case, form(dims=2, spacing_mm=(3.1, 2.7)))
    assert restore(np.ones(coarse.grid, np.uint8), coarse, case).all()


def test_slight_noise_is_no_content_and_a_blank_image_is_left_whole() -> None:
    image = RNG.normal(0, 1, (1, 30, 30))
    image[0, 10:20, 12:24] += 200
    assert prepare(case_of(image), form(dims=2, crop="content")).grid == (10, 12)
    assert prepare(case_of(np.zeros((1, 9, 9))), form(dims=2, crop="content")).grid == (9, 9)


def test_a_stack_keeps_all_its_slices() -> None:
    stack = np.zeros((1, 5, 12, 12))
    stack[0, 2, 3:7, 4:9] = 1
    assert prepare(case_of(stack), form(dims=2, crop="content")).grid == (5, 4, 5)
    assert prepare(case_of(stack), form(dims=2, size=(6, 8))).grid == (5, 6, 8)


def test_cases_of_any_size_become_one_size() -> None:
    for shape in ((31, 17), (64, 64), (100, 300)):
        image = RNG.normal(size=(1, *shape))
        made = prepare(case_of(image), form(dims=2, size=(32, 48)))
        assert made.grid == (32, 48)
        # the field of view stays
        np.testing.assert_allclose(np.array(made.grid) * made.spacing_mm, shape, rtol=1e-9)
    volume = prepare(case_of(RNG.normal(size=(1, 10, 12, 9))), form(size=(16, 16, 16)))
    assert volume.grid == (16, 16, 16)


def test_size_and_spacing_exclude_each_other() -> None:
    assert "keep one of the two" in faults(size=[8, 8, 8], spacing_mm=[1, 1, 1])
    assert "3 numbers wanted" in faults(size=[8, 8])


# ---------------------------------------------------------------- filters


@pytest.mark.parametrize("filters", [{"median": 3}, {"bilateral": 1.5}, {"gaussian": 1.0}])
def test_each_filter_takes_noise_away_and_leaves_the_mean(filters: Any) -> None:
    image = np.full((1, 40, 40), 10.0) + RNG.normal(0, 1, (1, 40, 40))
    image[0, :, 20:] += 20
    made = prepare(case_of(image), form(dims=2, filters=filters)).image[0]
    for half in (slice(2, 17), slice(23, 38)):
        assert made[2:38, half].std() < 0.75 * image[0, 2:38, half].std()
        assert made[2:38, half].mean() == pytest.approx(image[0, 2:38, half].mean(), abs=0.2)
    step = made[:, 20].mean() - made[:, 19].mean()
    assert (step > 15) == ("gaussian" not in filters)  # the others keep the edge


def test_a_median_takes_single_spikes_away() -> None:
    image = np.zeros((1, 9, 9, 9))
    image[0, 4, 4, 4] = 100
    image[0, 0, 0, 0] = 1
    assert prepare(case_of(image), form(filters={"median": 3})).image.max() == 0


def test_sizes_are_in_mm_and_an_axis_with_larger_voxels_is_left_alone() -> None:
    image = RNG.normal(size=(1, 12, 12, 6))
    thick = case_of(image, affine=np.diag([1.0, 1.0, 6.0, 1.0]))
    made = prepare(thick, form(filters={"median": 3}, orientation=None)).image[0]
    expected = np.median(image[0, 3:6, 3:6, 2])
    assert made[4, 4, 2] == pytest.approx(float(expected), abs=2e-4)
    blurred = prepare(thick, form(filters={"gaussian": 1.0}, orientation=None)).image[0]
    assert np.abs(np.diff(blurred, axis=0)).mean() < 0.5 * np.abs(np.diff(image[0], axis=0)).mean()
    assert np.abs(np.diff(blurred, axis=2)).mean() > 0.2 * np.abs(np.diff(image[0], axis=2)).mean()


@pytest.mark.parametrize("filters", [{"median": 3}, {"bilateral": 1.5}, {"gaussian": 1.5}])
def test_background_stays_empty_and_does_not_darken_the_rim(filters: Any) -> None:
    image = np.zeros((1, 20, 20, 20), np.float32)
    image[0, 5:15, 5:15, 5:15] = 100 + RNG.normal(0, 1, (10, 10, 10))
    made = prepare(case_of(image), CaseForm(intensity="zscore-nonzero", filters=filters)).image[0]
    inside = image[0] > 0
    assert not made[~inside].any()
    assert np.abs(made[inside]).max() < 6  # in standard deviations of what is left: no dark rim


# ---------------------------------------------------------------- windows


def test_a_window_brings_its_values_to_0_and_1_and_touches_no_other_channel() -> None:
    t1, ct = RNG.normal(50, 10, (8, 8, 8)), RNG.uniform(-1000, 1500, (8, 8, 8))
    made = prepare(
        case_of([t1, ct]), CaseForm(channels=("t1", "ct"), intensity="zscore", window={"ct": (-100.0, 300.0)})
    )
    np.testing.assert_allclose(made.image[1], np.clip((ct + 100) / 400, 0, 1), atol=1e-6)
    assert made.image[0].mean() == pytest.approx(0, abs=1e-5)
    assert made.image[0].std() == pytest.approx(1, abs=1e-4)


def test_a_window_is_of_a_channel_and_goes_up() -> None:
    assert "mri: no channel (image)" in faults(window={"mri": [0, 1]})
    assert "[80, 0]: the second must be above the first" in faults(window={"image": [80, 0]})


# ---------------------------------------------------------------- histogram standards


def test_learned_landmarks_bring_two_scanners_together() -> None:
    scanners = [(1.0, 1.0), (300.0, 1.6), (20.0, 0.7)]
    cases = [case_of(brain(number, *scanners[number % 3]), name=f"c{number}") for number in range(9)]
    channels = CaseForm(channels=("t1",))
    landmarks = standard(landmark_sums(cases), channels)
    assert len(landmarks["t1"]) == len(PERCENTILES)
    wanted = CaseForm(channels=("t1",), intensity="histogram", landmarks=dict(landmarks))
    means, zscored = [], []
    for case in cases:
        inside = case.image[0] > 0
        means.append(np.percentile(prepare(case, wanted).image[0][inside], (20, 50, 80)))
        zscored.append(np.percentile(prepare(case, channels).image[0][inside], (20, 50, 80)))
    spread = np.std(means, axis=0) / np.ptp(np.mean(means, axis=0))
    before = np.std(zscored, axis=0) / np.ptp(np.mean(zscored, axis=0))
    assert (spread < 0.02).all()
    assert (spread < before).all()


def test_landmarks_map_exactly_and_background_stays_0() -> None:
    landmarks = np.linspace(0, 1, 11) ** 2
    image = brain(3)
    mapped = standardised(image[0], landmarks)
    inside = image[0] != 0
    np.testing.assert_allclose(np.percentile(mapped[inside], PERCENTILES), landmarks, atol=2e-3)
    assert not mapped[~inside].any()
    order = np.argsort(image[0][inside])
    assert (np.diff(mapped[inside][order]) >= -1e-6).all()


def test_sums_of_sites_are_the_sums_of_all_their_cases() -> None:
    cases = [case_of(brain(number, 1 + number), name=f"c{number}") for number in range(6)]
    np.testing.assert_allclose(
        landmark_sums(cases[:2]) + landmark_sums(cases[2:]), landmark_sums(cases), rtol=0, atol=1e-12
    )
    assert landmark_sums(cases)[0, -1] == 6


def test_landmarks_that_cannot_be_learned_or_used_are_refused() -> None:
    with pytest.raises(DataError, match="FR-D47 no case"):
        landmark_sums([])
    flat = case_of(np.where(np.arange(1000).reshape(1, 10, 10, 10) < 100, 0, 7))
    with pytest.raises(DataError, match="FR-D47 channel image"):
        standard(landmark_sums([flat]), CaseForm())
    assert "image: no landmarks" in faults(intensity="histogram")
    assert "11 numbers, each above the one before" in faults(landmarks={"image": [0, 1]})
    assert "11 numbers" in faults(landmarks={"image": [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9]})
    assert faults(intensity="histogram", window={"image": [0, 80]}) == ""


def test_an_image_without_background_is_mapped_whole() -> None:
    image: NDArray[Any] = RNG.normal(100, 20, (1, 40, 40)).astype(np.float32)
    mapped = standardised(image[0], np.linspace(0, 1, 11))
    assert np.isfinite(mapped).all()
    assert np.corrcoef(mapped.ravel(), image.ravel())[0, 1] > 0.95
