"""Surface distances: cubes that were moved, brute force, and MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics.hausdorff_distance import compute_hausdorff_distance

from fedrounds_common.case import F64
from fedrounds_common.metrics import surface
from fedrounds_common.metrics.overlap import Mask

some = arrays(np.bool_, (4, 5, 3)).filter(lambda mask: bool(mask.any()))
spacings = st.tuples(*(st.sampled_from([0.5, 1.0, 2.5]),) * 3)


def cube(start: tuple[int, ...], size: int = 4, grid: tuple[int, ...] = (20, 20, 20)) -> Mask:
    mask = np.zeros(grid, bool)
    mask[tuple(slice(low, low + size) for low in start)] = True
    return mask


def voxels_with_a_free_face(mask: Mask) -> list[tuple[int, ...]]:
    """Written the long way: a voxel is on the surface if a face neighbour is off the mask or off the grid."""
    found = []
    for voxel in map(tuple, np.argwhere(mask)):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                other = list(voxel)
                other[axis] += step
                outside = not 0 <= other[axis] < mask.shape[axis]
                if (outside or not mask[tuple(other)]) and voxel not in found:
                    found.append(voxel)
    return found


def brute(a: Mask, b: Mask, spacing: tuple[float, ...]) -> tuple[F64, F64]:
    first, second = (np.array(voxels_with_a_free_face(mask)) * spacing for mask in (a, b))
    distances = np.linalg.norm(first[:, None] - second[None], axis=-1)
    return distances.min(axis=1), distances.min(axis=0)


@pytest.mark.parametrize(("spacing", "distance"), [((1.0, 1.0, 1.0), 2.0), ((3.0, 1.0, 1.0), 6.0)])
def test_a_cube_moved_by_two_voxels_is_two_voxels_away(spacing: tuple[float, ...], distance: float) -> None:
    assert surface.hd95(cube((5, 5, 5)), cube((7, 5, 5)), spacing) == pytest.approx(distance)


def test_the_spacing_of_each_axis_is_its_own() -> None:
    a = np.zeros((1, 9, 9), bool)
    b = a.copy()
    a[0, 1, 1] = b[0, 4, 5] = True
    # 3 rows of 2 mm, 4 columns of 0.5 mm: √(6² + 2²)
    assert surface.hd95(a, b, (7.0, 2.0, 0.5)) == pytest.approx(np.sqrt(40))


def test_the_larger_direction_counts_whichever_it_is() -> None:
    small, both = cube((2, 2, 2)), cube((2, 2, 2)) | cube((14, 2, 2))
    # every voxel of `small` is on `both`; half of `both` is 8 to 11 mm off and up
    assert surface.hd95(small, both, (1, 1, 1)) == surface.hd95(both, small, (1, 1, 1)) > 8


def test_only_the_farthest_twentieth_is_forgiven() -> None:
    line = np.zeros((1, 1, 100), bool)
    line[..., :95] = True
    longer = line.copy()
    longer[..., 95:] = True
    # 100 surface voxels of the longer: 95 zeros, then 1 to 5; rank 0.95 · 99 = 94.05
    # lies a twentieth of the way from the last 0 to the 1
    assert surface.hd95(longer, line, (1, 1, 1)) == pytest.approx(0.05)


def test_the_surface_is_what_has_a_free_face_and_the_edge_is_free() -> None:
    # a 4³ cube has 2³ voxels inside; in a corner of the grid too
    assert surface.surface(cube((5, 5, 5))).sum() == 64 - 8
    assert surface.surface(cube((0, 0, 0))).sum() == 64 - 8
    assert surface.surface(np.ones((3, 3), bool)).sum() == 8


@settings(max_examples=60, deadline=None)
@given(some, some, spacings)
def test_distances_are_those_of_brute_force(a: Mask, b: Mask, spacing: tuple[float, ...]) -> None:
    for ours, theirs in zip(surface.surface_distances(a, b, spacing), brute(a, b, spacing), strict=True):
        np.testing.assert_allclose(np.sort(ours), np.sort(theirs), atol=1e-12)
    there, back = brute(a, b, spacing)
    expected = max(np.percentile(there, 95), np.percentile(back, 95))
    assert surface.hd95(a, b, spacing) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(some, some, spacings)
def test_hd95_is_monais(a: Mask, b: Mask, spacing: tuple[float, ...]) -> None:
    theirs = compute_hausdorff_distance(
        torch.from_numpy(a)[None, None],
        torch.from_numpy(b)[None, None],
        include_background=True,
        percentile=95,
        spacing=spacing,
    )
    assert surface.hd95(a, b, spacing) == pytest.approx(float(theirs), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(some, some, spacings)
def test_hd95_is_symmetric_and_no_more_than_the_diagonal(a: Mask, b: Mask, spacing: tuple[float, ...]) -> None:
    value = surface.hd95(a, b, spacing)
    assert value == surface.hd95(b, a, spacing)
    assert 0 <= value <= surface.diagonal_mm(a.shape, spacing) + 1e-9


@given(some)
def test_a_mask_is_0_mm_from_itself(mask: Mask) -> None:
    assert surface.hd95(mask, mask, (1, 1, 1)) == 0


def test_the_diagonal_joins_the_centres_of_opposite_corners() -> None:
    assert surface.diagonal_mm((240, 240, 155), (1, 1, 1)) == pytest.approx(371.43, abs=0.005)
    # 3 steps of 2 mm and 4 of 2 mm: √(6² + 8²)
    assert surface.diagonal_mm((4, 5), (2, 2)) == pytest.approx(10)


def test_distances_to_an_empty_mask_are_an_error() -> None:
    full, empty = cube((1, 1, 1)), np.zeros((20, 20, 20), bool)
    for a, b in ((full, empty), (empty, full), (empty, empty)):
        for measure in (surface.hd95, surface.hd95_of_stack):
            with pytest.raises(ValueError, match="a surface distance needs two masks, and one is empty"):
                measure(a, b, (1, 1, 1))


def test_the_bounding_box_holds_all_and_no_more() -> None:
    mask = np.zeros((6, 7, 8), bool)
    mask[2, 1, 3] = mask[4, 1, 7] = True
    assert surface.bounding_box(mask) == (slice(2, 5), slice(1, 2), slice(3, 8))
    with pytest.raises(ValueError, match="an empty mask has no bounding box"):
        surface.bounding_box(np.zeros((2, 2), bool))


# ---------------------------------------------------------------- stacks


def stack(*slices: tuple[int, int] | None) -> Mask:
    """One pixel a slice of 5 x 5, or none."""
    mask = np.zeros((len(slices), 5, 5), bool)
    for plane, pixel in zip(mask, slices, strict=True):
        if pixel:
            plane[pixel] = True
    return mask


def test_a_stack_is_measured_in_its_planes() -> None:
    a, b = stack((0, 0), (1, 1)), stack((0, 3), (1, 1))
    # slice 1: 3 columns of 2 mm; slice 2: 0. Pooled {6, 0}: the 95th percentile is 5.7.
    # Through the planes the pixel above would be nearer, whatever the distance between slices
    assert surface.hd95_of_stack(a, b, (0.001, 1, 2)) == pytest.approx(5.7)
    assert surface.hd95(a, b, (0.001, 1, 2)) < 5


def test_a_slice_with_one_mask_counts_the_planes_diagonal() -> None:
    # slices 2 and 3: one mask each, √(4² + (4 · 2)²) = 8.94 mm; slice 4: none, no distance
    diagonal = np.sqrt(80)
    a, b = stack((2, 2), (1, 1), None, None), stack((2, 2), None, (3, 3), None)
    assert surface.hd95_of_stack(a, b, (9, 1, 2)) == pytest.approx(np.percentile([0, diagonal], 95))
    a, b = stack((2, 2), (1, 1)), stack((2, 2), None)
    # from the prediction {0, diagonal}, from the reference {0}: the larger counts
    assert surface.hd95_of_stack(a, b, (9, 1, 2)) == pytest.approx(0.95 * diagonal)
    assert surface.hd95_of_stack(b, a, (9, 1, 2)) == pytest.approx(0.95 * diagonal)


def test_a_lone_slice_counts_by_its_surface_and_not_its_area() -> None:
    a, b = np.zeros((2, 5, 5), bool), np.zeros((2, 5, 5), bool)
    a[0, 0, 0] = b[0, 0, 0] = True
    a[1, 1:4, 1:4] = True
    # 8 of its 9 pixels are surface: {0} and 8 diagonals of √32; of 9 values rank 7.6 is the diagonal
    assert surface.hd95_of_stack(a, b, (1, 1, 1)) == pytest.approx(np.sqrt(32))
    pooled = [0.0] + [np.sqrt(32)] * 8
    assert surface.hd95_of_stack(a, b, (1, 1, 1)) == pytest.approx(np.percentile(pooled, 95))


def test_a_stack_of_one_slice_is_a_picture() -> None:
    a, b = cube((2, 2), 3, (9, 9)), cube((4, 5), 3, (9, 9))
    assert surface.hd95_of_stack(a[None], b[None], (5, 1, 2)) == pytest.approx(surface.hd95(a, b, (1, 2)))
