"""Packed images: the very bits come back, from few bytes; rounding is bounded, and keeps background apart from tissue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from fedrounds_common import packed, sampling
from fedrounds_common.case import Case, CaseRef, Target

F32 = NDArray[np.float32]


def kept(image: F32) -> packed.Packed:
    return packed.pack(image, sampling.content_box(image))


def brain(seed: int = 0, grid: tuple[int, ...] = (20, 18, 16)) -> F32:
    """z-scores in a box, zeros around it."""
    rng = np.random.default_rng(seed)
    image = np.zeros((2, *grid), np.float32)
    image[:, 3:15, 4:16, 2:13] = rng.normal(size=(2, 12, 12, 11))
    return image


def rounded(image: F32) -> F32:
    return np.stack([packed.rounded(channel) for channel in image])


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=3, max_dims=4, max_side=6),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 1.0, -2.5]),
    )
)
def test_any_image_comes_back_bit_for_bit_rounded_or_not(image: F32) -> None:
    for each in (image, rounded(image)):
        np.testing.assert_array_equal(kept(each).whole(), each)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_comes_back_too(value: float) -> None:
    image = brain()
    image[1, 5, 5, 5] = value
    np.testing.assert_array_equal(kept(image).whole(), image)
    np.testing.assert_array_equal(packed.rounded(image[1]), image[1])


def test_few_values_take_one_byte_a_voxel_and_multiples_two() -> None:
    grid = (16, 16, 16)
    eight_bits = (np.arange(4096) % 256).reshape(1, *grid) / np.float32(255)
    assert kept(eight_bits.astype(np.float32)).bytes == 4096
    scores = np.random.default_rng(0).normal(size=(1, *grid)).astype(np.float32)
    assert kept(scores).bytes == 4 * 4096
    assert kept(rounded(scores)).bytes == 2 * 4096


def test_more_than_256_values_are_not_taken_for_few() -> None:
    image = np.zeros((1, 64, 64, 64), np.float32)
    image[0, 0, 0, 1:] = 1
    for count, size in ((256, 1), (257, 4)):
        image.flat[:count] = 0.1 * np.arange(count, dtype=np.float32) ** 2  # all of them in one small corner
        image[0, -1, -1, -1] = image.flat[1]  # so that the content is the whole grid
        assert kept(image).bytes == size * 64**3
        np.testing.assert_array_equal(kept(image).whole(), image)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0, 3e7])
def test_rounding_moves_no_voxel_by_more_than_the_stated_share_of_the_spread(scale: float) -> None:
    channel = brain()[0] * np.float32(scale)
    moved = np.abs(packed.rounded(channel) - channel).max()
    low, high = np.percentile(channel[channel != 0], (16, 84))
    assert 0 < moved <= packed.FINE * (high - low) / 2


def test_rounding_leaves_alone_what_it_would_spoil() -> None:
    channel = brain()[0]
    channel[5, 5, 5] = 1e6  # one voxel of metal: a step would be larger than the whole tissue
    np.testing.assert_array_equal(packed.rounded(channel), channel)


def test_rounding_twice_is_rounding_once() -> None:
    once = packed.rounded(brain()[0])
    np.testing.assert_array_equal(packed.rounded(once), once)


def test_rounding_makes_no_background_of_tissue_and_no_tissue_of_background() -> None:
    channel = brain()[0]
    channel[5, 5, 5], channel[5, 5, 6] = 1e-7, -1e-7
    after = packed.rounded(channel)
    np.testing.assert_array_equal(after == 0, channel == 0)
    assert after[5, 5, 5] > 0 > after[5, 5, 6]
    assert not np.signbit(packed.rounded(np.where(channel == 0, np.float32(-0.0), channel))[after == 0]).any()


@pytest.mark.parametrize("make", [lambda: brain(), lambda: rounded(brain()) - np.float32(2), lambda: np.rint(brain())])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_patch_is_the_same_from_a_packed_image_as_from_an_array(make: Any, data: st.DataObject) -> None:
    image = make()
    start = [data.draw(st.integers(-6, size + 3)) for size in image.shape[1:]]
    size = [data.draw(st.integers(1, 9)) for _ in start]
    case = Case(CaseRef("a", "a"), image, None, np.eye(4))
    stored = Case.kept(case.ref, kept(image), None, case.affine)
    low_high = zip(start, size, image.shape[1:], strict=True)
    if all(low < have and low + length > 0 for low, length, have in low_high):
        np.testing.assert_array_equal(sampling.patch_of(stored, start, size), sampling.patch_of(case, start, size))


def test_a_packed_case_is_a_case_like_any_other() -> None:
    image = brain()
    case = Case.kept(CaseRef("a", "p"), kept(image), None, np.diag([2.0, 2, 2, 1]))
    assert case.grid == (20, 18, 16)
    assert case.spacing_mm == (2, 2, 2)
    np.testing.assert_array_equal(case.image, image)
    assert sampling.index_of(case).box == sampling.content_box(image)
    other = case.with_image(image + 1)
    assert other.packed is None
    np.testing.assert_array_equal(other.image, image + 1)
    with pytest.raises(AttributeError, match="images"):
        case.images  # type: ignore[attr-defined]  # noqa: B018


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(
        np.uint8,
        arrays.array_shapes(min_dims=2, max_dims=3, max_side=7),
        elements=st.sampled_from([0, 0, 0, 1, 4, 255]),
    ),
    st.data(),
)
def test_a_label_map_comes_back_whole_and_in_patches(labels: NDArray[np.uint8], data: st.DataObject) -> None:
    kept_labels = packed.pack_labels(labels)
    np.testing.assert_array_equal(kept_labels.whole(), labels)
    start = [data.draw(st.integers(1 - 5, size - 1)) for size in labels.shape]
    size = [5] * labels.ndim
    np.testing.assert_array_equal(kept_labels.cut(start, size), sampling.cut(labels[np.newaxis], start, size)[0])


def test_of_a_label_map_without_labels_nothing_is_kept() -> None:
    kept_labels = packed.pack_labels(np.zeros((5, 6, 7), np.uint8))
    assert kept_labels.codes.size == 0
    assert kept_labels.whole().shape == (5, 6, 7)


def test_a_kept_target_is_a_target_like_any_other() -> None:
    voxels = np.zeros((5, 6, 7), np.uint8)
    voxels[2:4, 1, 3] = 2
    target = Target.kept({"voxels": packed.pack_labels(voxels)}, classes=np.ones(2, np.float32))
    assert (target.has("voxels"), target.has("classes"), target.has("moving")) == (True, True, False)
    np.testing.assert_array_equal(target.voxels, voxels)
    assert target.moving is None
    other = replace(target, voxels=voxels + 1)
    np.testing.assert_array_equal(other.voxels, voxels + 1)
    assert other.packed == {}
    assert Target().voxels is None
    with pytest.raises(AttributeError, match="voxel"):
        target.voxel  # type: ignore[attr-defined]  # noqa: B018
