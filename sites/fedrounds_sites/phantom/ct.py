"""The same head in a CT scanner: Hounsfield units of each tissue, and the bone that MR does not see.

Values of unenhanced CT at 120 kV, as in radiology textbooks: air -1000, fat about -90, cerebrospinal fluid 8, white
matter 28, grey matter 37, flowing blood 55, skull 700 to 1200 (its tables dense, the diploe between them less so).
Oedema takes 8 HU from white matter. Nothing is calcified.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from fedrounds_common.case import F32
from fedrounds_sites.phantom import templates
from fedrounds_sites.phantom.fields import View
from fedrounds_sites.phantom.scanner import NAMES

AIR_HU = -1000.0
HU = {
    "white": 28.0,
    "grey": 37.0,
    "csf": 8.0,
    "fat": -90.0,
    "muscle": 55.0,
    "oedema": 20.0,
    "necrosis": 15.0,
    "solid": 32.0,
    "enhancing": 36.0,  # no contrast medium is given
    "hyperintensity": 22.0,
    "blood": 55.0,
    "plexus": 38.0,
}
HEAD_MM = 20.0  # how far beyond the brain: scalp and all
TABLES_HU, DIPLOE_HU = 1200.0, 700.0
NOISE_HU = (2.0, 5.0)  # standard deviation; averaged over a voxel of a few mm
_FARTHEST_MM = 14.0  # from the brain: what is empty beyond is no skull, but nose, sinuses and ears


def hounsfield(shares: F32, template_mm: F32, view: View, random: Generator) -> F32:
    """HU (*grid) from tissue shares (n, tissues) of the voxels `inside` the view; air beyond them.

    Args:
        template_mm: (n, 3), where each voxel lies in the templates, which know the skull.
    """
    bone, density = templates.sample(_skull(view.spacing_mm), template_mm).T
    empty = np.clip(1 - shares.sum(axis=1), 0, 1)
    filled = np.minimum(bone, empty)
    hardness = density / np.maximum(bone, 1e-3)
    tissues = shares @ np.array([HU[name] for name in NAMES], np.float32)
    noise = random.uniform(*NOISE_HU) * random.standard_normal(len(shares), np.float32)
    image = np.full(int(np.prod(view.grid)), AIR_HU, np.float32)
    ideal = tissues + filled * hardness + (empty - filled) * AIR_HU
    image[view.inside] = np.maximum(ideal + noise * (1 - (empty - filled)), -1024)
    return image.reshape(view.grid)


@cache
def _skull(spacing_mm: float) -> F32:
    """(*templates.GRID, 2): the share of bone, and share times HU, as averages over voxels of this size."""
    maps = templates.maps(templates.SPACING_MM)
    soft = maps[..., : templates.MUSCLE + 1].sum(axis=-1) > 0.5
    # slice by slice: the neck leaves the head open below
    head = np.stack([ndimage.binary_fill_holes(soft[..., k]) for k in range(soft.shape[2])], axis=-1)
    bone = head & ~soft & (maps[..., templates.OUTSIDE_MM] > -1) & (maps[..., templates.OUTSIDE_MM] < _FARTHEST_MM)
    depth_mm = templates.SPACING_MM * ndimage.distance_transform_edt(bone)
    density = TABLES_HU + (DIPLOE_HU - TABLES_HU) * np.clip((depth_mm - 2) / 2, 0, 1)
    stack = np.stack([bone, bone * density], axis=-1).astype(np.float32)
    sigma = 0.4 * spacing_mm / templates.SPACING_MM
    return np.asarray(ndimage.gaussian_filter(stack, (sigma, sigma, sigma, 0)), np.float32)
