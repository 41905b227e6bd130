"""The phantom's field of view, and smooth random fields over it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import final

import numpy as np
from numpy.random import Generator

from fedrounds_common.case import F32, F64
from fedrounds_sites.phantom import templates

# RAS millimetres; holds every warped head of the shipped templates
CENTRE_MM = (0.0, -17.0, 6.0)
EXTENT_MM = (180.0, 220.0, 180.0)
# a wider lattice than the view, so that points pushed a little outside still have a value
_LATTICE_MM = (240.0, 280.0, 240.0)
_AT_ONCE = 2048  # points: the temporaries stay in the processor's cache
_MOST_STEPS, _STILL_MM = 24, 0.01


@final
@dataclass(frozen=True)
class View:
    """A voxel grid over the field of view; `inside` are the voxels that a head can reach."""

    spacing_mm: float
    grid: tuple[int, ...]
    affine: F64
    inside: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    points_mm: F32  # (n, 3) the places in the patient that are seen in the voxels `inside`: their centres at rest
    motion: Motion | None = None

    def seen_at(self, points_mm: F32) -> F32:
        """Where places of the patient (n, 3) lie in the image."""
        return points_mm if self.motion is None else self.motion.back(points_mm)


@cache
def view(spacing_mm: float, margin_mm: float = 20.0) -> View:
    """The grid of isotropic voxels, axes pointing right, anterior, superior.

    `margin_mm`: how far beyond the brain anything is to be seen; the warp's reach is added.
    """
    grid = tuple(round(extent / spacing_mm) for extent in EXTENT_MM)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [centre - spacing_mm * (n - 1) / 2 for centre, n in zip(CENTRE_MM, grid, strict=True)]
    axes = [(affine[axis, 3] + spacing_mm * np.arange(n)).astype(np.float32) for axis, n in enumerate(grid)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    reach = templates.sample(templates.maps(spacing_mm)[..., templates.OUTSIDE_MM : templates.OUTSIDE_MM + 1], points)
    inside = np.flatnonzero(reach[:, 0] < margin_mm + 13)
    return View(spacing_mm, grid, affine, inside, np.ascontiguousarray(points[inside]))


@final
@dataclass(frozen=True)
class Smooth:
    """K smooth random fields: cubic B-splines on a lattice of knots (K, a, b, c)."""

    knots: F32
    knot_mm: float

    def on(self, view: View) -> F32:
        """Values (n, K) at the voxels `inside` a view."""
        if view.motion is not None:
            return self.at(view.points_mm)
        bases = [_basis(view.spacing_mm, self.knot_mm, axis) for axis in range(3)]
        return np.ascontiguousarray(_spread(self.knots, bases)[view.inside])

    def over(self, axes_mm: tuple[F32, F32, F32]) -> F32:
        """Values (n, K) over the grid that three axes span, the last axis fastest."""
        return _spread(self.knots, [_weights(axis_mm, self.knot_mm, axis) for axis, axis_mm in enumerate(axes_mm)])

    def at(self, points_mm: F32) -> F32:
        """Values (n, K) at any points (n, 3), from the 64 knots around each."""
        values = np.empty((len(points_mm), len(self.knots)), np.float32)
        for start in range(0, len(points_mm), _AT_ONCE):
            values[start : start + _AT_ONCE] = self._at(points_mm[start : start + _AT_ONCE])
        return values

    def _at(self, points_mm: F32) -> F32:
        count = len(self.knots)
        flat = self.knots.reshape(count, -1).T
        place = np.zeros((len(points_mm), 1), np.int64)
        weight = np.ones((len(points_mm), 1), np.float32)
        for axis in range(3):
            knots = self.knots.shape[axis + 1]
            first, near = _support(points_mm[:, axis], self.knot_mm, axis)
            size = (len(points_mm), 4 ** (axis + 1))
            place = (place[:, :, None] * knots + (first[:, None] + np.arange(4))[:, None]).reshape(size)
            weight = (weight[:, :, None] * near[:, None]).reshape(size)
        return np.asarray(np.matmul(weight[:, None], np.take(flat, place, axis=0))[:, 0], np.float32)


@final
@dataclass(frozen=True)
class Motion:
    """A patient who lies otherwise than at rest: at x of the image is seen what at rest lies at x + field(x).

    The field is small and smooth against its own scale, so that no place is seen twice.
    """

    field: Smooth  # 3 components in mm

    def at(self, points_mm: F32) -> F32:
        return points_mm + self.field.at(points_mm)

    def back(self, points_mm: F32, guess: F32 | None = None) -> F32:
        """The inverse, by fixed-point steps: to a hundredth of a millimetre where the field's slope is below 0.5."""
        found = points_mm if guess is None else guess
        for _ in range(_MOST_STEPS):
            last, found = found, np.asarray(points_mm - self.field.at(found), np.float32)
            if len(found) == 0 or float(np.abs(found - last).max()) < _STILL_MM:
                break
        return found

    def of(self, rest: View) -> View:
        """The same grid, with the patient so displaced."""
        return replace(rest, points_mm=self.at(rest.points_mm), motion=self)


def smooth(random: Generator, count: int, knot_mm: float, sd: float = 1.0) -> Smooth:
    """`count` independent fields with standard deviation `sd` and features of about two knots."""
    lattice = [_knots(knot_mm, axis) for axis in range(3)]
    # sum of squared cubic B-spline weights, averaged along an axis, is 151/315
    scale = sd * (315 / 151) ** 1.5
    return Smooth((scale * random.standard_normal((count, *lattice))).astype(np.float32), knot_mm)


def knot_places(knot_mm: float) -> F64:
    """(a, b, c, 3), the mm of each knot: a field whose knots hold a linear function of their places is that function."""
    axes = [
        CENTRE_MM[axis] - _LATTICE_MM[axis] / 2 + knot_mm * (np.arange(_knots(knot_mm, axis)) - 1.0)
        for axis in range(3)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _spread(knots: F32, bases: list[F32]) -> F32:
    """Knots (K, a, b, c) and a basis (axis, knots) each → values (X·Y·Z, K); one axis after the other."""
    x, y, z = bases
    fields = np.stack([np.tensordot(np.tensordot(x, one, 1), z.T, 1) for one in knots], axis=-1)
    # (X, b, Z, K), with the second axis still to do
    return np.tensordot(fields, y, axes=(1, 1)).transpose(0, 3, 1, 2).reshape(-1, len(knots))


@cache
def _basis(spacing_mm: float, knot_mm: float, axis: int) -> F32:
    grid, affine = view(spacing_mm).grid, view(spacing_mm).affine
    return _weights((affine[axis, 3] + spacing_mm * np.arange(grid[axis])).astype(np.float32), knot_mm, axis)


def _weights(position_mm: F32, knot_mm: float, axis: int) -> F32:
    """Cubic B-spline weights (n, knots) along one axis; they sum to 1."""
    first, near = _support(position_mm, knot_mm, axis)
    weights = np.zeros((len(position_mm), _knots(knot_mm, axis)), np.float32)
    weights[np.arange(len(first))[:, None], first[:, None] + np.arange(4)] = near
    return weights


def _support(
    position_mm: F32, knot_mm: float, axis: int
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], F32]:
    """The first of the four knots that reach each position, and the weights (n, 4) of the four."""
    place = (position_mm - (CENTRE_MM[axis] - _LATTICE_MM[axis] / 2)) / knot_mm + 1
    place = np.clip(place, 1, _knots(knot_mm, axis) - 2.001)
    first = np.floor(place).astype(np.int64) - 1
    t = (place - 1 - first).astype(np.float32)
    near = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    return first, near.astype(np.float32)


def _knots(knot_mm: float, axis: int) -> int:
    return int(np.ceil(_LATTICE_MM[axis] / knot_mm)) + 3
