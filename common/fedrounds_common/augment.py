"""Change a training patch at random: NumPy only, drawn from the example's own generator.

Names of `training.augment`, and what each does with probability p:

flip      mirrors each axis (p = 0.5 an axis). Left and right change places: right for tumours and
          lesions; wrong for a study whose labels name a side (left hippocampus), which must leave it out.
rotate90  turns by 90, 180 or 270° in one plane whose two sides are equally long (p = 0.5).
gain      multiplies each channel by a factor in [0.9, 1.1] (p = 0.5).
shift     adds to each channel a number in [−0.1, 0.1] (p = 0.5).
gamma     raises each channel's range, brought to [0, 1], to a power in [0.7, 1.5] (p = 0.3).
noise     adds Gaussian noise of a standard deviation in [0, 0.1] (p = 0.2).

`shift` and `noise` leave voxels that are exactly 0 alone: they are background, at prediction too.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations

import numpy as np

from fedrounds_common.case import F32, U8


def augment(image: F32, labels: U8, names: Collection[str], rng: np.random.Generator) -> tuple[F32, U8]:
    """New image (C, *patch) and labels (*patch), contiguous; the arguments are not changed.

    The order is fixed (space, then intensities), whatever the order of `names`.
    """
    if "flip" in names:
        image, labels = _flip(image, labels, rng)
    if "rotate90" in names:
        image, labels = _rotate90(image, labels, rng)
    image, labels = np.array(image, order="C"), np.ascontiguousarray(labels)  # a copy: the rest works in place
    tissue = image != 0 if {"shift", "noise"} & set(names) else None
    if "gain" in names and rng.random() < 0.5:
        image *= _each_channel(image, rng, 0.9, 1.1)
    if "gamma" in names and rng.random() < 0.3:
        _gamma(image, float(rng.uniform(0.7, 1.5)))
    if "shift" in names and rng.random() < 0.5:
        np.add(image, _each_channel(image, rng, -0.1, 0.1), out=image, where=tissue)
    if "noise" in names and rng.random() < 0.2:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.1))
        np.add(image, noise, out=image, where=tissue)
    return image, labels


def _flip(image: F32, labels: U8, rng: np.random.Generator) -> tuple[F32, U8]:
    axes = tuple(axis for axis in range(labels.ndim) if rng.random() < 0.5)
    return np.flip(image, tuple(axis + 1 for axis in axes)), np.flip(labels, axes)


def _rotate90(image: F32, labels: U8, rng: np.random.Generator) -> tuple[F32, U8]:
    planes = [(a, b) for a, b in combinations(range(labels.ndim), 2) if labels.shape[a] == labels.shape[b]]
    if not planes or rng.random() >= 0.5:
        return image, labels
    a, b = planes[int(rng.integers(len(planes)))]
    turns = int(rng.integers(1, 4))
    return np.rot90(image, turns, (a + 1, b + 1)), np.rot90(labels, turns, (a, b))


def _each_channel(image: F32, rng: np.random.Generator, low: float, high: float) -> F32:
    values = rng.uniform(low, high, len(image)).astype(np.float32)
    return values.reshape(-1, *(1,) * (image.ndim - 1))


def _gamma(image: F32, power: float) -> None:
    for channel in image:
        low, high = channel.min(), channel.max()
        if high > low:
            zero = channel == 0
            channel[...] = ((channel - low) / (high - low)) ** power * (high - low) + low
            channel[zero] = 0  # background stays background
