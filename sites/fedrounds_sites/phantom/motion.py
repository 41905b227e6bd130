"""How the same patient lies at a second scan: turned and shifted a little, and soft parts displaced smoothly.

Every part of it is a cubic B-spline on a lattice of knots, which holds straight lines exactly, so that turning and
shifting need no second kind of field.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy.spatial.transform import Rotation

from fedrounds_common.case import F32
from fedrounds_sites.phantom import templates
from fedrounds_sites.phantom.fields import CENTRE_MM, Motion, Smooth, knot_places, smooth

KNOT_MM = 36.0
_MOST_TURN_DEG = 8.0


def motion(random: Generator, sd_mm: float, turn_deg: float, shift_mm: float, *, axial: bool) -> Motion:
    """Drawn with these standard deviations; `axial`: within axial planes only, none of which mixes with another.

    The slope of the field stays below about 0.4 for `sd_mm` up to 4: the displacement is invertible.
    """
    drawn = smooth(random, 3, KNOT_MM, sd_mm)
    angles = np.clip(random.normal(0, turn_deg, 3), -_MOST_TURN_DEG, _MOST_TURN_DEG)
    shift = random.normal(0, shift_mm, 3)
    if axial:
        angles[:2], shift[2] = 0, 0
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() - np.eye(3)
    away = knot_places(KNOT_MM) - np.array(CENTRE_MM)
    knots = drawn.knots + np.moveaxis(away @ turn.T + shift, -1, 0).astype(np.float32)
    if axial:
        knots[2] = 0
    return Motion(Smooth(np.asarray(knots, np.float32), KNOT_MM))


def true_field(moved: Motion, points_mm: F32) -> F32:
    """Displacement (n, 3) in mm, such that what the still image shows at x, the moved one shows at x + field(x)."""
    return np.asarray(moved.back(points_mm) - points_mm, np.float32)


def true_field_over(moved: Motion, axes_mm: tuple[F32, F32, F32]) -> F32:
    """The same (X, Y, Z, 3) over the grid that three axes span."""
    grid = tuple(len(axis_mm) for axis_mm in axes_mm)
    points = np.stack(np.meshgrid(*axes_mm, indexing="ij"), axis=-1).reshape(-1, 3)
    guess = points
    if min(grid) > 1:  # steps between the grid's own values are many times cheaper, and the exact ones then few
        values = moved.field.over(axes_mm).reshape(*grid, 3)
        first, step = points[0], np.array([axis_mm[1] - axis_mm[0] for axis_mm in axes_mm], np.float32)
        for _ in range(6):
            guess = points - templates.gather(values, (guess - first) / step)
    return np.asarray(moved.back(points, guess) - points, np.float32).reshape(*grid, 3)
