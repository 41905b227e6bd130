"""What looks like tumour and is none: white-matter hyperintensities, vessels and choroid plexus."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.random import Generator

from fedrounds_common.case import F32
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


def vessels(patient: Patient, head: Anatomy, view: View, random: Generator) -> F32:
    """(n,) share of each voxel filled with flowing blood: sinuses, arteries and a few veins of the cortex."""
    points, volumes = [], []
    for line, radius_mm, mirrored in _VESSELS:
        for side in (1, -1) if mirrored else (1,):
            jitter = random.normal(0, 1.5, (len(line), 3))
            course = _course(np.array(line) * [side, 1, 1] + jitter)
            points.append(course)
            volumes.append(np.full(len(course), np.pi * (radius_mm * random.uniform(0.7, 1.2)) ** 2))
    for _ in range(random.poisson(9)):
        course = _vein(random)
        points.append(course)
        volumes.append(np.full(len(course), np.pi * random.uniform(1.0, 2.0) ** 2))
    return _splat(head.from_template(np.concatenate(points)), np.concatenate(volumes).astype(np.float32), view)


def plexus(patient: Patient, head: Anatomy, view: View, random: Generator) -> F32:
    """(n,) share of choroid plexus, in the trigone of each ventricle; takes up contrast medium."""
    points = [
        np.array(_PLEXUS_MM) * [side, 1, 1] + random.normal(0, [2.5, 5, 3], (40, 3))
        for side in (1, -1)
        for _ in range(1)
    ]
    size = np.concatenate([np.full(40, random.uniform(5, 22)) for _ in points])
    return _splat(head.from_template(np.concatenate(points).astype(np.float32)), size.astype(np.float32), view)


def hyperintensities(patient: Patient, head: Anatomy, view: View, random: Generator) -> F32:
    """(n,) share of damaged white matter: caps on the ventricles and spots, more with age."""
    places = _near_ventricles()
    spots = int(random.poisson(1 + 16 * patient.age**2))
    middles = places[random.integers(0, len(places), spots)] * np.stack(
        [random.choice([-1, 1], spots), np.ones(spots), np.ones(spots)], axis=1
    )
    caps = [
        np.array([side * 18.0, y, 14.0]) + random.normal(0, 2, 3)
        for side in (1, -1)
        for y in (26.0, -46.0)
        if random.random() < 0.3 + 0.6 * patient.age
    ]
    middles = np.concatenate([middles, np.reshape(caps, (-1, 3))])
    if not len(middles):
        return np.zeros(len(view.points_mm), np.float32)
    radii = random.uniform(2, 4.5, len(middles)) * (0.8 + 0.6 * patient.age)
    cloud = middles[:, None] + random.normal(0, 0.6, (len(middles), 24, 3)) * radii[:, None, None]
    volume = np.repeat(4 / 3 * np.pi * radii**3 / 24, 24)
    return _splat(head.from_template(cloud.reshape(-1, 3).astype(np.float32)), volume.astype(np.float32), view)


@cache
def _near_ventricles() -> F32:
    """White matter within 22 mm of a ventricle, right half, in template mm."""
    maps = templates.maps(4.0)
    chosen = (maps[..., templates.WHITE] > 0.7) & (maps[..., templates.VENTRICLE_MM] < 22)
    places = np.argwhere(chosen) * templates.SPACING_MM + templates.ORIGIN_MM
    return places[(places[:, 0] > 2) & (places[:, 2] > -8)].astype(np.float32)


def _course(corners: F32) -> F32:
    """Points each millimetre along a line through these corners."""
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(lengths)])
    steps = np.arange(0, along[-1], 1.0)
    return np.stack([np.interp(steps, along, corners[:, axis]) for axis in range(3)], axis=1).astype(np.float32)


def _vein(random: Generator) -> F32:
    """A short vein running down the convexity from near the sagittal sinus."""
    side, y = random.choice([-1, 1]), random.uniform(-80, 45)
    height = 74 * np.sqrt(1 - ((y + 17) / 92) ** 2)
    angle = np.linspace(0.2, random.uniform(0.6, 1.2), 5)
    line = np.stack(
        [side * 68 * np.sin(angle), y + np.cumsum(random.normal(0, 4, 5)), 2 + height * np.cos(angle)], axis=1
    )
    return _course(line.astype(np.float32))


def _splat(points_mm: F32, volume_mm3: F32, view: View) -> F32:
    """Share (n,) of each voxel that the volumes at these points fill, each spread over its 8 neighbours."""
    grid = np.array(view.grid)
    index = (points_mm - view.affine[:3, 3]) / view.spacing_mm
    keep = np.all((index > 0) & (index < grid - 1.01), axis=1)
    low = index[keep].astype(np.int64)
    part = (index[keep] - low).astype(np.float32)
    filled = np.zeros(int(np.prod(grid)), np.float32)
    for corner in range(8):
        step = np.array([corner >> 2 & 1, corner >> 1 & 1, corner & 1])
        weight = np.prod(np.where(step, part, 1 - part), axis=1)
        place = np.ravel_multi_index(tuple((low + step).T), view.grid)
        filled += np.bincount(place, weight * volume_mm3[keep], len(filled)).astype(np.float32)
    return np.clip(filled[view.inside] / view.spacing_mm**3, 0, 1)
