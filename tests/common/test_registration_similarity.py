"""Each measure of likeness falls as the images come to lie on each other; those for two kinds of image bear it."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedrounds_common.registration import fields, similarity
from fedrounds_common.rng import torch_generator

NAMES: tuple[similarity.Name, ...] = get_args(similarity.Name)
GRIDS = [(40, 36), (24, 28, 20)]


def blobs(grid: tuple[int, ...], seed: int = 0) -> Tensor:
    """(2, 1, *grid): smooth texture of variance 1, two examples."""
    coarse = torch.randn((2, 1, *(size // 4 for size in grid)), generator=torch.Generator().manual_seed(seed))
    image = functional.interpolate(coarse, grid, mode="trilinear" if len(grid) == 3 else "bilinear")
    return image / image.std()


def shifted(image: Tensor, by: float) -> Tensor:
    field = torch.zeros((len(image), image.ndim - 2, *image.shape[2:]))
    field[:, 0] = by
    return fields.warp(image, field)


def unlike(name: similarity.Name, fixed: Tensor, moved: Tensor) -> Tensor:
    return similarity.unlikeness(name, fixed, moved, 5, 32, torch_generator(0, "bins"))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_each_falls_step_by_step_towards_alignment(name: similarity.Name, grid: tuple[int, ...]) -> None:
    image = blobs(grid)
    found = torch.stack([unlike(name, image, shifted(image, by)) for by in (3.0, 2.0, 1.0, 0.0)])
    assert found.shape == (4, 2), "one value an example"
    assert (found.diff(dim=0) < 0).all()
    assert (found >= -1e-5).all()


@pytest.mark.parametrize("name", ["mse", "lncc", "mind"])
def test_of_an_image_with_itself_nothing_is_left(name: similarity.Name) -> None:
    image = blobs((24, 28, 20))
    assert float(unlike(name, image, image).max()) < 2e-3


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_each_slope_leads_to_alignment(name: similarity.Name, grid: tuple[int, ...]) -> None:
    image = blobs(grid)
    moving = shifted(image, -1.5)  # it must be moved by +1.5
    by = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([by], 0.1)
    for _ in range(40):
        field = torch.zeros((2, len(grid), *grid))
        field = torch.cat([field[:, :1] + by.view(-1, 1, *(1,) * len(grid)), field[:, 1:]], dim=1)
        value = unlike(name, image, fields.warp(moving, field)).sum()
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    torch.testing.assert_close(by.detach(), torch.full((2,), 1.5), rtol=0, atol=0.25)


def inverted(image: Tensor) -> Tensor:
    return -image


def folded(image: Tensor) -> Tensor:
    """Dark and bright both become bright, as between two contrasts of one tissue."""
    return (image - 0.4).abs()


@pytest.mark.parametrize("contrast", [inverted, folded])
@pytest.mark.parametrize("name", ["mi", "mind"])
def test_two_kinds_of_image_are_told_to_lie_on_each_other(
    name: similarity.Name, contrast: Callable[[Tensor], Tensor]
) -> None:
    image = blobs((40, 36))
    found = [float(unlike(name, image, shifted(contrast(image), by)).mean()) for by in (3.0, 1.5, 0.0)]
    assert found[0] > found[1] > found[2]


def test_squared_differences_are_misled_by_another_contrast() -> None:
    image = blobs((40, 36))
    found = [float(unlike("mse", image, shifted(inverted(image), by)).mean()) for by in (6.0, 0.0)]
    assert found[0] < found[1]


def test_local_correlation_is_not_moved_by_gain_and_shading() -> None:
    image = blobs((40, 36))
    shading = torch.linspace(0.5, 2.0, 40).view(1, 1, -1, 1)
    assert float(unlike("lncc", image, image * shading + 3).max()) < 0.03
    assert float(unlike("mse", image, image * shading + 3).max()) > 1


def test_a_flat_window_says_nothing_and_breaks_nothing() -> None:
    flat = torch.zeros((1, 1, 16, 16), requires_grad=True)
    for name in NAMES:
        value = unlike(name, torch.zeros((1, 1, 16, 16)), flat)
        value.sum().backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(value).all(), name
        assert flat.grad is not None
        assert torch.isfinite(flat.grad).all(), name
        flat.grad = None


def test_the_windows_of_a_value_share_it_whole() -> None:
    values = torch.rand((1, 1, 500))
    weights = similarity.parzen(values, 16)
    torch.testing.assert_close(weights.sum(-1), torch.ones((1, 1, 500)), rtol=0, atol=1e-5)
    assert float(weights.min()) >= 0


def test_a_histogram_of_a_large_image_is_of_voxels_that_the_seed_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "MOST_VOXELS", 300)
    a, b = blobs((40, 36)), blobs((40, 36), seed=1)
    once, again, other = (similarity.mutual_information(a, b, 16, torch_generator(seed, "bins")) for seed in (1, 1, 2))
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    assert not torch.equal(once, other)


@pytest.mark.parametrize(("grid", "pairs"), [((20, 20), 4), ((12, 12, 12), 12)])
def test_self_similarity_has_a_channel_for_each_pair_of_neighbours_at_a_right_angle(
    grid: tuple[int, ...], pairs: int
) -> None:
    described = similarity.mind(blobs(grid))
    assert described.shape == (2, pairs, *grid)
    assert float(described.max()) <= 1
    assert float(described.amax(1).min()) == 1, "the most alike pair of each voxel counts 1"
