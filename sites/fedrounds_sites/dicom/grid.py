"""From planes to a volume: their order, and the affine that says where each voxel lies.

Axes here are columns, rows, planes (X, Y, Z); DICOM's millimetres run to the left, back and head,
ours to the right, front and head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
from scipy.ndimage import affine_transform

from fedrounds_common.case import F32, F64
from fedrounds_common.errors import CaseError
from fedrounds_sites.dicom.headers import Header, Place

UNEVEN = 0.02  # share of the spacing by which a plane may lie off its place: scanners round to 0.01 mm
TILTED = 0.01  # sideways per step along the normal: a tilted gantry shears by 0.1 and more
PARALLEL = 1e-3  # of direction cosines: 0.06 degrees
COVERED = 0.5  # share of a grid's lattice that another must lie over to be of the same patient
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@final
@dataclass(frozen=True)
class Stack:
    """Planes in order along their normal; the affine of (columns, rows, planes) to RAS mm."""

    planes: tuple[Header, ...]
    affine: F64

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.planes[0].columns, self.planes[0].rows, len(self.planes)


def stack(planes: Sequence[Header], series: str, case: str) -> Stack:
    """Order the planes of one series by their place along the normal.

    The distance between planes is that of their positions: SliceThickness leaves out the gaps.

    Raises:
        CaseError: FR-D15 a plane does not say where it lies; FR-D55 planes of unequal size, spacing
            or direction; FR-D54 gaps, two planes in one place, a sheared stack, or a single plane.
    """
    for plane in planes:
        _refuse_unequal(plane, planes[0], series, case)
    normal = _place(planes[0], case).normal
    placed = sorted(
        (((float(_place(plane, case).position @ normal), plane.file.name), plane) for plane in planes),
        key=lambda entry: entry[0],
    )
    if len(placed) < 2:
        raise _uneven("one plane", "at least two, to know how far apart they are", series, case)
    _refuse_gaps(np.array([place for (place, _), _ in placed]), series, case)
    order = tuple(plane for _, plane in placed)
    return Stack(order, _affine(order, series, case))


def plane_affine(plane: Header) -> F64:
    """Of (rows, columns) of a single plane; the identity's directions if it does not lie in space."""
    rows, columns = plane.spacing_mm or (1.0, 1.0)
    place = plane.place
    if place is None:
        return np.diag([rows, columns, 1.0, 1.0])
    return _to_ras(place.position, place.down * rows, place.right * columns, place.normal)


def resampled(volume: F32, affine: F64, grid: tuple[int, ...], target: F64, *, order: int = 1) -> F32:
    """Interpolate (X, Y, Z) onto another grid, however turned: linearly, or nearest with order 0.

    Where the old volume does not reach, its smallest value stands.
    """
    move = np.linalg.inv(affine) @ target
    smallest = float(volume.min())
    result: F32 = affine_transform(volume, move, output_shape=grid, order=order, mode="constant", cval=smallest)
    return result


def covered(grid: tuple[int, ...], affine: F64, other: tuple[int, ...], its_affine: F64) -> float:
    """The share of a lattice of 9 x 9 x 9 points over the first grid that lies within the second."""
    axes = [np.linspace(0, size - 1, 9) for size in grid]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    move = np.linalg.inv(its_affine) @ affine
    there = lattice @ move[:3, :3].T + move[:3, 3]
    return float(np.all((there >= -0.5) & (there <= np.array(other) - 0.5), axis=1).mean())


def _place(plane: Header, case: str) -> Place:
    if plane.place is None or plane.spacing_mm is None:
        raise CaseError(
            "FR-D15",
            "a plane without position, orientation or pixel spacing",
            case=case,
            wanted="ImagePositionPatient, ImageOrientationPatient and PixelSpacing in each plane",
            do='export the series again; pictures that lie nowhere are read with unit = "image"',
            where=str(plane.file),
        )
    return plane.place


def _refuse_unequal(plane: Header, first: Header, series: str, case: str) -> None:
    here, there = _place(plane, case), _place(first, case)
    turned = max(float(np.abs(here.right - there.right).max()), float(np.abs(here.down - there.down).max()))
    found = ""
    if (plane.rows, plane.columns) != (first.rows, first.columns):
        found = f"planes of {first.rows} x {first.columns} and of {plane.rows} x {plane.columns} pixels"
    elif not np.allclose(plane.spacing_mm or 0, first.spacing_mm or 0, rtol=1e-4, atol=0):
        found = f"pixels of {first.spacing_mm} and of {plane.spacing_mm} mm"
    elif turned > PARALLEL:
        found = "planes of different directions"
    elif (plane.samples, plane.frame) != (first.samples, first.frame):
        found = "planes of different colours or frames of reference"
    if found:
        raise CaseError(
            "FR-D55",
            f"{series}: {found} in one series",
            case=case,
            wanted="planes alike but for their place",
            do="take the others (a localizer, a report's page) out of the series",
            where=str(plane.file),
        )


def _refuse_gaps(places: F64, series: str, case: str) -> None:
    steps = np.diff(places)
    usual = float(np.median(steps[steps > 1e-3])) if (steps > 1e-3).any() else 0.0
    twice = int((steps <= max(1e-3, 0.1 * usual)).sum())
    if twice:
        found = f"{len(places)} planes in {len(places) - twice} places"
        raise _uneven(found, "one plane in each place", series, case, "separate the time points, echoes or copies")
    for (low, high), step in zip(pairwise(places), steps, strict=True):
        if abs(step - usual) > UNEVEN * usual:
            found = f"{step:.2f} mm between the planes at {low:.2f} and {high:.2f} mm along their normal"
            wanted = f"{usual:.2f} mm as between the others"
            raise _uneven(found, wanted, series, case, "add the missing plane, or resample the series to even spacing")


def _affine(order: Sequence[Header], series: str, case: str) -> F64:
    first = _place(order[0], case)
    positions = np.stack([_place(plane, case).position for plane in order])
    step = (positions[-1] - positions[0]) / (len(order) - 1)
    along = float(step @ first.normal)
    sideways = float(np.linalg.norm(step - along * first.normal)) / along
    straight = positions[0] + np.outer(np.arange(len(order)), step)
    off = float(np.linalg.norm(positions - straight, axis=1).max())
    found = ""
    if sideways > TILTED:
        found = f"planes shifted sideways by {sideways:.3f} mm for each mm along their normal"
    elif off > max(0.05, UNEVEN * along):
        found = f"a plane {off:.2f} mm beside its place"
    if found:
        do = "convert a series of a tilted gantry with dcm2niix"
        raise _uneven(found, "planes straight above each other", series, case, do)
    between_rows, between_columns = order[0].spacing_mm or (1.0, 1.0)
    return _to_ras(first.position, first.right * between_columns, first.down * between_rows, step)


def _to_ras(position: F64, first: F64, second: F64, third: F64) -> F64:
    """Affine from the steps along three voxel axes, in DICOM's millimetres."""
    affine = np.eye(4)
    affine[:3, :3] = np.stack([first, second, third], axis=1)
    affine[:3, 3] = position
    return np.asarray(_LPS_TO_RAS @ affine)


def _uneven(found: str, wanted: str, series: str, case: str, do: str = "export the whole series") -> CaseError:
    return CaseError("FR-D54", f"{series}: {found}", case=case, wanted=wanted, do=do)
