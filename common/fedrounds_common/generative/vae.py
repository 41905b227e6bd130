"""A variational autoencoder; without the divergence an autoencoder. Its latent prior is fitted over all sites.

What is drawn for an image comes from the mean and the spread of the training cases' own codes, which sites sum up
once at the end (Ghosh et al. 2020, arXiv:1903.12436): codes fill only a part of the standard normal distribution,
and an autoencoder's none of it on purpose.

Source: Kingma and Welling 2014 (arXiv:1312.6114).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn

from fedrounds_common.arrays import Arrays
from fedrounds_common.case import F32, F64
from fedrounds_common.generative import grids
from fedrounds_common.generative.adversarial import DISCRIMINATOR, fooled, mean_of_each, slope, told_apart
from fedrounds_common.generative.conditions import over_grid
from fedrounds_common.generative.layers import Down, Patches, Up, noise
from fedrounds_common.generative.maker import Maker, Method, Settings

WIDEST, NARROWEST = 4.0, -10.0  # of a code's log variance: beyond these its exponential is of no use


@final
class Vae(Maker):
    method: ClassVar[Method] = "vae"

    def __init__(self, grid: Sequence[int], wanted: int, channels: int, latent: int, widths: Sequence[int]) -> None:
        super().__init__(grid, channels)
        self.latent = latent
        self.encoder = Down(grid, channels, wanted, 2 * latent, widths[::-1])
        self.generator = Up(grid, latent, wanted, channels, widths)
        self.discriminator: nn.Module | None = Patches(len(grid), channels + wanted)
        # where codes lie, as `settle` found it; until then the standard normal distribution
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("spread", torch.eye(latent))

    def loss(self, image: Tensor, wanted: Tensor, turn: str, rng: torch.Generator, settings: Settings) -> Tensor:
        mean, log_variance = self.coded(image, wanted)
        draw = noise(mean, mean.shape, rng) if settings.divergence > 0 else torch.zeros_like(mean)
        made = self.generator(mean + draw * (0.5 * log_variance).exp(), wanted).tanh()
        if turn == DISCRIMINATOR and self.discriminator is not None:
            return _told_apart(self.discriminator, image, made.detach(), wanted, settings)
        # per voxel, so that one number of the study means the same for a picture and a volume
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / math.prod(image.shape[1:])
        loss = mean_of_each((image - made).square()) + settings.divergence * divergence
        if self.discriminator is not None and settings.adversarial > 0:
            loss = loss + settings.adversarial * fooled(self.discriminator(torch.cat([made, wanted], 1)))
        return loss

    def leave_judge_out(self) -> None:
        self.discriminator = None

    def make(self, wanted: Tensor, rng: torch.Generator, settings: Settings) -> Tensor:
        centre, spread = self.get_buffer("centre"), self.get_buffer("spread")
        with torch.no_grad():
            z = centre + noise(wanted, (len(wanted), self.latent), rng) @ spread.T
            made: Tensor = self.generator(z, wanted).tanh()
            return made

    def coded(self, image: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of each example's code, (B, Z) each."""
        mean, log_variance = self.encoder(image, wanted).chunk(2, 1)
        return mean, log_variance.clamp(NARROWEST, WIDEST)


def _told_apart(judge: nn.Module, image: Tensor, made: Tensor, wanted: Tensor, settings: Settings) -> Tensor:
    image = image.detach().requires_grad_(settings.penalty > 0)
    real = judge(torch.cat([image, wanted], 1))
    loss = told_apart(real, judge(torch.cat([made, wanted], 1)))
    return loss + settings.penalty * slope(real, image) if settings.penalty > 0 else loss


def prior(module: nn.Module) -> Vae:
    """The autoencoder among a module's parts."""
    return next(part for part in module.modules() if isinstance(part, Vae))


def gathered(vae: Vae, images: Sequence[F32], wanted: Sequence[F32]) -> dict[str, F64]:
    """What a site says of the codes (N, Z) of its images: how many, their sum, products, and their variances' sum."""
    codes, widths = np.zeros((len(images), vae.latent)), np.zeros((len(images), vae.latent))
    device = next(vae.parameters()).device
    for place, (image, of) in enumerate(zip(images, wanted, strict=True)):
        x = torch.from_numpy(np.array(grids.framed(image, vae.grid)))[None].to(device)
        q = torch.from_numpy(np.array(grids.framed(of, vae.grid) if of.ndim > 1 else of))[None].to(device)
        with torch.no_grad():
            mean, log_variance = vae.coded(2 * x - 1, over_grid(q, vae.grid))
        codes[place], widths[place] = mean[0].double().cpu(), log_variance[0].double().exp().cpu()
    return {
        "codes": np.array([len(codes)], np.float64),
        "sum": codes.sum(axis=0),
        "product": codes.T @ codes,
        "variance": widths.sum(axis=0),
    }


def settled(total: Mapping[str, F64], arrays: Arrays) -> Arrays:
    """The model with the centre of all codes in it, and a factor F of their spread, F Fᵀ, each code's own width counted."""
    cases = float(total["codes"][0])
    if cases < 2:
        return arrays
    centre = total["sum"] / cases
    covariance = total["product"] / cases - np.outer(centre, centre) + np.diag(total["variance"] / cases)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    spread = vectors * np.sqrt(np.maximum(values, 0.0))
    return {**arrays, "centre": centre.astype(np.float32), "spread": spread.astype(np.float32)}
