"""The two sides of a game: the logistic losses, and the penalty that keeps the discriminator gentle."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

DISCRIMINATOR, GENERATOR = "discriminator", "generator"
TURNS = (DISCRIMINATOR, GENERATOR)


def mean_of_each(values: Tensor) -> Tensor:
    """(B, ...) → (B,)"""
    return values.flatten(1).mean(1)


def fooled(made: Tensor) -> Tensor:
    """The generator's loss, not saturating (Goodfellow et al. 2014): logits (B, ...) of what it made → (B,)."""
    return mean_of_each(functional.softplus(-made))


def told_apart(real: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss: logits (B, ...) of real images and of made ones → (B,)."""
    return mean_of_each(functional.softplus(-real)) + mean_of_each(functional.softplus(made))


def slope(logits: Tensor, image: Tensor) -> Tensor:
    """R1: half the squared slope of the real images' logits, (B,); convergence near the solution rests on it.

    Source: Mescheder et al. 2018 (arXiv:1801.04406), equation 9.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    return 0.5 * gradient.flatten(1).square().sum(1)
