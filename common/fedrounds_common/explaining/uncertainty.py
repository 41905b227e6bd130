"""Where a segmentation is not sure of itself: by dropout left on, or by several models that differ.

Shapes: probabilities (K, *grid), of regions (a sigmoid each) or of labels (a softmax that starts with background).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from fedrounds_common.case import F32

if TYPE_CHECKING:
    from torch import nn

PASSES = 12  # of a network with dropout
LEAST = 1e-7  # a probability, before its logarithm


def entropy(probabilities: F32, *, exclusive: bool) -> F32:
    """How undecided it is, (*grid), in bits: of the softmax, or the largest over the sigmoids."""
    p = np.clip(probabilities.astype(np.float64), LEAST, 1 - LEAST)
    if exclusive:
        return np.asarray(-(p * np.log2(p)).sum(axis=0), np.float32)
    each = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return np.asarray(each.max(axis=0), np.float32)


def disagreement(members: Sequence[F32]) -> F32:
    """The standard deviation over several predictions, (*grid), the largest over the outputs.

    Of networks that were trained apart (Lakshminarayanan et al. 2017, arXiv:1612.01474), or of passes of one
    network with dropout on (Gal and Ghahramani 2016, arXiv:1506.02142).
    """
    return np.asarray(np.std(np.stack(members), axis=0, dtype=np.float64).max(axis=0), np.float32)


def dropouts(network: nn.Module) -> list[nn.Module]:
    """Its dropout layers that do something."""
    from torch.nn.modules.dropout import _DropoutNd

    return [module for module in network.modules() if isinstance(module, _DropoutNd) and module.p > 0]


@contextmanager
def dropping(network: nn.Module) -> Iterator[None]:
    """Dropout on, everything else as in judging; draws from torch's global generator: wrap it in `rng.seeded`."""
    layers = dropouts(network)
    forced = [layer.register_forward_pre_hook(_on) for layer in layers]
    try:
        yield
    finally:
        for hook in forced:
            hook.remove()
        for layer in layers:
            layer.train(network.training)


def _on(layer: nn.Module, inputs: object) -> None:
    # whoever judges calls eval() first, so it is switched on at each call
    layer.train()
