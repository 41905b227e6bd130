"""Augmentation: what moves moves together, what is background stays, what is not named does not happen."""

from __future__ import annotations

from typing import get_args, get_type_hints

import numpy as np
import pytest
from scipy import ndimage

from fedrounds_common.augment import augment
from fedrounds_common.case import F32, U8
from fedrounds_common.rng import generator
from fedrounds_common.study.tables import Training
from fedrounds_common.warping import smooth_field

MOVING = ("flip", "rotate90", "rotate", "scale", "elastic")
NAMES = (*MOVING, "gain", "gamma", "contrast", "bias", "blur", "shift", "noise", "cutout")
DRAWS = 60


def patch(grid: tuple[int, ...] = (5, 6, 6)) -> tuple[F32, U8]:
    """Channel 0 is the voxel's own number, channel 1 is tissue beside zeros; labels are the number's last digit."""
    numbers = np.arange(1, np.prod(grid) + 1, dtype=np.float32).reshape(grid)
    tissue = np.where(numbers % 3 == 0, 0, numbers / 100).astype(np.float32)
    return np.stack([numbers, tissue]), (numbers % 10).astype(np.uint8)


def draws(*names: str, grid: tuple[int, ...] = (5, 6, 6)) -> list[tuple[F32, U8]]:
    return [augment(*patch(grid), names, generator(number, "test")) for number in range(DRAWS)]


def test_every_name_a_study_may_write_does_something() -> None:
    ((_, kinds),) = [
        (name, get_args(get_args(hint)[0])) for name, hint in get_type_hints(Training).items() if name == "augment"
    ]
    assert set(kinds) == set(NAMES)
    image, _ = patch()
    for name in NAMES:
        assert any(not np.array_equal(changed, image) for changed, _ in draws(name)), name


def test_nothing_named_nothing_done() -> None:
    image, labels = patch()
    changed, marked = augment(image, labels, (), generator(0))
    np.testing.assert_array_equal(changed, image)
    np.testing.assert_array_equal(marked, labels)


@pytest.mark.parametrize("names", [("flip",), ("rotate90",), ("flip", "rotate90")])
def test_labels_move_with_their_voxels(names: tuple[str, ...]) -> None:
    for image, labels in draws(*names):
        np.testing.assert_array_equal(image[0] % 10, labels)
        assert sorted(image[0].flat) == sorted(patch()[0][0].flat)
        assert image.shape == patch()[0].shape


def test_flips_reach_all_eight_corners() -> None:
    assert len({float(image[0, 0, 0, 0]) for image, _ in draws("flip")}) == 8


def test_rotation_turns_only_planes_with_two_equal_sides() -> None:
    firsts = {tuple(image[0, :, 0, 0] - image[0, 0, 0, 0]) for image, _ in draws("rotate90")}
    assert len(firsts) == 1  # the first axis (5) is in no such plane, so its order stays
    assert len({float(image[0, 0, 0, 0]) for image, _ in draws("rotate90")}) == 4
    unequal = patch((3, 4, 5))[0]
    assert all(np.array_equal(image, unequal) for image, _ in draws("rotate90", grid=(3, 4, 5)))


def test_a_picture_is_turned_too() -> None:
    corners = {float(image[0, 0, 0]) for image, _ in draws("rotate90", grid=(4, 4))}
    assert corners == {1.0, 4.0, 13.0, 16.0}


def test_gain_multiplies_a_channel_by_one_factor_within_a_tenth() -> None:
    image, _ = patch()
    factors = []
    for changed, labels in draws("gain"):
        ratio = changed[0] / image[0]
        np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)
        factors.append((float(ratio.flat[0]), float(changed[1].max() / image[1].max())))
        np.testing.assert_array_equal(labels, patch()[1])
    values = np.array(factors)
    assert values.min() >= 0.9
    assert values.max() <= 1.1
    assert 0.3 < (values[:, 0] == 1).mean() < 0.7  # half of the time
    assert (values[:, 0] != values[:, 1]).any()  # each channel by its own


def test_shift_and_noise_leave_background_at_0() -> None:
    image, _ = patch()
    for name in ("shift", "noise", "gamma", "gain"):
        for changed, _ in draws(name):
            assert (changed[1][image[1] == 0] == 0).all(), name


def test_shift_adds_one_number_a_channel() -> None:
    image, _ = patch()
    added = []
    for changed, _ in draws("shift"):
        tissue = image[1] != 0
        difference = (changed - image)[1][tissue]
        np.testing.assert_allclose(difference, difference[0], atol=1e-5)
        added.append(float(difference[0]))
    assert 0.05 < max(np.abs(added)) <= 0.1 + 1e-5
    assert min(added) < 0 < max(added)


def test_noise_is_small_and_comes_about_one_time_in_five() -> None:
    image, _ = patch()
    spreads = np.array([float((changed - image)[0].std()) for changed, _ in draws("noise")])
    assert 0.05 < (spreads > 0).mean() < 0.4
    assert 0 < spreads.max() < 0.12


def test_gamma_keeps_order_and_range_of_a_channel() -> None:
    image, _ = patch()
    changed = [new[0] for new, _ in draws("gamma")]
    assert any(not np.allclose(new, image[0]) for new in changed)
    for new in changed:
        assert (np.diff(new.ravel()) > 0).all()
        assert (new.min(), new.max()) == pytest.approx((image[0].min(), image[0].max()), rel=1e-5)


def test_gamma_leaves_a_flat_channel_alone() -> None:
    flat = np.full((1, 4, 4), 2.5, np.float32)
    for number in range(DRAWS):
        changed, _ = augment(flat, np.zeros((4, 4), np.uint8), ("gamma",), generator(number))
        np.testing.assert_array_equal(changed, flat)


def test_the_case_is_not_changed_and_the_result_is_contiguous_float32() -> None:
    image, labels = patch()
    image.flags.writeable = labels.flags.writeable = False
    for number in range(20):
        changed, marked = augment(image, labels, NAMES, generator(number))
        assert changed.flags.c_contiguous
        assert marked.flags.c_contiguous
        assert (changed.dtype.name, marked.dtype.name) == ("float32", "uint8")
        assert not np.shares_memory(changed, image)


def test_the_order_of_the_names_does_not_matter() -> None:
    first = augment(*patch(), NAMES, generator(4))
    second = augment(*patch(), NAMES[::-1], generator(4))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def ball(size: int = 24) -> tuple[F32, U8]:
    """A bright ball in nothing, marked; channel 1 is a slope over the whole of it."""
    places = np.indices((size,) * 3) - (size - 1) / 2
    inside = (places**2).sum(axis=0) < (size / 3) ** 2
    image = np.stack([np.where(inside, 1.0, 0.0), np.where(inside, 2.0 + places[0] / size, 0.0)]).astype(np.float32)
    return image, inside.astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_naming_one_more_changes_no_other_draw(name: str) -> None:
    image, labels = patch((12, 12, 12))
    place, still = NAMES.index(name), 0
    for other in (NAMES + NAMES)[place + 1 : place + 5]:
        for number in range(12):
            first = augment(image, labels, (name,), generator(number))
            both = augment(image, labels, (name, other), generator(number))
            second = augment(image, labels, (other,), generator(number))
            if np.array_equal(second[0], image):  # `other` is named and does nothing: what `name` does is to be seen
                np.testing.assert_array_equal(both[0], first[0])
                np.testing.assert_array_equal(both[1], first[1])
                still += not np.array_equal(first[0], image)
    assert still, "no draw in which the one changed something and the other nothing"


def test_every_example_of_one_generator_is_changed_in_its_own_way_whatever_is_named() -> None:
    image, labels = patch((12, 12, 12))
    draws, fewer = generator(5), generator(5)
    changed = [augment(image, labels, NAMES, draws)[0] for _ in range(4)]
    for _ in range(4):
        augment(image, labels, ("flip",), fewer)
    assert all((one != other).any() for number, one in enumerate(changed) for other in changed[:number])
    assert draws.random() == fewer.random()


@pytest.mark.parametrize("name", ["rotate", "scale", "elastic"])
def test_what_moves_moves_labels_too_and_makes_no_new_ones(name: str) -> None:
    image, labels = ball()
    moved = 0
    for number in range(DRAWS):
        changed, marked = augment(image, 3 * labels, (name,), generator(number))
        assert set(np.unique(marked)) <= {0, 3}
        moved += not np.array_equal(changed, image)
        # the ball's edge is between 0 and 1 after linear interpolation: half of it is the label's edge
        assert np.mean((changed[0] > 0.5) == (marked == 3)) > 0.97
        np.testing.assert_array_equal(changed[0] > 0, changed[1] > 0)
    assert 0.15 < moved / DRAWS < 0.45


def test_scale_changes_the_size_by_at_most_15_percent_each_way() -> None:
    image, labels = ball()
    sizes = np.cbrt([augment(image, labels, ("scale",), generator(n))[1].sum() / labels.sum() for n in range(DRAWS)])
    assert 0.8 < sizes.min() < 0.95
    assert 1.05 < sizes.max() < 1.2


def test_a_turn_is_small_and_keeps_the_size() -> None:
    bar = np.zeros((33, 33), np.uint8)
    bar[14:19] = 1
    angles = []
    for number in range(DRAWS):
        _, marked = augment(bar[None].astype(np.float32), bar, ("rotate",), generator(number))
        rows, columns = np.nonzero(marked)
        angles.append(float(np.degrees(np.arctan(np.polyfit(columns, rows, 1)[0]))))
    assert 5 < max(np.abs(angles)) <= 15.5
    assert min(angles) < 0 < max(angles)


@pytest.mark.parametrize("name", ["contrast", "bias", "blur"])
def test_what_changes_intensities_leaves_background_and_labels(name: str) -> None:
    image, labels = ball()
    changes = 0
    for number in range(DRAWS):
        changed, marked = augment(image, labels, (name,), generator(number))
        np.testing.assert_array_equal(marked, labels)
        assert not changed[:, labels == 0].any()
        changes += not np.array_equal(changed, image)
    assert 0.08 < changes / DRAWS < 0.45


def test_contrast_keeps_the_mean_and_bias_is_smooth() -> None:
    image, labels = ball()
    inside = labels == 1
    for number in range(DRAWS):
        stretched = augment(image, labels, ("contrast",), generator(number))[0][1][inside]
        assert stretched.mean() == pytest.approx(image[1][inside].mean(), abs=1e-4)
        assert 0.74 < stretched.std() / image[1][inside].std() < 1.26
    flat = np.full((1, 24, 24), 5.0, np.float32)
    flat[0, 0, 0] = 4.0  # what the field multiplies counts from the least value
    for number in range(DRAWS):
        shaded = augment(flat, np.zeros((24, 24), np.uint8), ("bias",), generator(number))[0][0] - 4
        assert np.abs(np.diff(shaded[1:, 1:], axis=0)).max() < 0.3


def test_cutout_empties_one_box_in_all_channels() -> None:
    image, labels = np.ones((2, 20, 30), np.float32), np.ones((20, 30), np.uint8)
    cut = 0
    for number in range(DRAWS):
        changed, marked = augment(image, labels, ("cutout",), generator(number))
        np.testing.assert_array_equal(marked, labels)
        np.testing.assert_array_equal(changed[0], changed[1])
        rows, columns = np.nonzero(changed[0] == 0)
        if not len(rows):
            continue
        cut += 1
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width
        assert 3 <= height <= 7
        assert 4 <= width <= 11
    assert 0.15 < cut / DRAWS < 0.45


def test_masks_move_as_labels_do_and_keep_their_values() -> None:
    image, labels = ball()
    both = np.concatenate([image, labels[None].astype(np.float32)])
    for number in range(DRAWS):
        changed, marked = augment(both, labels, NAMES, generator(number), masks=1)
        np.testing.assert_array_equal(changed[2], marked)


@pytest.mark.parametrize("shape", [(17,), (9, 30), (13, 24, 40)])
def test_a_smooth_field_is_the_cubic_spline_through_its_knots(shape: tuple[int, ...]) -> None:
    knot = 12.0
    counts = [int(np.ceil(size / knot)) + 1 for size in shape]
    knots = generator(3, "knots").standard_normal(counts)
    places = np.stack(
        np.meshgrid(*(np.linspace(0, n - 1, s) for n, s in zip(counts, shape, strict=True)), indexing="ij")
    )
    expected = ndimage.map_coordinates(knots, places, order=3, mode="reflect")
    found = smooth_field(shape, knot, generator(3, "knots"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
