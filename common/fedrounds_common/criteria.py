"""Losses of classification, one value per example.

Shapes: logits and target (B, K); target is 0 or 1. `exclusive`: an example is of exactly one of the K classes
(softmax); otherwise of any number (a sigmoid each). `weights` (2, K): what a class counts where an example is not of
it, and where it is; of classes that exclude each other the second row alone counts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Name = Literal["cross-entropy", "focal", "svm", "svm-one-vs-rest"]


def loss(
    name: Name, logits: Tensor, target: Tensor, weights: Tensor, *, exclusive: bool, gamma: float, smoothing: float
) -> Tensor:
    """(B,): cross-entropy, focal loss, or the hinge loss of a linear support-vector machine.

    Args:
        gamma: the focal loss's exponent. smoothing: share of the target that is spread over all classes.
    """
    logits = logits.float()
    if name == "svm" and exclusive:
        return crammer_singer(logits, target) * _of_example(target, weights)
    if name in ("svm", "svm-one-vs-rest"):
        return (functional.relu(1 - (2 * target - 1) * logits) * _of_each(target, weights)).mean(1)
    return cross_entropy(
        logits, target, weights, exclusive=exclusive, gamma=gamma if name == "focal" else 0.0, smoothing=smoothing
    )


def crammer_singer(logits: Tensor, target: Tensor) -> Tensor:
    """(B,): by how much the best other class comes nearer than 1 to the true one (Crammer and Singer 2001)."""
    true = (logits * target).sum(1)
    other = logits.masked_fill(target > 0, -torch.inf).amax(1)
    return functional.relu(1 + other - true)


def cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor, *, exclusive: bool, gamma: float, smoothing: float
) -> Tensor:
    """(B,): cross-entropy, of sigmoids the mean over classes; each term times (1 − p of the truth)^gamma.

    Sources: Lin et al. 2017 (arXiv:1708.02002) for gamma; Szegedy et al. 2016 (arXiv:1512.00567) for smoothing.
    """
    if exclusive:
        logs = logits.log_softmax(1)
        spread = target * (1 - smoothing) + smoothing / target.shape[1]
        terms = -(spread * logs).sum(1)
        if gamma:
            terms = terms * (1 - (target * logs.exp()).sum(1)) ** gamma
        return terms * _of_example(target, weights)
    spread = target * (1 - smoothing) + smoothing / 2
    terms = functional.binary_cross_entropy_with_logits(logits, spread, reduction="none")
    if gamma:
        truth = torch.where(target > 0, logits.sigmoid(), (-logits).sigmoid())
        terms = terms * (1 - truth) ** gamma
    return (terms * _of_each(target, weights)).mean(1)


def _of_example(target: Tensor, weights: Tensor) -> Tensor:
    return (target * weights[1]).sum(1)


def _of_each(target: Tensor, weights: Tensor) -> Tensor:
    return torch.where(target > 0, weights[1], weights[0])
