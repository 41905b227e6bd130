"""A generative adversarial network: a generator and a discriminator that both know what is wanted.

Source: Goodfellow et al. 2014 (arXiv:1406.2661); Mirza and Osindero 2014 (arXiv:1411.1784) for what is wanted;
Mescheder et al. 2018 (arXiv:1801.04406) for the penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from fedrounds_common.generative.adversarial import DISCRIMINATOR, fooled, slope, told_apart
from fedrounds_common.generative.layers import Down, Up, noise
from fedrounds_common.generative.maker import Maker, Method, Settings


@final
class Gan(Maker):
    method: ClassVar[Method] = "gan"

    def __init__(self, grid: Sequence[int], wanted: int, channels: int, latent: int, widths: Sequence[int]) -> None:
        super().__init__(grid, channels)
        self.latent = latent
        self.generator = Up(grid, latent, wanted, channels, widths)
        self.discriminator = Down(grid, channels, wanted, 1, widths[::-1])

    def loss(self, image: Tensor, wanted: Tensor, turn: str, rng: torch.Generator, settings: Settings) -> Tensor:
        if turn != DISCRIMINATOR:
            return fooled(self.discriminator(self._made(wanted, rng), wanted))
        with torch.no_grad():
            made = self._made(wanted, rng)
        image = image.detach().requires_grad_(settings.penalty > 0)
        real = self.discriminator(image, wanted)
        loss = told_apart(real, self.discriminator(made, wanted))
        return loss + settings.penalty * slope(real, image) if settings.penalty > 0 else loss

    def make(self, wanted: Tensor, rng: torch.Generator, settings: Settings) -> Tensor:
        with torch.no_grad():
            return self._made(wanted, rng)

    def _made(self, wanted: Tensor, rng: torch.Generator) -> Tensor:
        z = noise(wanted, (len(wanted), self.latent), rng)
        made: Tensor = self.generator(z, wanted).tanh()
        return made
