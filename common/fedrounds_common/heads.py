"""Last layers of classification: features (B, F) → logits (B, K); and what a task keeps on a network beside weights.

Shapes: x (B, C, *grid), or (B, C, S, *grid) of stacks of S slices; logits (B, K).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrounds_common.case import F32, F64
from fedrounds_common.discriminant import Rule
from fedrounds_common.errors import UsageError
from fedrounds_common.windows import Facts, facts_of

CLASS_WEIGHTS, TEMPERATURE = "class_weights", "temperature"  # buffers: they travel and are part of the digest
IMAGES_PER_CALL = 8


@final
class Discriminant(nn.Module):
    """Linear while it is trained; once settled (`discriminant.Rule`), squares of the features count too."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs)
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("square", torch.zeros(outputs, features))

    def forward(self, x: Tensor) -> Tensor:
        # around the centre, because squares of large numbers leave float32 no digits for their difference
        away = x - self.get_buffer("centre")
        logits: Tensor = self.linear(away)
        return logits + nn.functional.linear(away**2, self.get_buffer("square"))


def features_of(network: nn.Module) -> int:
    """How many features go into the network's last layer, `head`.

    Raises:
        UsageError: FR-U59 the network has no linear layer of that name.
    """
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Linear):
        found = f"the head of {type(network).__name__} is {type(head).__name__}"
        raise UsageError("FR-U59", found, wanted="a linear layer", do='set model.head = "linear"')
    return head.in_features


def width_of(network: nn.Module) -> int:
    """How many features go into a `Discriminant`."""
    head = network.get_submodule("head")
    assert isinstance(head, Discriminant)
    return head.linear.in_features


def tensors_of(rule: Rule) -> dict[str, F64]:
    """The entries of a state dict with a `Discriminant` as its head that say this rule."""
    return {
        "head.linear.weight": rule.weight,
        "head.linear.bias": rule.bias,
        "head.square": rule.square,
        "head.centre": rule.centre,
    }


def logits(network: nn.Module, x: Tensor, facts: Facts, part: Literal["logits", "features"] = "logits") -> Tensor:
    """What the network makes of x, (B, K) or features (B, F); zeros are added up to its divisor.

    Of a stack, unless the network takes stacks whole, the mean over its slices.
    """
    grid = x.shape[-facts.dims :]
    if any(size % facts.divisor for size in grid):
        x = functional.pad(x, [side for size in reversed(grid) for side in (0, -size % facts.divisor)])
    function = cast("Callable[[Tensor], Tensor]", network if part == "logits" else network.features)
    if x.ndim == facts.dims + 2 or getattr(network, "takes_stacks", False):
        return function(x)
    each = function(x.transpose(1, 2).flatten(0, 1))
    return each.reshape(x.shape[0], x.shape[2], -1).mean(1)


def judged(
    network: nn.Module, images: F32, amp: Literal["off", "bf16"], part: Literal["logits", "features"] = "logits"
) -> F64:
    """(N, ...) → (N, K) or (N, F), in evaluation mode on the network's own device; afterwards its mode is as it was."""
    facts, was_training = facts_of(network), network.training
    device = next(network.parameters()).device
    network.eval()
    try:
        found = []
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp == "bf16"):
            for start in range(0, len(images), IMAGES_PER_CALL):
                x = torch.from_numpy(np.array(images[start : start + IMAGES_PER_CALL], order="C")).to(device)
                found.append(logits(network, x, facts, part).double().cpu().numpy())
    finally:
        network.train(was_training)
    return np.concatenate(found)
