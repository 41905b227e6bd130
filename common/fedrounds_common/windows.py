"""Run a network over a whole image: pad to its divisor, slide windows, weigh them by a Gaussian.

Shapes: images (N, C, *grid), N = 1 for a volume, N = slices for a stack of a 2D study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product
from math import ceil, prod
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrounds_common.errors import UsageError

FACTS = "fedrounds_facts"
SMALL = 2**18  # voxels of a 3D example (64³) up to which torch's CPU path for one is slower than for two
AT_ONCE = 2**20  # voxels that go through a network in one call: more of them take memory, and no less time each
SIGMA = 0.125  # of the window's size: nnU-Net's and MONAI's importance map


@final
@dataclass(frozen=True)
class Facts:
    """What code that holds only the module must know: pad to `divisor`; one softmax (`exclusive`) or sigmoids.

    `dims`: axes of the grid, where images and stacks of them must be told apart; 0 where nobody asks.
    """

    divisor: int
    exclusive: bool
    dims: int = 0


def note(network: nn.Module, facts: Facts) -> nn.Module:
    # an attribute and not a wrapper: a wrapper would rename every entry of the state dict
    setattr(network, FACTS, facts)
    return network


def facts_of(network: nn.Module) -> Facts:
    """The facts a task noted on its network, also where something wraps it (Opacus, DataParallel).

    Raises:
        UsageError: the module was not built by a task.
    """
    facts = next((found for part in network.modules() if (found := getattr(part, FACTS, None))), None)
    if not isinstance(facts, Facts):
        raise UsageError(
            "FR-U40", f"a bare {type(network).__name__}", wanted="a network built by the task's own `network`"
        )
    return facts


def padded(network: nn.Module, x: Tensor) -> Tensor:
    """Logits (B, K, *grid) of x (B, C, *grid); zeros are added up to the network's divisor, and cut off again."""
    divisor = facts_of(network).divisor
    grid = x.shape[2:]
    x = _pad(x, [(0, -size % divisor) for size in grid])
    logits: Tensor = network(x)
    return logits[_whole(2, [slice(size) for size in grid])]


@contextmanager
def judging(network: nn.Module, amp: Literal["off", "bf16"]) -> Iterator[Callable[[Tensor], Tensor]]:
    """A function from images to probabilities on the network's own device, in evaluation mode.

    Afterwards the network is in the mode it was in.
    """
    facts, was_training = facts_of(network), network.training
    device = next(network.parameters()).device

    def probabilities(x: Tensor) -> Tensor:
        if len(x) == 1 and x.ndim == 5 and x[0, 0].numel() <= SMALL and device.type == "cpu":
            # up to 11 times slower; of a large one two take three times as long as one
            return probabilities(x.expand(2, *x.shape[1:]).contiguous())[:1]
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp == "bf16"):
            logits = padded(network, x.to(device)).float()
        return logits.softmax(1) if facts.exclusive else logits.sigmoid()

    network.eval()
    try:
        yield probabilities
    finally:
        network.train(was_training)


def at_once(window: Sequence[int], most: int = 4) -> int:
    """How many windows go through a network in one call."""
    return max(1, min(most, AT_ONCE // prod(window)))


def slide(
    function: Callable[[Tensor], Tensor], images: Tensor, window: Sequence[int], overlap: float, batch: int
) -> Tensor:
    """Average `function` over windows that overlap, each weighed by a Gaussian around its centre.

    Args:
        function: (B, C, *window) → (B, K, *window).
        images: (N, C, *grid); axes shorter than the window are padded with zeros on both sides.
        window: one size a grid axis.
        overlap: share of the window, in [0, 1), by which neighbours overlap.
        batch: windows per call.

    Returns:
        (N, K, *grid), float32. Equal to `monai.inferers.sliding_window_inference(mode="gaussian")`.
    """
    grid = images.shape[2:]
    lacking = [max(size - have, 0) for size, have in zip(window, grid, strict=True)]
    padding = [(lack // 2, lack - lack // 2) for lack in lacking]
    images = _pad(images, padding)
    corners = list(product(*(starts(h, w, overlap) for h, w in zip(images.shape[2:], window, strict=True))))
    weight = _importance(window)
    total, weights = None, torch.zeros(images.shape[2:])
    for corner in corners:
        weights[_at(corner, window)] += weight
    places = iter([(n, _at(corner, window)) for n in range(len(images)) for corner in corners])
    while group := list(islice(places, batch)):
        values = function(torch.stack([images[n][_whole(1, place)] for n, place in group])).float()
        if total is None:
            total = torch.zeros((len(images), values.shape[1], *images.shape[2:]), device=values.device)
            weight, weights = weight.to(values.device), weights.to(values.device)
        for (n, place), value in zip(group, values, strict=True):
            total[n][_whole(1, place)] += value * weight
    if total is None:
        raise ValueError("no image to predict")
    inside = [slice(low, low + size) for (low, _), size in zip(padding, grid, strict=True)]
    return (total / weights)[_whole(2, inside)]


def _whole(axes: int, spans: Sequence[slice]) -> tuple[slice, ...]:
    """An index that takes the first axes whole, then the spans of the grid."""
    return (*(slice(None),) * axes, *spans)


def _at(corner: Sequence[int], window: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(corner, window, strict=True))


def starts(have: int, size: int, overlap: float) -> list[int]:
    """Where windows begin along one axis: evenly spaced, the last one moved back to end at the edge."""
    step = max(int(size * (1 - overlap)), 1) if have > size else size
    count = ceil((have - size) / step) + 1
    return [min(index * step, have - size) for index in range(count)]


def _importance(window: Sequence[int]) -> Tensor:
    weight = torch.ones(())
    for size in window:
        x = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        weight = weight.unsqueeze(-1) * torch.exp(-(x**2) / (2 * (SIGMA * size) ** 2))
    # a corner of a 3D Gaussian underflows to weights whose ratio is rounding noise
    return weight.clamp_min(1e-3)


def _pad(x: Tensor, padding: Sequence[tuple[int, int]]) -> Tensor:
    """Zeros before and after each grid axis; torch counts axes from the last."""
    if not any(low or high for low, high in padding):
        return x
    return functional.pad(x, [amount for low, high in reversed(padding) for amount in (low, high)])
