"""Gradient inversion: what it is told is what leaves, its measures are right, and it finds an image that can be found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrounds_client.attacks.inversion import Search, gradients_of, invert, matched, psnr, ssim
from fedrounds_client.attacks.membership import confidence, half_of, likelihood
from fedrounds_common.case import Case, CaseRef
from fedrounds_common.task import Batch


@dataclass(frozen=True)
class Squares:
    """Half the squared error of a network's answers: all that an inversion asks of a task."""

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        found: Tensor = ((network(batch.image.flatten(1)) - batch.target) ** 2).sum(1) / 2
        return found


def image_of(seed: int, side: int = 5) -> Any:
    return np.random.default_rng(seed).normal(size=(1, 1, side, side)).astype(np.float32)


def alike(found: Any, truth: Any) -> float:
    """Correlation: a cosine says nothing of the length."""
    return float(np.corrcoef(found.ravel(), truth.ravel())[0, 1])


def test_an_image_is_found_from_the_gradient_of_a_dense_layer() -> None:
    # the gradient of a dense layer is error times image: its direction is the image's own
    generator = torch.Generator().manual_seed(1)
    network: nn.Module = nn.Sequential(nn.Linear(25, 12), nn.Softplus(), nn.Linear(12, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    truth, task = image_of(3), Squares()
    target = torch.tensor([[1.0]])
    wanted = gradients_of(network, task, Batch(torch.from_numpy(truth), target))  # type: ignore[arg-type]
    found = invert(network, task, wanted, target, (1, 5, 5), Search(300, smooth=0.0))  # type: ignore[arg-type]
    assert alike(found, truth) > 0.99
    noisy = {name: torch.randn(each.shape, generator=generator) for name, each in wanted.items()}
    lost = invert(network, task, noisy, target, (1, 5, 5), Search(300, smooth=0.0))  # type: ignore[arg-type]
    assert alike(lost, truth) < 0.9


def test_psnr_is_ten_logs_of_range_squared_over_error() -> None:
    truth = np.array([[[0.0, 1.0], [0.0, 1.0]]], np.float32)
    # range 1, mean squared error 0.01: 20 dB
    assert psnr(truth + np.float32(0.1), truth) == pytest.approx(20, abs=1e-3)


def test_ssim_of_an_image_with_itself_is_one_and_of_noise_about_none() -> None:
    truth = image_of(1, 28)[0]
    assert ssim(truth, truth) == pytest.approx(1)
    assert abs(ssim(image_of(2, 28)[0], truth)) < 0.1


def test_rebuilt_images_are_held_against_the_ones_they_are_most_like() -> None:
    truth = np.concatenate([image_of(1), image_of(2), image_of(3)])
    np.testing.assert_array_equal(matched(truth[[2, 0, 1]], truth), truth)


# ---------------------------------------------------------------- membership


def test_a_case_whose_loss_only_models_that_had_it_reach_is_called_a_member() -> None:
    taken = np.array([[True, False], [True, False], [False, True], [False, True]])
    # confidence: 3 where it was in, 0 where it was not, of both cases
    seen = np.where(taken, 3.0, 0.0) + np.array([[0.1], [-0.1], [0.1], [-0.1]])
    member, other = likelihood(taken, seen, np.array([3.0, 0.0]))
    assert member > 10
    assert other < -10


def test_of_a_patient_with_several_pictures_all_are_in_a_shadow_model_or_none() -> None:
    image = np.zeros((1, 2, 2), np.float32)
    cases = [Case(CaseRef(f"{place}", f"patient {place % 6}"), image, None, np.eye(4)) for place in range(18)]
    one, other = half_of(cases, 1, 0), half_of(cases, 1, 1)
    assert sorted([*one, *other]) == list(range(18))
    assert len({place % 6 for place in one}) == 3
    assert not {place % 6 for place in one} & {place % 6 for place in other}
    assert sorted(half_of(cases, 1, 2)) != sorted(one)


def test_confidence_is_the_log_odds_of_the_right_answer() -> None:
    # loss ln 2: probability a half
    np.testing.assert_allclose(confidence(np.array([np.log(2), -np.log(0.9)])), [0, np.log(9)], atol=1e-9)
    assert np.isfinite(confidence(np.array([0.0, np.nan, 1e9]))).all()
