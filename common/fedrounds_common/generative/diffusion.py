"""A diffusion model: a network that tells a noisy image's velocity, trained at every level of noise (DDPM), and asked
in few steps (DDIM).

The velocity is part noise and part image, so that a short training learns the whole of an image too and not its detail
alone; the levels fall as a cosine.

Source: Ho et al. 2020 (arXiv:2006.11239); Song et al. 2021 (arXiv:2010.02502) for the few steps; Nichol and Dhariwal
2021 (arXiv:2102.09672) for the cosine; Salimans and Ho 2022 (arXiv:2202.00512) for the velocity. Network and schedules
are MONAI's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedrounds_common.generative.adversarial import mean_of_each
from fedrounds_common.generative.layers import noise
from fedrounds_common.generative.maker import Maker, Method, Settings

SCHEDULE, LEARNED = "cosine", "v_prediction"  # as MONAI calls them


@final
class Diffusion(Maker):
    """`unet`: (B, C + Q, *grid) and levels (B,) → the velocity (B, C, *grid)."""

    method: ClassVar[Method] = "diffusion"

    def __init__(self, grid: Sequence[int], channels: int, unet: nn.Module) -> None:
        super().__init__(grid, channels)
        self.unet = unet

    def loss(self, image: Tensor, wanted: Tensor, turn: str, rng: torch.Generator, settings: Settings) -> Tensor:
        from monai.networks.schedulers.ddpm import DDPMScheduler

        # one level of each stretch of the schedule: less is left to chance than in levels drawn one by one
        share = (torch.arange(len(image)) + torch.rand(len(image), generator=rng)) / len(image)
        level = (share * settings.levels).long().to(image.device)
        drawn = noise(image, image.shape, rng)
        scheduler = DDPMScheduler(settings.levels, SCHEDULE, prediction_type=LEARNED)
        noisy, velocity = (told(image, drawn, level) for told in (scheduler.add_noise, scheduler.get_velocity))
        return mean_of_each((self._told(noisy, wanted, level) - velocity).square())

    def make(self, wanted: Tensor, rng: torch.Generator, settings: Settings) -> Tensor:
        from monai.networks.schedulers.ddim import DDIMScheduler

        scheduler = DDIMScheduler(settings.levels, SCHEDULE, prediction_type=LEARNED)
        scheduler.set_timesteps(settings.steps)
        x = noise(wanted, (len(wanted), self.channels, *self.grid), rng)
        with torch.no_grad():
            for level in scheduler.timesteps:
                levels = torch.full((len(x),), int(level), device=x.device)
                x, _ = scheduler.step(self._told(x, wanted, levels), int(level), x)
        return x.clamp(-1, 1)

    def _told(self, noisy: Tensor, wanted: Tensor, level: Tensor) -> Tensor:
        told: Tensor = self.unet(torch.cat([noisy, wanted], 1), level)
        return told
