"""Make the sites of a rehearsal unlike: every site gets a scanner of its own, drawn from the seed and its name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from fedrounds_common import rng
from fedrounds_common.case import F32, Case
from fedrounds_common.geometry import FWHM_PER_SIGMA, onto, respaced
from fedrounds_common.plugins import STRICT
from fedrounds_sites.targets import target_onto


@final
@dataclass(frozen=True)
class Scanner:
    """One site's settings. `gain` and `gamma` have one entry a channel; `thick` is the coarse axis."""

    gain: tuple[float, ...]
    gamma: tuple[float, ...]
    blur_mm: float
    coarser: float
    thick: int
    noise: float
    bias: float


@final
@dataclass(frozen=True)
class Unlike:
    """How far sites may lie apart; each field at its off value leaves images as they are.

    Args:
        gain: standard deviation of the logarithm of each channel's gain (off: 0). Normalising takes
            most of it out again, as it does in life.
        gamma: standard deviation of the logarithm of each channel's exponent, which no normalising undoes.
        blur_mm: the largest blur, as full width at half maximum.
        spacing: the largest factor by which one axis is coarser than acquired (off: 1); image and
            label are both given on that coarser grid, as if scanned and drawn there.
        noise: the largest standard deviation of noise, as a share of the 99th percentile.
        bias: the largest swing of a smooth field over the image (0.3: from about 0.74 to 1.35).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    gain: Annotated[float, Field(ge=0)] = 0.3
    gamma: Annotated[float, Field(ge=0)] = 0.25
    blur_mm: Annotated[float, Field(ge=0)] = 1.5
    spacing: Annotated[float, Field(ge=1)] = 2.0
    noise: Annotated[float, Field(ge=0)] = 0.05
    bias: Annotated[float, Field(ge=0)] = 0.3

    def scanner(self, site: str, seed: int, channels: int) -> Scanner:
        """The site's own settings; those of another site, channel count or field do not change them."""

        def draw(what: str, *more: int) -> np.random.Generator:
            return rng.generator(seed, "unlike", site, what, *more)

        return Scanner(
            gain=tuple(math.exp(self.gain * draw("gain", index).standard_normal()) for index in range(channels)),
            gamma=tuple(math.exp(self.gamma * draw("gamma", index).standard_normal()) for index in range(channels)),
            blur_mm=self.blur_mm * draw("blur").random(),
            coarser=1 + (self.spacing - 1) * draw("spacing").random(),
            thick=int(draw("thick").integers(3)),
            noise=self.noise * draw("noise").random(),
            bias=self.bias * draw("bias").random(),
        )

    def apply(self, case: Case, site: str, seed: int) -> Case:
        """The case as this site would have acquired it, before it is prepared.

        Voxels that are exactly 0 stay so: they were taken away (skull-stripped), not measured.
        """
        scanner = self.scanner(site, seed, len(case.image))
        image = np.stack([_seen(channel, scanner, index) for index, channel in enumerate(case.image)])
        image *= np.exp(scanner.bias * _field(case.grid, rng.generator(seed, "unlike", site, "field", case.ref.name)))
        image = np.where(case.image != 0, _blurred(image, case, scanner.blur_mm), np.float32(0)).astype(np.float32)
        coarse = _coarser(case.with_image(image, case.target), scanner)
        noise = rng.generator(seed, "unlike", site, "static", case.ref.name)
        return coarse.with_image(_noisy(coarse.image, scanner.noise, noise), coarse.target)


def _seen(channel: F32, scanner: Scanner, index: int) -> F32:
    """Gamma about the brightest voxel, then gain; the sign is kept (CT has both)."""
    top = float(np.abs(channel).max(initial=0))
    if top == 0:
        return channel.copy()
    bent = np.sign(channel) * np.abs(channel / np.float32(top)) ** np.float32(scanner.gamma[index])
    seen: F32 = (bent * np.float32(top * scanner.gain[index])).astype(np.float32)
    return seen


def _field(grid: tuple[int, ...], draws: np.random.Generator) -> F32:
    """A smooth field (*grid) within [-1, 1]: cubic between a few random values an axis."""
    from scipy.ndimage import zoom  # not at the top: most studies leave their hospitals as they are

    knots = draws.uniform(-1, 1, size=(4,) * len(grid))
    fine: NDArray[np.float64] = zoom(knots, [size / 4 for size in grid], order=3, mode="nearest", grid_mode=True)
    field: F32 = np.clip(fine, -1, 1).astype(np.float32)
    return field


def _blurred(image: F32, case: Case, fwhm_mm: float) -> F32:
    if fwhm_mm == 0:
        return image
    from scipy.ndimage import gaussian_filter

    sigmas = [0.0, *(fwhm_mm / FWHM_PER_SIGMA / spacing for spacing in case.spacing_mm)]
    blurred: F32 = gaussian_filter(image, sigmas, mode="nearest")
    return blurred


def _coarser(case: Case, scanner: Scanner) -> Case:
    """One axis with larger voxels; a picture (two axes) is coarser in rows or columns."""
    axis = scanner.thick % len(case.grid)
    spacing: list[float | None] = [None] * len(case.grid)
    spacing[axis] = case.spacing_mm[axis] * scanner.coarser
    grid, affine = respaced(case.grid, case.affine, spacing)
    if grid == case.grid:
        return case
    target = target_onto(case.target, case.affine, grid, affine)
    return case.with_image(onto(case.image, case.affine, grid, affine), target, affine)


def _noisy(image: F32, share: float, draws: np.random.Generator) -> F32:
    result = image.copy()
    for channel in result:
        inside = channel != 0
        if share and bool(inside.any()):
            top = float(np.percentile(np.abs(channel[inside]), 99))
            channel[inside] += (share * top * draws.standard_normal(int(inside.sum()))).astype(np.float32)
    return result
