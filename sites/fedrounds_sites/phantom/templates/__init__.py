"""Real anatomy, shipped small: MNI152 T1, grey and white matter, and Colin27's head, at 2 mm.

Licences: `LICENCES.md` beside this file. Everything is loaded on first use and kept per process.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from fedrounds_common.case import F32

FILE = Path(__file__).with_name("templates_2mm.npz")
SPACING_MM = 2.0
GRID = (91, 109, 91)
ORIGIN_MM = (-90.0, -126.0, -72.0)  # RAS millimetres of voxel (0, 0, 0)

# the last axis of `maps`: shares of tissue, then two distances in mm
WHITE, GREY, CSF, FAT, MUSCLE, OUTSIDE_MM, VENTRICLE_MM = range(7)

# Colin27's own units: skull and air below, fat above, skin and muscle between
_SOFT_TISSUE, _FAT = 45.0, 125.0
_AT_ONCE = 65_536  # points: the temporaries stay in the processor's cache


@cache
def shipped() -> dict[str, F32]:
    """The four volumes: `t1` in 0 … 255, `grey` and `white` as shares, `head` in Colin27's units."""
    with np.load(FILE) as file:
        volumes = {name: file[name].astype(np.float32) for name in file.files}
    return volumes | {name: volumes[name] / 255 for name in ("grey", "white")}


@cache
def maps(spacing_mm: float) -> F32:
    """(*GRID, 7): tissue shares and distances, smoothed so that voxels of `spacing_mm` hold averages."""
    volumes = shipped()
    brain = ndimage.binary_fill_holes(volumes["t1"] > 20)
    stack = np.zeros((*GRID, 7), np.float32)
    stack[..., WHITE], stack[..., GREY] = volumes["white"], volumes["grey"]
    stack[..., CSF] = np.clip(brain - volumes["white"] - volumes["grey"], 0, 1)
    outside = ndimage.distance_transform_edt(~brain) - ndimage.distance_transform_edt(brain)
    beyond = np.clip(outside - 1, 0, 1)
    fat = np.clip((volumes["head"] - _FAT) / 30, 0, 1)
    soft = np.clip((volumes["head"] - _SOFT_TISSUE) / 20, 0, 1)
    stack[..., FAT], stack[..., MUSCLE] = beyond * fat, beyond * soft * (1 - fat)
    stack[..., OUTSIDE_MM] = SPACING_MM * outside
    stack[..., VENTRICLE_MM] = SPACING_MM * ndimage.distance_transform_edt(~_ventricles(stack[..., CSF]))
    # a box of the voxel's width, less what 2 mm voxels have averaged already
    sigma = np.sqrt(max(0.0, (0.4 * spacing_mm) ** 2 - (0.4 * SPACING_MM) ** 2)) / SPACING_MM
    return ndimage.gaussian_filter(stack, (sigma, sigma, sigma, 0)) if sigma > 0 else stack


def _ventricles(csf: F32) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The lateral and third ventricles: fluid in the middle of the brain."""
    x, y, z = (ORIGIN_MM[axis] + SPACING_MM * np.arange(GRID[axis]) for axis in range(3))
    middle = (np.abs(x) < 36)[:, None, None] & ((y > -56) & (y < 32))[:, None] & ((z > -14) & (z < 30))
    return np.asarray(middle & (csf > 0.5) & ndimage.binary_opening(csf > 0.5))


def sample(stack: F32, points_mm: F32) -> F32:
    """Trilinear values (n, K) of a template stack (*GRID, K) at RAS points (n, 3); the edge goes on outside."""
    return gather(stack, (points_mm - np.array(ORIGIN_MM, np.float32)) / np.float32(SPACING_MM))


def gather(stack: F32, index: F32) -> F32:
    """Trilinear values (n, K) of (X, Y, Z, K) at voxel coordinates (n, 3).

    One gather a corner for all K maps together: several times faster than one scipy call a map.
    """
    values = np.empty((len(index), stack.shape[3]), np.float32)
    for start in range(0, len(index), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        values[part] = _gathered(stack, index[part])
    return values


def _gathered(stack: F32, index: F32) -> F32:
    shape = np.array(stack.shape[:3])
    index = np.clip(index, 0, (shape - 1.001).astype(np.float32))
    low = index.astype(np.int64)
    part = index - low
    flat = stack.reshape(-1, stack.shape[3])
    base = (low[:, 0] * shape[1] + low[:, 1]) * shape[2] + low[:, 2]
    values = np.zeros((len(index), stack.shape[3]), np.float32)
    for x, y in ((0, 0), (0, 1), (1, 0), (1, 1)):
        place = base + (x * shape[1] + y) * shape[2]
        lower, line = np.take(flat, place, axis=0), np.take(flat, place + 1, axis=0)
        # in place: a fresh array a step would double the time
        line -= lower
        line *= part[:, 2:]
        line += lower
        line *= ((part[:, 0] if x else 1 - part[:, 0]) * (part[:, 1] if y else 1 - part[:, 1]))[:, None]
        values += line
    return values
