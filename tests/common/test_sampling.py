"""Where patches come from."""

from __future__ import annotations

import gc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrounds_common import sampling
from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.rng import generator


def case(grid: tuple[int, ...] = (10, 12), channels: int = 2) -> Case:
    image = np.zeros((channels, *grid), np.float32)
    image[1, 3:7, 2:9] = 1.5
    labels = np.zeros(grid, np.uint8)
    labels[4, 5:8] = 2
    labels[5, 5] = 1
    return Case(CaseRef("a", "a"), image, Target(labels), np.eye(4))


def test_the_content_box_holds_what_differs_from_the_corner_in_any_channel() -> None:
    image = case().image.copy()
    assert sampling.content_box(image) == (slice(3, 7), slice(2, 9))
    image[0, 9, 11] = -1
    assert sampling.content_box(image) == (slice(3, 10), slice(2, 12))


def test_background_need_not_be_0_nor_the_same_in_each_channel() -> None:
    image = case().image - np.array([1000, 3], np.float32)[:, None, None]
    assert sampling.content_box(image) == (slice(3, 7), slice(2, 9))


def test_an_image_of_one_value_is_content_all_over() -> None:
    assert sampling.content_box(np.full((1, 4, 5), 7, np.float32)) == (slice(0, 4), slice(0, 5))


def test_an_index_is_searched_once_and_forgotten_with_its_case() -> None:
    one = case()
    index = sampling.index_of(one)
    assert sampling.index_of(one) is index
    assert sorted(index.voxels) == [1, 2]
    np.testing.assert_array_equal(index.voxels[2], [4 * 12 + 5, 4 * 12 + 6, 4 * 12 + 7])
    held = len(sampling._indices)
    del one
    gc.collect()
    assert len(sampling._indices) == held - 1


def test_a_case_without_reference_has_a_box_and_no_voxels() -> None:
    bare = Case(CaseRef("a", "a"), case().image, None, np.eye(4))
    assert sampling.index_of(bare).voxels == {}
    assert sampling.index_of(bare).box == (slice(3, 7), slice(2, 9))


def test_a_random_region_first_and_then_a_random_voxel_of_it() -> None:
    index, draws = sampling.index_of(case()), generator(0, "test")
    # regions {1} and {1, 2}: voxel (5, 5) is drawn in 1/2 + 1/2 · 1/4 = 5/8 of the draws, each other in 1/8
    found = Counter(sampling.foreground_voxel(index, [(1,), (1, 2)], (10, 12), draws) for _ in range(4000))
    assert set(found) == {(5, 5), (4, 5), (4, 6), (4, 7)}
    assert found[5, 5] / 4000 == pytest.approx(5 / 8, abs=0.03)
    assert found[4, 7] / 4000 == pytest.approx(1 / 8, abs=0.02)


def test_regions_that_are_absent_are_not_drawn() -> None:
    index, draws = sampling.index_of(case()), generator(0)
    assert sampling.foreground_voxel(index, [(9,), (3, 1)], (10, 12), draws) == (5, 5)
    assert sampling.foreground_voxel(index, [(9,), (3, 4)], (10, 12), draws) is None


@pytest.mark.parametrize(
    ("box", "least", "grown"),
    [
        (slice(4, 6), 2, slice(4, 6)),
        (slice(4, 6), 4, slice(3, 7)),
        (slice(0, 2), 6, slice(0, 6)),
        (slice(8, 10), 6, slice(4, 10)),
        (slice(3, 5), 30, slice(0, 10)),
        (slice(1, 9), 3, slice(1, 9)),
    ],
)
def test_a_box_grows_around_its_middle_and_stays_on_the_grid(box: slice, least: int, grown: slice) -> None:
    assert sampling.grown([box], [least], [10]) == (grown,)


def test_a_patch_is_centred_on_its_voxel_where_the_grid_lets_it() -> None:
    box, draws = (slice(0, 10), slice(0, 12)), generator(0)
    assert sampling.patch_start((5, 5), box, (4, 4), (10, 12), draws) == (3, 3)
    assert sampling.patch_start((0, 11), box, (4, 4), (10, 12), draws) == (0, 8)
    assert sampling.patch_start((5, 5), box, (14, 15), (10, 12), draws) == (-2, -1)


def test_a_patch_from_anywhere_reaches_every_place_of_the_content() -> None:
    box, draws = (slice(3, 7), slice(2, 9)), generator(0)
    starts = Counter(sampling.patch_start(None, box, (4, 3), (10, 12), draws) for _ in range(500))
    assert set(starts) == {(3, column) for column in range(2, 7)}
    # content smaller than the patch: the box grown to the patch's size
    assert {sampling.patch_start(None, box, (8, 3), (10, 12), draws)[0] for _ in range(50)} == {1}


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.integers(0, 1000),
    st.booleans(),
)
def test_a_cut_has_the_patchs_size_and_the_images_voxels(
    grid: tuple[int, int], patch: tuple[int, int], seed: int, centred: bool
) -> None:
    draws = generator(seed)
    image = np.arange(1, grid[0] * grid[1] + 1, dtype=np.float32).reshape(1, *grid)
    voxel = (int(draws.integers(grid[0])), int(draws.integers(grid[1]))) if centred else None
    start = sampling.patch_start(voxel, (slice(0, grid[0]), slice(0, grid[1])), patch, grid, draws)
    part = sampling.cut(image, start, patch)
    assert part.shape == (1, *patch)
    for place in np.ndindex(patch):
        source = tuple(low + step for low, step in zip(start, place, strict=True))
        inside = all(0 <= at < size for at, size in zip(source, grid, strict=True))
        assert part[(0, *place)] == (image[(0, *source)] if inside else 0)
    if voxel:
        assert image[(0, *voxel)] in part
    # no more padding than there must be
    assert (part > 0).sum() == min(grid[0], patch[0]) * min(grid[1], patch[1])


def test_what_is_remembered_of_cases_stays_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.ones((4, 4, 4), np.uint8)  # 64 positions of 4 bytes
    cases = [
        Case(CaseRef(str(n), str(n)), np.zeros((1, 4, 4, 4), np.float32), Target(labels), np.eye(4)) for n in range(9)
    ]
    monkeypatch.setattr(sampling, "HELD_BYTES", 3 * 256)
    monkeypatch.setattr(sampling, "_indices", {})
    for case in cases:
        sampling.index_of(case)
    assert list(sampling._indices) == [id(case) for case in cases[-3:]]
    assert sampling.index_of(cases[0]).voxels[1].tolist() == list(range(64))
