"""What a transformer attends to: attention rolled out over its layers (Abnar and Zuidema 2020, arXiv:2005.00928)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedrounds_common.case import F32
from fedrounds_common.errors import UsageError


def attends(network: nn.Module) -> bool:
    return bool(_layers(network))


def rollout(network: nn.Module, image: F32, output: int) -> F32:
    """How much each patch of the image (C, *grid) reaches the answer, (*grid); the same whatever class is asked for.

    Each layer's attention is averaged over its heads, half of it replaced by the identity (the residual path), and
    the layers are multiplied. Read in the row of the class token, or over all rows where there is none.

    Raises:
        UsageError: FR-U81 the network has no attention over patches of this image.
    """
    layers, found = _layers(network), list[Tensor]()
    before = [(layer.save_attn, layer.use_flash_attention) for layer in layers]
    training = network.training
    network.eval()
    for layer in layers:
        layer.save_attn, layer.use_flash_attention = True, False
    try:
        with torch.no_grad():
            network(torch.from_numpy(np.array(image))[None])
        found = [layer.att_mat.float() for layer in layers]
    finally:
        network.train(training)
        for layer, (saved, flash) in zip(layers, before, strict=True):
            layer.save_attn, layer.use_flash_attention = saved, flash
            layer.att_mat = torch.Tensor()
    if not found:
        raise UsageError("FR-U81", f"{type(network).__name__} has no attention over patches", wanted="a transformer")
    return _onto_grid(_rolled(found), image.shape[1:])


def _layers(network: nn.Module) -> list[Any]:
    """MONAI's self-attention blocks, in the order of the calculation."""
    return [module for module in network.modules() if hasattr(module, "att_mat") and hasattr(module, "save_attn")]


def _rolled(layers: list[Tensor]) -> Tensor:
    """(1, heads, T, T) a layer → (T,) how much each token reaches the last layer's answer, and the class token."""
    tokens = layers[0].shape[-1]
    total = torch.eye(tokens)
    for attention in layers:
        mixed = 0.5 * attention[0].mean(0) + 0.5 * torch.eye(tokens)
        total = mixed / mixed.sum(-1, keepdim=True) @ total
    return total


def _onto_grid(reach: Tensor, grid: tuple[int, ...]) -> F32:
    tokens = len(reach)
    with_class = _patches(tokens - 1, grid)
    small = with_class or _patches(tokens, grid)
    if small is None:
        raise UsageError("FR-U81", f"{tokens} tokens for a grid of {grid}", wanted="patches of one size, side by side")
    row = reach[0, 1:] if with_class else reach.mean(0)
    mode = {2: "bilinear", 3: "trilinear"}[len(grid)]
    large = nn.functional.interpolate(row.reshape(1, 1, *small), size=grid, mode=mode, align_corners=False)
    heat: F32 = large[0, 0].numpy()
    return heat


def _patches(tokens: int, grid: tuple[int, ...]) -> tuple[int, ...] | None:
    """How many patches lie along each axis, if so many square ones fill the grid."""
    if tokens < 1:
        return None
    side = round((math.prod(grid) / tokens) ** (1 / len(grid)))
    if side < 1 or any(size % side for size in grid):
        return None
    small = tuple(size // side for size in grid)
    return small if math.prod(small) == tokens else None
