"""Image-to-image synthesis: a network that gives maps, and where a game is played a judge of neighbourhoods.

Source: Isola et al. 2017 (arXiv:1611.07004): L1, and optionally an adversarial term that both images are shown to.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from fedrounds_common import windows
from fedrounds_common.case import F32
from fedrounds_common.generative.adversarial import DISCRIMINATOR, fooled, mean_of_each, slope, told_apart
from fedrounds_common.generative.layers import Patches
from fedrounds_common.generative.maker import Settings
from fedrounds_common.study.tables import Evaluation, Training

AT_ONCE = 8  # windows in one go


@final
class Translator(nn.Module):
    """`generator`: source (B, S, *grid) → target (B, T, *grid), 0 and 1 being the ends of its range."""

    def __init__(self, dims: int, generator: nn.Module, sources: int, targets: int, *, judged: bool) -> None:
        super().__init__()
        self.generator = generator
        if judged:
            self.discriminator = Patches(dims, sources + targets)

    def forward(self, source: Tensor) -> Tensor:
        made: Tensor = self.generator(source)
        return made


def loss(network: nn.Module, source: Tensor, target: Tensor, turn: str, settings: Settings) -> Tensor:
    """source (B, S, *patch) and target (B, T, *patch) → (B,)"""
    judge = next((part for part in network.modules() if isinstance(part, Patches)), None)
    if turn == DISCRIMINATOR and judge is not None:
        with torch.no_grad():
            made = windows.padded(network, source)
        pair = torch.cat([source, target], 1).detach().requires_grad_(settings.penalty > 0)
        real = judge(pair)
        value = told_apart(real, judge(torch.cat([source, made], 1)))
        return value + settings.penalty * slope(real, pair) if settings.penalty > 0 else value
    made = windows.padded(network, source)
    value = mean_of_each((made - target).abs())
    if judge is not None:
        value = value + settings.adversarial * fooled(judge(torch.cat([source, made], 1)))
    return value


def translated(network: nn.Module, source: F32, dims: int, training: Training, evaluation: Evaluation) -> F32:
    """source (S, *grid) → target (T, *grid) in parts of its range, whole or in windows of `training.patch`."""
    stack = source.ndim == dims + 2
    image = torch.from_numpy(np.ascontiguousarray(source))
    image = image.movedim(1, 0) if stack else image[None]
    was_training, device = network.training, next(network.parameters()).device
    network.eval()

    def made(x: Tensor) -> Tensor:
        with torch.no_grad():
            return windows.padded(network, x.to(device)).float()

    window = training.patch or tuple(image.shape[2:])
    found = windows.slide(made, image, window, evaluation.overlap, AT_ONCE).cpu()
    network.train(was_training)
    result: F32 = (found.movedim(0, 1) if stack else found[0]).numpy()
    return result
