"""How a network moves a pair of images: there, from the fixed to the moving one, and back.

Shapes: a pair is (B, 2 C, *grid), fixed and then moving; fields as in `fields`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrounds_common import windows
from fedrounds_common.registration import fields


@final
@dataclass(frozen=True)
class Motion:
    """Displacements in voxels (B, A, *grid), and the velocity that `there` flows from, in blocks (B, A, *blocks)."""

    there: Tensor
    back: Tensor
    velocity: Tensor


def halves(pair: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2 C, *grid) → the fixed images and the moving ones, (B, C, *grid) each."""
    fixed, moving = pair.tensor_split(2, dim=1)
    return fixed, moving


def turned_round(pair: Tensor) -> Tensor:
    return torch.cat(halves(pair)[::-1], dim=1)


def motion(network: nn.Module, pair: Tensor, squarings: int, *, symmetric: bool) -> Motion:
    """What the network says of each pair.

    Args:
        symmetric: of the pair turned round it must say the reverse, so the mean of what it says of the pair and of
            minus what it says then is taken: the way back is the inverse, whichever image was called fixed.
    """
    grid = pair.shape[2:]
    pair = _padded(pair, windows.facts_of(network).divisor)
    velocity = network(pair)
    if symmetric:
        velocity = (velocity - network(turned_round(pair))) / 2
    velocity = _in_blocks(velocity.float(), pair.shape[2:])
    return Motion(
        _flow(velocity, pair.shape[2:], grid, squarings), _flow(-velocity, pair.shape[2:], grid, squarings), velocity
    )


def both_ways(network: nn.Module, pair: Tensor, squarings: int, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The displacement of one pair (1, 2 C, *grid), and that of the pair turned round, each as the network says it."""
    grid = pair.shape[2:]
    pair = _padded(pair, windows.facts_of(network).divisor)
    # the two together: torch's CPU path for one small 3D example is up to 11 times slower than for two
    there, back = network(torch.cat([pair, turned_round(pair)])).float().tensor_split(2)
    if symmetric:
        there, back = (there - back) / 2, (back - there) / 2
    one, other = (
        _flow(_in_blocks(velocity, pair.shape[2:]), pair.shape[2:], grid, squarings) for velocity in (there, back)
    )
    return one, other


@contextmanager
def judging(network: nn.Module, amp: Literal["off", "bf16"]) -> Iterator[torch.device]:
    """The network's device, while it is in evaluation mode; afterwards it is in the mode it was in."""
    was_training = network.training
    device = next(network.parameters()).device
    network.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp == "bf16"):
            yield device
    finally:
        network.train(was_training)


def _padded(pair: Tensor, divisor: int) -> Tensor:
    """The last voxels go on up to the next multiple of the divisor: zeros would make an edge that moves with nobody."""
    lacking = [-size % divisor for size in pair.shape[2:]]
    if not any(lacking):
        return pair
    return functional.pad(pair, [amount for size in reversed(lacking) for amount in (0, size)], mode="replicate")


def _in_blocks(velocity: Tensor, grid: Sequence[int]) -> Tensor:
    sizes = [blocks / voxels for blocks, voxels in zip(velocity.shape[2:], grid, strict=True)]
    return velocity * torch.tensor(sizes).to(velocity).view(1, -1, *(1,) * len(grid))


def _flow(velocity: Tensor, padded: Sequence[int], grid: Sequence[int], squarings: int) -> Tensor:
    whole = fields.enlarged(fields.integrate(velocity, squarings), padded)
    return whole[(slice(None), slice(None), *(slice(size) for size in grid))]
