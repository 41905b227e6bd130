"""What looks like tumour and is none: white-matter hyperintensities, vessels and choroid plexus."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from fedrounds_common.case import F32, F64
from fedrounds_sites.phantom import templates
from fedrounds_sites.phantom.anatomy import Anatomy
from fedrounds_sites.phantom.fields import View
from fedrounds_sites.phantom.hospital import Patient

# template millimetres, right side where a mirror exists: (points, radius in mm, mirrored)
_VESSELS = (
    (((0, 66, 26), (0, 46, 58), (0, 8, 76), (0, -38, 76), (0, -80, 48), (0, -103, 4)), 3.6, False),  # sagittal sinus
    (((2, -103, 2), (30, -92, -18), (52, -72, -26), (58, -48, -34)), 3.2, True),  # transverse sinus
    (((3, 2, -18), (20, 4, -16), (36, 8, -8), (46, -4, 2), (52, -24, 8)), 1.9, True),  # middle cerebral artery
    (((2, 8, -14), (2, 34, 0), (2, 30, 24), (2, 4, 36)), 1.6, True),  # anterior cerebral artery
    (((0, -28, -20), (14, -32, -12), (22, -52, -4), (18, -78, 4)), 1.5, True),  # posterior cerebral artery
    (((0, -44, 14), (0, -62, 26), (0, -92, 14)), 2.4, False),  # straight sinus
)
_PLEXUS_MM = (22.0, -40.0, 14.0)


def vessels(head: Anatomy, view: View, random: Generator) -> F32:
    """(n,) share of each voxel filled with flowing blood: sinuses, arteries and a few veins of the cortex."""
    courses, areas = [], []
    for line, radius_mm, mirrored in _VESSELS:
        for side in (1, -1) if mirrored else (1,):
            bends = random.normal(0, 1.5, (len(line), 3))
            courses.append(_course(np.array(line) * [side, 1, 1] + bends))
            areas.append(np.pi * (radius_mm * random.uniform(0.7, 1.2)) ** 2)
    for _ in range(random.poisson(9)):
        courses.append(_vein(random))
        areas.append(np.pi * random.uniform(1.0, 2.0) ** 2)
    volumes = np.repeat(areas, [len(course) for course in courses])  # a point stands for one millimetre
    return _splat(head.from_template(np.concatenate(courses)), volumes, 1.0, view)


def plexus(head: Anatomy, view: View, random: Generator) -> F32:
    """(n,) share of choroid plexus, in the trigone of each ventricle; it takes up contrast medium."""
    sides = [np.array(_PLEXUS_MM) * [side, 1, 1] + random.normal(0, [2.5, 5, 3], (40, 3)) for side in (1, -1)]
    volumes = np.repeat(random.uniform(5, 22, 2), 40)
    return _splat(head.from_template(_f32(np.concatenate(sides))), volumes, 1.5, view)


def hyperintensities(patient: Patient, head: Anatomy, view: View, random: Generator) -> F32:
    """(n,) share of damaged white matter: caps on the ventricles and spots, more with age."""
    places = _near_ventricles()
    spots = int(random.poisson(1 + 16 * patient.age**2))
    middles = places[random.integers(0, len(places), spots)].astype(np.float64)
    middles[:, 0] *= random.choice([-1, 1], spots)
    caps = [
        np.array([side * 18.0, y, 14.0]) + random.normal(0, 2, 3)
        for side in (1, -1)
        for y in (26.0, -46.0)
        if random.random() < 0.3 + 0.6 * patient.age
    ]
    middles = np.concatenate([middles, np.reshape(caps, (-1, 3))])
    radii = random.uniform(2, 4.5, len(middles)) * (0.8 + 0.6 * patient.age)
    cloud = middles[:, None] + random.normal(0, 0.6, (len(middles), 24, 3)) * radii[:, None, None]
    volumes = np.repeat(4 / 3 * np.pi * radii**3 / 24, 24)
    return _splat(head.from_template(_f32(cloud.reshape(-1, 3))), volumes, 1.5, view)


@cache
def _near_ventricles() -> F32:
    """White matter within 22 mm of a ventricle, right half, in template mm."""
    maps = templates.maps(4.0)
    chosen = (maps[..., templates.WHITE] > 0.7) & (maps[..., templates.VENTRICLE_MM] < 22)
    places = np.argwhere(chosen) * templates.SPACING_MM + templates.ORIGIN_MM
    return places[(places[:, 0] > 2) & (places[:, 2] > -8)].astype(np.float32)


def _course(corners: F64) -> F32:
    """Points each millimetre along a line through these corners."""
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    steps = np.arange(0, along[-1], 1.0)
    return _f32(np.stack([np.interp(steps, along, corners[:, axis]) for axis in range(3)], axis=1))


def _vein(random: Generator) -> F32:
    """A short vein running down the convexity from near the sagittal sinus."""
    side, y = float(random.choice([-1, 1])), random.uniform(-80, 45)
    height = 74 * np.sqrt(1 - ((y + 17) / 92) ** 2)
    angle = np.linspace(0.2, random.uniform(0.6, 1.2), 5)
    along = y + np.cumsum(random.normal(0, 4, 5))
    return _course(np.stack([side * 68 * np.sin(angle), along, 2 + height * np.cos(angle)], axis=1))


def _splat(points_mm: F32, volumes_mm3: F64, spread_mm: float, view: View) -> F32:
    """Share (n,) of each voxel that volumes at these points fill.

    Each is shared out over its 8 neighbours and, where voxels are fine, spread by a Gaussian.
    """
    grid = np.array(view.grid)
    index = (view.seen_at(points_mm) - view.affine[:3, 3]) / view.spacing_mm
    keep = np.all((index > 0) & (index < grid - 1.01), axis=1)
    low = index[keep].astype(np.int64)
    part = index[keep] - low
    filled = np.zeros(int(np.prod(grid)))
    for corner in range(8):
        step = np.array([corner >> 2 & 1, corner >> 1 & 1, corner & 1])
        weights = np.prod(np.where(step, part, 1 - part), axis=1) * volumes_mm3[keep]
        filled += np.bincount(np.ravel_multi_index(tuple((low + step).T), view.grid), weights, len(filled))
    if spread_mm / view.spacing_mm > 0.4:
        filled = ndimage.gaussian_filter(filled.reshape(view.grid), spread_mm / view.spacing_mm).ravel()
    return _f32(np.clip(filled[view.inside] / view.spacing_mm**3, 0, 1))


def _f32(values: F64) -> F32:
    return values.astype(np.float32)
