"""A glioma: reaction and diffusion along white matter, and what it pushes aside.

The density u of tumour cells follows Fisher and Kolmogorov, du/dt = div(D grad u) + r u (1 - u), with
D five times larger in white than in grey matter and none in fluid, as in Swanson et al. 2000 (Cell
Prolif 33:317). Ahead of its front u falls by e each `FRONT_MM`, so FRONT_MM · logit(u) is close to the
distance in mm to the contour u = 0.5, positive inside; every boundary below is a level of that depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np
from numpy.random import Generator

from fedrounds_common.case import F32
from fedrounds_sites.phantom import templates
from fedrounds_sites.phantom.anatomy import Anatomy
from fedrounds_sites.phantom.fields import Smooth, View, smooth
from fedrounds_sites.phantom.hospital import LOBES, Patient

STEP_MM = 4.0  # of the grid the tumour grows on, whatever the image's spacing
_HALF = 13  # voxels from its middle to its edge
FRONT_MM = 3.0
_STEP_TIME = 0.2  # in units of 1/r; stable below STEP_MM² / (6 FRONT_MM²) = 0.3
_MOST_STEPS = 80


@final
@dataclass(frozen=True)
class Tumour:
    """Depth on the growth grid, and the patient's own ragged edges."""

    middle_mm: F32  # (3,)
    depth_mm: F32  # (side, side, side, 1)
    ragged: Smooth  # core, rim and oedema edges, and patches without enhancement
    patient: Patient
    push_mm: float  # how far tissue at the core's edge has moved outwards

    @property
    def widest_mm(self) -> float:
        """The height (RAS z) of the axial plane that cuts most of the core."""
        areas = np.count_nonzero(self.depth_mm[..., 0] > 0, axis=(0, 1))
        return float(self.middle_mm[2] + STEP_MM * (int(areas.argmax()) - _HALF))

    def shares(self, view: View) -> tuple[F32, F32]:
        """What fills each voxel, before fluid is spared.

        Returns:
            Shares (n, 3) of necrosis, oedema and enhancing tumour; and how wet its oedema is (n,),
            from 1 at the core down to 0.5 at the outer edge.
        """
        index = (view.points_mm - self.middle_mm) / np.float32(STEP_MM) + _HALF
        shares = np.zeros((len(index), 3), np.float32)
        water = np.ones(len(index), np.float32)
        near = np.flatnonzero(np.all((index > 0) & (index < 2 * _HALF), axis=1))
        depth = templates.gather(self.depth_mm, index[near])[:, 0]
        core, rim, wet, patch = self.ragged.on(view)[near].T
        soft = max(view.spacing_mm, 1.5)
        reach = self.patient.oedema_mm * (1 + 0.35 * wet)
        in_core = _inside(depth + 1.5 * core, soft)
        in_tumour = np.maximum(in_core, _inside(depth + reach, soft))
        necrotic = _inside(depth + 1.5 * core - self.patient.rim_mm * (1 + 0.2 * rim), soft)
        # parts of a rim may not enhance at all; they count as core without enhancement
        enhancing = _inside(patch + 1.2, 0.5) if self.patient.enhancing else np.zeros_like(patch)
        shares[near, 2] = in_core * (1 - necrotic) * enhancing
        shares[near, 0] = in_core - shares[near, 2]
        shares[near, 1] = in_tumour - in_core
        water[near] = np.clip(1 + 0.5 * depth / np.maximum(reach, 3), 0.5, 1)
        return shares, water

    def pulled(self, points_mm: F32) -> F32:
        """Where the tissue now at these points (n, 3) was before the tumour pushed it."""
        away = points_mm - self.middle_mm
        distance = np.sqrt(np.einsum("nd,nd->n", away, away)) + np.float32(1e-3)
        edge = np.float32(self.patient.core_mm)
        moved = np.where(distance < edge, distance / edge, np.exp((edge - distance) / 22))
        return np.asarray(points_mm - (self.push_mm * moved / distance)[:, None] * away, np.float32)


def tumour(patient: Patient, head: Anatomy, random: Generator) -> Tumour:
    middle = _seed_point(patient, head, random)
    steps = STEP_MM * np.arange(-_HALF, _HALF + 1, dtype=np.float32)
    box = head.box_to_template((middle[0] + steps, middle[1] + steps, middle[2] + steps))
    tissue = head.tissue(box, STEP_MM).reshape(*[len(steps)] * 3, -1)
    volume = 4 / 3 * np.pi * (patient.core_mm / STEP_MM) ** 3
    depth = _grown(tissue[..., templates.WHITE], tissue[..., templates.GREY], volume)
    return Tumour(
        middle_mm=middle,
        depth_mm=depth[..., None],
        ragged=smooth(random, 4, 9.0),
        patient=patient,
        push_mm=float(patient.core_mm * random.uniform(0.1, 0.35)),
    )


def _seed_point(patient: Patient, head: Anatomy, random: Generator) -> F32:
    """A point of white matter in the patient's lobe, on either side."""
    places, lobes = _white_places()
    weight = np.exp(-np.sum(((places - lobes[patient.lobe]) / 14) ** 2, axis=1) / 2)
    place = places[random.choice(len(places), p=weight / weight.sum())] * [random.choice([-1, 1]), 1, 1]
    return np.asarray(head.from_template(place[None].astype(np.float32))[0], np.float32)


@cache
def _white_places() -> tuple[F32, dict[str, F32]]:
    """Deep white matter of the right half (the template is symmetric), in template mm."""
    white = templates.maps(STEP_MM)[..., templates.WHITE]
    places = np.argwhere(white > 0.8) * templates.SPACING_MM + templates.ORIGIN_MM
    # above the brain stem and cerebellum, and off the middle
    places = places[(places[:, 0] > 8) & (places[:, 2] > -20)].astype(np.float32)
    return places, {name: np.array(point, np.float32) for name, point in LOBES.items()}


def _grown(white: F32, grey: F32, volume: float) -> F32:
    """Depth in mm once the core (u > 0.5) fills `volume` voxels or no longer grows."""
    rate = np.asarray(_STEP_TIME * (FRONT_MM / STEP_MM) ** 2 * np.clip(white + grey / 5, 0, 1), np.float32)
    rates = [np.minimum(_part(rate, axis, 1), _part(rate, axis, 0)) for axis in range(3)]
    room = (white + grey > 0.4).astype(np.float32)
    u = np.zeros(white.shape, np.float32)
    u[_HALF - 1 : _HALF + 2, _HALF - 1 : _HALF + 2, _HALF - 1 : _HALF + 2] = 0.5
    filled = 0.0
    for _ in range(_MOST_STEPS):
        change = _STEP_TIME * room * u * (1 - u)
        for axis, between in enumerate(rates):
            flow = between * (_part(u, axis, 1) - _part(u, axis, 0))
            _part(change, axis, 0)[...] += flow
            _part(change, axis, 1)[...] -= flow
        u += change
        filled = float(np.count_nonzero(u > 0.5))
        if filled >= volume:
            break
    logit = np.log(np.clip(u, 1e-7, None) / np.clip(1 - u, 1e-7, None))
    # behind the front 1 - u falls by e each FRONT_MM / (√2 - 1), so depth grows faster with the logit
    return (FRONT_MM * np.where(logit > 0, logit / (np.sqrt(2) - 1), logit)).astype(np.float32)


def _part(values: F32, axis: int, start: int) -> F32:
    """All but the last (start 0) or all but the first (start 1) layer along an axis, as a view."""
    layers = slice(1, None) if start else slice(None, -1)
    part: F32 = values[tuple(layers if k == axis else slice(None) for k in range(3))]
    return part


def _inside(depth_mm: F32, width_mm: float) -> F32:
    """The share of a voxel that lies inside a boundary at this depth."""
    return np.asarray(np.clip(0.5 + depth_mm / width_mm, 0, 1), np.float32)
