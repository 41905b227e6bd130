"""Fields that move voxels: known maps, their flows, inverses and stretch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

from fedrounds_common.registration import fields, world

GRIDS = [(20, 24), (16, 20, 18)]
INSIDE = 4  # voxels from the edge: there a field goes on as at its border, which a linear one does not


def inner(field: Tensor) -> Tensor:
    return field[(slice(None), slice(None), *(slice(INSIDE, -INSIDE),) * (field.ndim - 2))]


def centred(grid: Sequence[int]) -> Tensor:
    return fields.voxels(grid) - torch.tensor([(size - 1) / 2 for size in grid]).view(1, -1, *(1,) * len(grid))


def linear(matrix: np.ndarray, grid: Sequence[int]) -> Tensor:
    """The field M x about the grid's middle."""
    return torch.einsum("ab,nb...->na...", torch.from_numpy(matrix).float(), centred(grid))


def waves(grid: Sequence[int], height: float, seed: int = 0) -> Tensor:
    """Smooth vectors of at most `height` voxels a component, still at the edge."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, len(grid), *(4,) * len(grid)), generator=draws) * 2 - 1
    smooth = fields.enlarged(coarse, grid)
    edge = torch.ones(1)
    for axis, size in enumerate(grid):
        line = torch.sin(math.pi * torch.arange(size) / (size - 1))
        edge = edge * line.view([-1 if other == axis else 1 for other in range(len(grid))])
    smooth = smooth * edge
    return smooth / smooth.abs().max() * height


def slopes(dims: int) -> np.ndarray:
    """A turn, a shear and a stretch, none of them the same on two axes."""
    matrix = np.array([[0.06, -0.10, 0.02], [0.12, -0.04, 0.05], [-0.03, 0.01, 0.08]])
    return matrix[:dims, :dims]


@pytest.mark.parametrize("grid", GRIDS)
def test_an_image_has_at_each_place_what_it_had_where_the_field_points(grid: tuple[int, ...]) -> None:
    image = torch.rand((1, 2, *grid), generator=torch.Generator().manual_seed(1))
    field = torch.zeros((1, len(grid), *grid))
    field[:, 0], field[:, -1] = 3, -2
    moved = fields.warp(image, field)
    torch.testing.assert_close(moved[:, :, :-3, ..., 2:], image[:, :, 3:, ..., :-2], rtol=0, atol=1e-5)
    # beyond the grid its last voxel goes on, or nothing does
    torch.testing.assert_close(moved[:, :, -1, ..., 2:], image[:, :, -1, ..., :-2], rtol=0, atol=1e-5)
    assert float(fields.warp(image, field, outside="zeros")[:, :, -1].abs().max()) == 0


def test_halfway_between_two_voxels_lies_their_mean() -> None:
    image = torch.tensor([[[[0.0, 4.0, 10.0]] * 3]])
    field = torch.zeros((1, 2, 3, 3))
    field[:, 1] = 0.5
    # (0 + 4) / 2, (4 + 10) / 2, and the edge
    torch.testing.assert_close(fields.warp(image, field)[0, 0, 1], torch.tensor([2.0, 7.0, 10.0]))


@pytest.mark.parametrize("grid", GRIDS)
def test_a_constant_velocity_flows_to_the_same_shift(grid: tuple[int, ...]) -> None:
    velocity = torch.full((1, len(grid), *grid), 1.75)
    torch.testing.assert_close(fields.integrate(velocity, 6), velocity, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_linear_velocity_flows_to_the_matrix_exponential(grid: tuple[int, ...]) -> None:
    matrix = slopes(len(grid))
    flowed = fields.integrate(linear(matrix, grid), 8)
    wanted = linear(expm(matrix) - np.eye(len(grid)), grid)
    torch.testing.assert_close(inner(flowed), inner(wanted), rtol=0, atol=0.01)
    # one step alone, x + M x, is not yet the flow
    assert float((inner(linear(matrix, grid)) - inner(wanted)).abs().max()) > 0.03


@pytest.mark.parametrize("grid", GRIDS)
def test_the_flow_of_the_reversed_velocity_leads_back(grid: tuple[int, ...]) -> None:
    velocity = waves(grid, 2.5)
    there, back = fields.integrate(velocity, 7), fields.integrate(-velocity, 7)
    missed = fields.compose(there, back).norm(dim=1)
    assert float(missed.mean()) < 0.03
    assert float(there.norm(dim=1).mean()) > 10 * float(missed.mean())
    # minus the displacement is another thing than the inverse
    assert float(fields.compose(there, -there).norm(dim=1).mean()) > 4 * float(missed.mean())


@pytest.mark.parametrize("grid", GRIDS)
def test_more_squarings_come_closer_to_the_flow(grid: tuple[int, ...]) -> None:
    velocity = waves(grid, 3.0)
    best = fields.integrate(velocity, 10)
    errors = [float((fields.integrate(velocity, squarings) - best).abs().mean()) for squarings in (1, 3, 5)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("grid", GRIDS)
def test_the_inverse_is_found_of_a_field_that_nobody_integrated(grid: tuple[int, ...]) -> None:
    field = waves(grid, 1.2, seed=3)
    back = fields.invert(field, rounds=60)
    assert float(fields.compose(back, field).abs().max()) < 1e-3
    assert float(fields.compose(field, back).norm(dim=1).mean()) < 0.06  # another interpolation lies in between


@pytest.mark.parametrize("grid", GRIDS)
def test_a_linear_map_stretches_by_its_determinant(grid: tuple[int, ...]) -> None:
    matrix = slopes(len(grid))
    stretch = fields.jacobian(linear(matrix, grid))
    torch.testing.assert_close(
        stretch, torch.full_like(stretch, np.linalg.det(np.eye(len(grid)) + matrix)), rtol=1e-4, atol=1e-4
    )


def test_a_map_that_turns_back_on_itself_folds_there_and_only_there() -> None:
    field = torch.zeros((1, 2, 30, 6))
    # x + u(x) falls between rows 10 and 20: 2 rows back for each one ahead
    rows = torch.arange(30.0)
    field[0, 0] = (-2 * (rows - 10).clamp(0, 10))[:, None]
    folded = fields.jacobian(field)[0] <= 0
    assert folded[11:20].all()
    assert not folded[:10].any()
    assert not folded[21:].any()


@pytest.mark.parametrize("grid", GRIDS)
def test_the_flow_of_a_steep_velocity_folds_less_than_the_velocity_taken_for_a_displacement(
    grid: tuple[int, ...],
) -> None:
    velocity = waves(grid, 7.0, seed=2)
    as_displacement = float((fields.jacobian(velocity) <= 0).double().mean())
    flowed = float((fields.jacobian(fields.integrate(velocity, 8)) <= 0).double().mean())
    assert as_displacement > 0.01
    assert flowed < as_displacement / 5


def test_an_axis_of_one_voxel_does_not_change() -> None:
    field = torch.zeros((1, 3, 8, 8, 1))
    torch.testing.assert_close(fields.jacobian(field), torch.ones((1, 8, 8, 1), dtype=torch.float64))
    assert torch.isfinite(fields.integrate(field + 0.5, 4)).all()
    assert torch.isfinite(fields.roughness(field, "bending")).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_a_field_of_blocks_lies_in_the_middle_of_their_voxels(grid: tuple[int, ...]) -> None:
    blocks = [size // 2 for size in grid]
    matrix = slopes(len(grid))
    # the same map counted in blocks: both axes and vectors are half as long
    large = fields.enlarged(linear(matrix, blocks), grid)
    torch.testing.assert_close(inner(large), inner(linear(matrix, grid)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_bending_lets_affine_maps_go_free_and_the_gradient_does_not(grid: tuple[int, ...]) -> None:
    matrix = slopes(len(grid))
    field = linear(matrix, grid) + 3
    assert float(fields.roughness(field, "bending")) < 1e-8
    # every first difference is an entry of the matrix
    assert float(fields.roughness(field, "gradient")) == pytest.approx(float((matrix**2).sum()), rel=1e-4)
    assert float(fields.roughness(waves(grid, 2.0), "bending")) > 1e-4


def test_roughness_is_told_of_each_example_by_itself() -> None:
    rough = torch.cat([waves((20, 24), 2.0), torch.zeros((1, 2, 20, 24))])
    found = fields.roughness(rough, "gradient")
    assert found.shape == (2,)
    assert float(found[0]) > 0 == float(found[1])


# ---------------------------------------------------------------- the world

# first axis to the left in steps of 2 mm, second upwards of 3, third backwards of 1.5
LIA = np.array([[-2.0, 0, 0, 40], [0, 0, -1.5, 12], [0, 3.0, 0, -7], [0, 0, 0, 1]])


def test_vectors_turn_with_the_grids_axes_and_places_shift_too() -> None:
    field = np.zeros((3, 2, 2, 2), np.float32)
    field[0], field[1], field[2] = 1, 2, 4
    mm = world.to_mm(field, LIA)
    # one voxel to the left is −2 mm to the right; 4 backwards of 1.5; 2 upwards of 3
    np.testing.assert_allclose(mm[:, 0, 0, 0], [-2, -6, 6])
    np.testing.assert_allclose(world.to_voxels(mm, LIA), field, atol=1e-6)
    places = np.array([[3.0, 4.0, 5.0], [0.0, 0.0, 0.0]])
    in_mm = (LIA[:3, :3] @ places.T).T + LIA[:3, 3]
    np.testing.assert_allclose(world.places_in(LIA, in_mm), places, atol=1e-12)


def test_a_pictures_world_is_its_rows_and_columns() -> None:
    affine = np.diag([0.5, 0.25, 1.0, 1.0])
    field = np.ones((2, 3, 3), np.float32)
    np.testing.assert_allclose(world.to_mm(field, affine)[:, 0, 0], [0.5, 0.25])
    np.testing.assert_allclose(world.places_in(affine, np.array([[1.0, 1.0]])), [[2.0, 4.0]])
