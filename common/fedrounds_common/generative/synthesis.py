"""Making images with a trained module: for what is wanted, from a public seed, and the pool all cases are held against."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from torch.nn import functional

from fedrounds_common.arrays import digest, of_module
from fedrounds_common.case import F32
from fedrounds_common.generative import copies
from fedrounds_common.generative.conditions import over_grid
from fedrounds_common.generative.maker import Maker, Settings
from fedrounds_common.rng import torch_generator

if TYPE_CHECKING:
    from torch import Tensor, nn

AT_ONCE = 64  # images made in one go


@final
@dataclass(frozen=True)
class MadeImages:
    """Images (N, C, *grid) in [0, 1] that anybody who has the model can make, and their looks (N, D)."""

    images: F32
    looks: F32


_pools: dict[str, MadeImages] = {}
_digests: weakref.WeakKeyDictionary[nn.Module, tuple[list[int], str]] = weakref.WeakKeyDictionary()


def maker_of(network: nn.Module) -> Maker:
    """The module that makes images, also where something wraps it."""
    return next(part for part in network.modules() if isinstance(part, Maker))


def made(network: nn.Module, wanted: F32, settings: Settings, seed: int) -> F32:
    """wanted (N, Q) or (N, Q, *grid) → images (N, C, *grid) in [0, 1]; the module's mode is left as it was."""
    import torch

    maker, was_training = maker_of(network), network.training
    device = next(network.parameters()).device
    network.eval()
    found = []
    for start in range(0, len(wanted), AT_ONCE):
        part = torch.from_numpy(np.ascontiguousarray(wanted[start : start + AT_ONCE])).to(device)
        rng = torch_generator(seed, "made", start)
        found.append(maker.make(over_grid(part, maker.grid), rng, settings).float().cpu().numpy())
    network.train(was_training)
    return np.asarray((np.concatenate(found) + 1) / 2, np.float32).clip(0, 1)


def pool_of(network: nn.Module, wanted: F32, settings: Settings, seed: int) -> MadeImages:
    """The same for every site that judges these weights; made once a process for each of the last few models."""
    key = f"{_digest_of(network)} {settings} {seed} {wanted.shape} {wanted.sum(axis=0).tolist()}"
    if key not in _pools:
        images = made(network, wanted, settings, seed)
        while len(_pools) >= 4:
            _pools.pop(next(iter(_pools)))
        _pools[key] = MadeImages(images, np.stack([copies.look(image) for image in images]))
    return _pools[key]


def _digest_of(network: nn.Module) -> str:
    """Taken anew only where some weight was written to since."""
    versions = [tensor._version for tensor in network.state_dict().values()]
    if network not in _digests or _digests[network][0] != versions:
        _digests[network] = versions, digest(of_module(network))
    return _digests[network][1]


def forget() -> None:
    """Let go of every pool."""
    _pools.clear()


def framed(x: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, C, *any) → (B, C, *grid), as `grids.framed`."""
    lacking = [size - have for size, have in zip(grid, x.shape[2:], strict=True)]
    if not any(lacking):
        return x
    spans = [
        slice(-lack // 2, -lack // 2 + size) if lack < 0 else slice(None)
        for lack, size in zip(lacking, grid, strict=True)
    ]
    x = x[(slice(None), slice(None), *spans)]
    return functional.pad(
        x, [edge for lack in reversed(lacking) for edge in (max(lack, 0) // 2, max(lack, 0) - max(lack, 0) // 2)]
    )
