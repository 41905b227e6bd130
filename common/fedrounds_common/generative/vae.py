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

FEWEST = 10  # cases of a class below which its images are drawn like all
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
        # where codes lie, of all images and of each class's, as `settle` found it; until then the standard normal
        self.register_buffer("centre", torch.zeros(wanted + 1, latent))
        self.register_buffer("spread", torch.eye(latent).repeat(wanted + 1, 1, 1))

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
            kinds = kinds_of(wanted)
            drawn = noise(wanted, (len(wanted), self.latent), rng)
            z = centre[kinds] + (spread[kinds] @ drawn[:, :, None])[:, :, 0]
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
    """What a site says of its images' codes, of all and of each class's: how many, sums, products, variances' sums."""
    groups = len(vae.get_buffer("centre"))
    total = {
        "codes": np.zeros(groups), "sum": np.zeros((groups, vae.latent)),
        "product": np.zeros((groups, vae.latent, vae.latent)), "variance": np.zeros((groups, vae.latent)),
    }  # fmt: skip
    device = next(vae.parameters()).device
    for image, of in zip(images, wanted, strict=True):
        x = torch.from_numpy(np.array(grids.framed(image, vae.grid)))[None].to(device)
        q = torch.from_numpy(np.array(grids.framed(of, vae.grid) if of.ndim > 1 else of))[None].to(device)
        everywhere = over_grid(q, vae.grid)
        with torch.no_grad():
            mean, log_variance = vae.coded(2 * x - 1, everywhere)
        code, width = mean[0].double().cpu().numpy(), log_variance[0].double().exp().cpu().numpy()
        for group in {0, int(kinds_of(everywhere)[0])}:
            total["codes"][group] += 1
            total["sum"][group] += code
            total["product"][group] += np.outer(code, code)
            total["variance"][group] += width
    return total


def settled(total: Mapping[str, F64], arrays: Arrays) -> Arrays:
    """The model with the centres of all codes in it, and factors F of their spread, F Fᵀ, each code's own width counted.

    A class of which there are fewer than 10 cases is drawn like all.
    """
    if total["codes"][0] < 2:
        return arrays
    found = [_centre_and_factor({name: array[group] for name, array in total.items()}) for group in _told(total)]
    return {
        **arrays,
        "centre": np.stack([centre for centre, _ in found]).astype(np.float32),
        "spread": np.stack([factor for _, factor in found]).astype(np.float32),
    }


def _told(total: Mapping[str, F64]) -> list[int]:
    """The group whose codes speak for each group."""
    return [group if cases >= FEWEST else 0 for group, cases in enumerate(total["codes"])]


def _centre_and_factor(total: Mapping[str, F64]) -> tuple[F64, F64]:
    cases = float(total["codes"])
    centre: F64 = total["sum"] / cases
    covariance = total["product"] / cases - np.outer(centre, centre) + np.diag(total["variance"] / cases)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return centre, vectors * np.sqrt(np.maximum(values, 0.0))


def kinds_of(wanted: Tensor) -> Tensor:
    """wanted (B, Q, *grid) → (B,): 1 + its class, where exactly one class is asked for; 0 of label maps and all else."""
    if not wanted.shape[1]:
        return torch.zeros(len(wanted), dtype=torch.long, device=wanted.device)
    flat = wanted.flatten(2)
    first = flat[:, :, 0]
    one = (flat == first[:, :, None]).flatten(1).all(1) & (first.sum(1) == 1) & (first.amax(1) == 1)
    return torch.where(one, first.argmax(1) + 1, 0)
