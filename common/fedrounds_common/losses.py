"""Losses of segmentation, one value per example.

Shapes: logits and target (B, K, *grid); target is 0 or 1. `exclusive`: the K outputs are classes of
one softmax, background first; otherwise each is a region with a sigmoid of its own.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Name = Literal["dice", "dice+ce", "dice+focal", "mirrored-dice"]
NAMES: tuple[Name, ...] = get_args(Name)


def loss(name: Name, logits: Tensor, target: Tensor, *, exclusive: bool, smooth: float, gamma: float = 2.0) -> Tensor:
    """(B,): Dice, alone or plus a mean over voxels of cross-entropy or focal loss; or mirrored Dice.

    Args:
        smooth: voxels added above and below Dice's fraction; it is what an empty region learns from.
        gamma: the focal loss's exponent.
    """
    logits = logits.float()
    probabilities = logits.softmax(1) if exclusive else logits.sigmoid()
    scored = slice(1, None) if exclusive else slice(None)  # background's Dice is near 1 and says little
    p, t = probabilities[:, scored], target[:, scored]
    if name == "mirrored-dice":
        return 1 - (soft_dice(p, t, smooth) + soft_dice(1 - p, 1 - t, smooth)).mean(1) / 2
    dice = 1 - soft_dice(p, t, smooth).mean(1)
    if name == "dice":
        return dice
    return dice + cross_entropy(logits, target, exclusive=exclusive, gamma=gamma if name == "dice+focal" else 0.0)


def soft_dice(p: Tensor, t: Tensor, smooth: float) -> Tensor:
    """(B, K): (2 Σ p t + smooth) / (Σ p + Σ t + smooth), sums over voxels."""
    both = (p * t).flatten(2).sum(2)
    sizes = p.flatten(2).sum(2) + t.flatten(2).sum(2)
    return (2 * both + smooth) / (sizes + smooth)


def cross_entropy(logits: Tensor, target: Tensor, *, exclusive: bool, gamma: float = 0.0) -> Tensor:
    """(B,): cross-entropy, mean over voxels (and regions); each term times (1 − p of the truth)^gamma.

    Source of gamma: Lin et al. 2017 (arXiv:1708.02002), without its class weight.
    """
    if exclusive:
        terms = -(target * logits.log_softmax(1)).sum(1, keepdim=True)
    else:
        terms = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if gamma:
        terms = terms * (1 - torch.exp(-terms)) ** gamma
    return terms.flatten(1).mean(1)
