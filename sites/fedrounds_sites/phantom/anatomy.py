"""One patient's head: the templates, warped as nobody else's. Coordinates are RAS millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.random import Generator
from scipy.spatial.transform import Rotation

from fedrounds_common.case import F32
from fedrounds_sites.phantom import templates
from fedrounds_sites.phantom.fields import CENTRE_MM, Smooth, View, smooth
from fedrounds_sites.phantom.hospital import Patient

# template millimetres: the bodies of the right and the left lateral ventricle; the left is larger in most
_VENTRICLES = np.array([(12.0, -8.0, 16.0), (-12.0, -8.0, 16.0)], np.float32)
TORQUE_MM = 3.0
_VENTRICLE_REACH = np.array((16.0, 30.0, 18.0), np.float32)


@final
@dataclass(frozen=True)
class Anatomy:
    """Pull-back from patient to template: affine, two scales of warp, then the ventricles' own growth."""

    matrix: F32  # (3, 3)
    shift_mm: F32  # (3,)
    coarse: Smooth
    fine: Smooth
    ventricles: F32  # (2,) growth on the right and left; 0 is the template's size
    atrophy: float  # share of cortex lost to fluid

    def to_template(self, view: View) -> F32:
        """Template points (n, 3) of the view's voxels."""
        return self._pull(view.points_mm, self.coarse.on(view) + self.fine.on(view))

    def box_to_template(self, axes_mm: tuple[F32, F32, F32]) -> F32:
        """Template points (n, 3) of the grid that three axes span, the last axis fastest."""
        points = np.stack(np.meshgrid(*axes_mm, indexing="ij"), axis=-1).reshape(-1, 3)
        return self._pull(points, self.coarse.over(axes_mm) + self.fine.over(axes_mm))

    def points_to_template(self, points_mm: F32) -> F32:
        return self._pull(points_mm, self.coarse.at(points_mm) + self.fine.at(points_mm))

    def from_template(self, points_mm: F32) -> F32:
        """The inverse for a few points, by fixed-point steps: within a millimetre for these warps."""
        guess = points_mm.astype(np.float32)
        for _ in range(3):
            guess = guess - (self.points_to_template(guess) - points_mm)
        return guess

    def tissue(self, template_mm: F32, spacing_mm: float) -> F32:
        """The seven maps of `templates` (n, 7) at template points, atrophy applied."""
        values = templates.sample(templates.maps(spacing_mm), template_mm)
        # fluid takes over where fluid is near already: sulci widen, the cortex thins
        grey, fluid = values[:, templates.GREY], values[:, templates.CSF]
        lost = self.atrophy * grey * np.clip(4 * fluid, 0, 1)
        values[:, templates.GREY] -= lost
        values[:, templates.CSF] += lost
        return values

    def _pull(self, points_mm: F32, displacement_mm: F32) -> F32:
        centre = np.array(CENTRE_MM, np.float32)
        away = points_mm - centre
        template = away @ self.matrix.T + (centre + self.shift_mm) + displacement_mm
        # most brains twist: the right frontal and the left occipital lobe reach further
        template[:, 1] -= TORQUE_MM / 90 * np.tanh(away[:, 0] / 30) * away[:, 1]
        pulled = template.copy()
        for middle, growth in zip(_VENTRICLES, self.ventricles, strict=True):
            away = (template - middle) / _VENTRICLE_REACH
            near = np.exp(-2 * np.einsum("nd,nd->n", away, away))
            pulled -= (growth * near)[:, None] * (template - middle)
        return pulled


def anatomy(patient: Patient, random: Generator) -> Anatomy:
    turn = Rotation.from_euler("xyz", random.normal(0, 3, 3), degrees=True).as_matrix()
    scale = np.diag(1 / random.normal(1.0, 0.035, 3).clip(0.9, 1.1))
    growth = -0.15 + 0.55 * patient.age + random.normal(0, 0.12) + random.normal([-0.04, 0.04], 0.08)
    return Anatomy(
        matrix=(turn @ scale).astype(np.float32),
        shift_mm=random.normal(0, 2, 3).astype(np.float32),
        coarse=smooth(random, 3, 40.0, patient.warp_mm),
        fine=smooth(random, 3, 18.0, 0.35 * patient.warp_mm),
        ventricles=growth.clip(-0.3, 0.55).astype(np.float32),
        atrophy=float(np.clip(0.8 * patient.age + random.normal(0, 0.1), 0, 0.9)),
    )
