"""A simulated hospital's scanner: sequences from MR physics, then gain, bias field, blur and noise.

Signal equations as in any MR textbook (spin echo, spoiled gradient echo, inversion recovery); relaxation
times at 1.5 T rounded from Stanisz et al. 2005 (Magn Reson Med 54:507) for healthy tissue and from
the ranges reported for oedema, necrosis and tumour; at 3 T the longer T1 are stretched by 1.25.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from fedrounds_common import rng
from fedrounds_common.case import F32, F64
from fedrounds_sites.phantom import VERSION
from fedrounds_sites.phantom.fields import View, smooth

Mask = NDArray[np.bool_]

CHANNELS = ("t1", "t1ce", "t2", "flair")

# tissue: T1 ms, T2 ms, proton density, contrast medium in mmol/l at a full dose
TISSUES = {
    "white": (620.0, 76.0, 0.70, 0.01),
    "grey": (980.0, 96.0, 0.82, 0.03),
    "csf": (4000.0, 1400.0, 1.00, 0.0),
    "fat": (270.0, 80.0, 0.90, 0.02),
    "muscle": (950.0, 42.0, 0.75, 0.10),
    "oedema": (1150.0, 170.0, 0.87, 0.02),
    "necrosis": (2100.0, 300.0, 0.93, 0.03),
    "solid": (1500.0, 135.0, 0.86, 0.06),  # core that does not enhance
    "enhancing": (1250.0, 125.0, 0.85, 0.0),  # the patient's own uptake is added
    "hyperintensity": (980.0, 140.0, 0.80, 0.01),
    "blood": (1400.0, 20.0, 0.35, 1.6),  # flow takes signal away before contrast medium
    "plexus": (1300.0, 160.0, 0.85, 0.5),
}
NAMES = tuple(TISSUES)
_RELAXIVITY = 4.5  # per second and mmol/l


@final
@dataclass(frozen=True)
class Scanner:
    """Every number that sets one hospital's images apart. Times in ms."""

    field_t: float  # 1.5 or 3
    t1: Literal["spin", "gradient"]
    t1_tr: float
    t1_te: float
    t1_flip: float  # degrees, gradient echo only
    t1ce: Literal["spin", "gradient"]
    dose: float  # 1 is a full dose of contrast medium
    t2_te: float
    t2_tr: float
    flair_te: float
    flair_tr: float
    flair_null: float  # inversion time over the one that nulls fluid: 1 nulls it
    gains: tuple[float, ...]  # one a channel
    gammas: tuple[float, ...]
    bias: float  # sd of the log of the bias field
    noise: float  # over the mean signal of the brain
    slice_mm: float  # thickness of the T2 and FLAIR slices
    margin_mm: float  # what skull stripping leaves beyond the brain


def scanner(seed: int, site: str) -> Scanner:
    """The scanner of a hospital, from its seed."""
    random = rng.generator(seed, "phantom", VERSION, "scanner", site)
    first = str(random.choice(["spin", "gradient"]))
    second = first if random.random() < 0.7 else str(random.choice(["spin", "gradient"]))
    return Scanner(
        field_t=float(random.choice([1.5, 3.0])),
        t1=_kind(first),
        t1_tr=float(random.uniform(380, 800)),
        t1_te=float(random.uniform(8, 18)),
        t1_flip=float(random.uniform(10, 26)),
        t1ce=_kind(second),
        dose=float(random.uniform(0.6, 1.3)),
        t2_te=float(random.uniform(75, 125)),
        t2_tr=float(random.uniform(2800, 6500)),
        flair_te=float(random.uniform(80, 145)),
        flair_tr=float(random.uniform(7000, 11000)),
        flair_null=float(random.uniform(0.82, 1.08)),
        gains=tuple(float(gain) for gain in random.lognormal(5.5, 0.8, 4)),
        gammas=tuple(float(gamma) for gamma in np.exp(random.uniform(-0.45, 0.45, 4))),
        bias=float(random.uniform(0.03, 0.22)),
        noise=float(random.uniform(0.015, 0.08)),
        slice_mm=float(random.choice([1.0, 3.0, 5.0, 7.0])),
        margin_mm=float(random.choice([-1.0, 1.0, 3.0, 8.0, 14.0], p=[0.2, 0.4, 0.2, 0.1, 0.1])),
    )


def _kind(name: str) -> Literal["spin", "gradient"]:
    return "gradient" if name == "gradient" else "spin"


FIELDS = tuple(field.name for field in fields(Scanner))


def signals(scanner: Scanner, uptake: float, wetness: float) -> F32:
    """(tissues, 4) signal of each pure tissue in each channel, before gain."""
    table = np.array([TISSUES[name] for name in NAMES])
    t1, t2, density, medium = table.T.copy()
    for name in ("oedema", "solid"):
        t2[NAMES.index(name)] *= wetness
    medium[NAMES.index("enhancing")] = uptake
    if scanner.field_t > 2:
        t1 = np.where(t1 < 3000, 1.25 * t1, t1)
        t2 = 0.92 * t2
    after = 1 / (1 / t1 + _RELAXIVITY / 1000 * scanner.dose * medium)
    flair_ti = scanner.flair_null * _null(4000.0, scanner.flair_tr)
    columns = [
        density * _t1_weighted(scanner, scanner.t1, t1, t2),
        # blood that carries contrast medium shows in spite of flow
        np.where(medium > 1, 0.75, density) * _t1_weighted(scanner, scanner.t1ce, after, np.maximum(t2, 60)),
        density * (1 - np.exp(-scanner.t2_tr / t1)) * np.exp(-scanner.t2_te / t2),
        density
        * np.abs(1 - 2 * np.exp(-flair_ti / t1) + np.exp(-scanner.flair_tr / t1))
        * np.exp(-scanner.flair_te / t2),
    ]
    weighted = np.stack(columns, axis=1)
    return np.asarray(weighted / weighted[NAMES.index("grey")], np.float32)


def _t1_weighted(scanner: Scanner, kind: str, t1: F64, t2: F64) -> F64:
    """The signal of a spin echo or of a spoiled gradient echo (TR 11 ms), before proton density."""
    if kind == "spin":
        return np.asarray((1 - np.exp(-scanner.t1_tr / t1)) * np.exp(-scanner.t1_te / t2))
    decay, angle = np.exp(-11.0 / t1), np.radians(scanner.t1_flip)
    return np.asarray(np.sin(angle) * (1 - decay) / (1 - np.cos(angle) * decay))


def _null(t1: float, tr: float) -> float:
    """The inversion time at which a tissue gives no signal."""
    return float(t1 * np.log(2 / (1 + np.exp(-tr / t1))))


def acquire(scanner: Scanner, shares: F32, mask: Mask, signal: F32, view: View, random: Generator) -> F32:
    """Images (4, *grid) from tissue shares (n, tissues) at the view's voxels; 0 outside the mask (n,)."""
    ideal = (shares @ signal) * mask[:, None]
    images = np.zeros((4, *view.grid), np.float32)
    images.reshape(4, -1)[:, view.inside] = ideal.T
    for channel in (2, 3):
        _thick(images[channel], scanner.slice_mm, view.spacing_mm)
    bias = np.exp(smooth(random, 4, 70.0, scanner.bias).on(view))
    within = np.maximum(images.reshape(4, -1)[:, view.inside].T, 0) * bias
    # 5 mm voxels average noise away; a scanner with larger voxels would not gain all of it
    noise = scanner.noise * random.standard_normal((2, *within.shape), np.float32)
    measured = np.hypot(within + noise[0], noise[1])
    for channel in range(4):
        measured[:, channel] = scanner.gains[channel] * measured[:, channel] ** np.float32(scanner.gammas[channel])
    images.reshape(4, -1)[:, view.inside] = (measured * mask[:, None]).T
    return images


def _thick(image: F32, slice_mm: float, spacing_mm: float) -> None:
    """Average over the slice along z, in place."""
    sigma = 0.4 * np.sqrt(max(0.0, slice_mm**2 - 1)) / spacing_mm
    if sigma > 0.2:
        ndimage.gaussian_filter1d(image, sigma, axis=2, output=image, mode="constant")
