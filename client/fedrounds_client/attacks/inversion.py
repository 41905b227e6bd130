"""Gradient inversion: images rebuilt from an update, by looking for some whose gradient points the same way.

The attacker knows the network, its weights before the step and the classes (which are read off an update of one step
more easily than the images). Cosine distance between gradients and total variation are those of Geiping et al. 2020
(arXiv:2003.14053); the way down is L-BFGS in float64, as of Zhu et al. 2019 (arXiv:1906.08935): for the smooth
networks in which the attack goes best it takes hundreds of steps where a signed Adam takes ten thousand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from fedrounds_common.case import F32
from fedrounds_common.rng import torch_generator
from fedrounds_common.task import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

Gradients = Mapping[str, "Tensor"]
WINDOW = 7  # pixels of the window of SSIM
TINY = 1e-30  # the root of 0 has no slope


@final
@dataclass(frozen=True)
class Search:
    """How long is looked, in evaluations of the network; how much smoothness weighs; from how many starts."""

    evaluations: int = 1000
    smooth: float = 1e-4
    tries: int = 1


def gradients_of(network: nn.Module, task: Task, batch: Batch, *, create: bool = False) -> dict[str, Tensor]:
    """Of the batch's mean loss, by parameter; `create`: such that it can itself be differentiated."""
    named = {name: each for name, each in network.named_parameters() if each.requires_grad}
    loss = task.loss(network, batch, "", torch_generator(0, "loss")).mean()
    found = torch.autograd.grad(loss, list(named.values()), create_graph=create, allow_unused=True)
    return {name: one for name, one in zip(named, found, strict=True) if one is not None}


def invert(network: nn.Module, task: Task, wanted: Gradients, target: Tensor, grid: Sequence[int], how: Search) -> F32:
    """Images whose gradient points where `wanted` does.

    Args:
        network: as the update started from; it is left as it was. wanted: the gradient, or the update times -1, by
            parameter. target: (B, K), the examples' classes. grid: (C, *grid) of each image.

    Returns:
        (B, C, *grid), of several tries that whose gradient came nearest.
    """
    exact = deepcopy(network).double().train()
    aimed = {name: each.double() for name, each in wanted.items()}
    found = [_one_try(exact, task, aimed, target.double(), grid, how, number) for number in range(how.tries)]
    image = min(found, key=lambda pair: pair[0])[1]
    made: F32 = image.numpy().astype(np.float32)
    return made


def _one_try(
    network: nn.Module, task: Task, wanted: Gradients, target: Tensor, grid: Sequence[int], how: Search, number: int
) -> tuple[float, Tensor]:
    image = torch.randn((len(target), *grid), generator=torch_generator(number, "invert"), dtype=torch.float64)
    image.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [image], max_iter=how.evaluations, max_eval=how.evaluations, history_size=50, tolerance_grad=0.0,
        tolerance_change=1e-14, line_search_fn="strong_wolfe",
    )  # fmt: skip
    best: tuple[float, Tensor] = (math.inf, image.detach().clone())

    def closure() -> Tensor:
        nonlocal best
        made = gradients_of(network, task, Batch(image, target), create=True)
        distance = _cosine_distance(made, wanted)
        looked_for = distance + how.smooth * _variation(image)
        (image.grad,) = torch.autograd.grad(looked_for, [image])
        if float(looked_for.detach()) < best[0]:
            best = float(looked_for.detach()), image.detach().clone()
        return looked_for.detach()

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return best


def _cosine_distance(made: Gradients, wanted: Gradients) -> Tensor:
    """The mean over tensors: over all entries at once, the largest tensors alone would be looked at."""
    cosines = []
    for name, each in made.items():
        lengths = (each.square().sum() + TINY).sqrt() * (wanted[name].square().sum() + TINY).sqrt()
        cosines.append((each * wanted[name]).sum() / lengths)
    return 1 - torch.stack(cosines).mean()


def _variation(image: Tensor) -> Tensor:
    """Mean difference of neighbours, over all axes of the grid."""
    return torch.stack([image.diff(dim=axis).abs().mean() for axis in range(2, image.ndim)]).sum()


# ---------------------------------------------------------------- how like an image is to another


def matched(rebuilt: F32, truth: F32) -> F32:
    """The rebuilt images (B, C, *grid) in the order in which they are most like the true ones: a sum has none."""
    orders = permutations(range(len(truth)))
    best = max(orders, key=lambda order: sum(psnr(rebuilt[i], truth[j]) for j, i in enumerate(order)))
    return rebuilt[list(best)]


def psnr(rebuilt: F32, truth: F32) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the true image's range."""
    error = float(np.mean((rebuilt.astype(np.float64) - truth) ** 2))
    return 10 * float(np.log10(float(np.ptp(truth)) ** 2 / max(error, 1e-12)))


def ssim(rebuilt: F32, truth: F32) -> float:
    """Mean structural similarity of (C, *grid): Wang et al. 2004, uniform window of 7, K1 = 0.01, K2 = 0.03."""
    from scipy.ndimage import uniform_filter

    one, other = rebuilt.astype(np.float64), truth.astype(np.float64)
    size = (1, *(WINDOW,) * (truth.ndim - 1))

    def mean(
        array: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray(uniform_filter(array, size), np.float64)

    span = float(np.ptp(truth))
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    m, n = mean(one), mean(other)
    v, w, vw = mean(one * one) - m * m, mean(other * other) - n * n, mean(one * other) - m * n
    found = (2 * m * n + c1) * (2 * vw + c2) / ((m * m + n * n + c1) * (v + w + c2))
    return float(found.mean())
