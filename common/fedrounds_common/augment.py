"""Change a training patch at random: NumPy and SciPy only, drawn from the example's own generator.

Names of `training.augment`, and what each does with probability p:

flip      mirrors each axis (p = 0.5 an axis). Left and right change places: right for tumours and
          lesions; wrong for a study whose labels name a side (left hippocampus), which must leave it out.
rotate90  turns by 90, 180 or 270° in one plane whose two sides are equally long (p = 0.5).
rotate    turns by an angle in ±15° (volumes: ±10° about each axis; p = 0.3), as if voxels were cubes.
scale     enlarges or shrinks by a factor in [0.85, 1.15] (p = 0.3).
elastic   displaces smoothly, by 0.5 to 1.5 voxels standard deviation over knots 12 voxels apart (p = 0.3).
gain      multiplies each channel by a factor in [0.9, 1.1] (p = 0.5).
shift     adds to each channel a number in [−0.1, 0.1] (p = 0.5).
gamma     raises each channel's range, brought to [0, 1], to a power in [0.7, 1.5] (p = 0.3).
contrast  stretches each channel about its mean by a factor in [0.75, 1.25] (p = 0.3).
bias      multiplies each channel, counted from its least value, by a smooth field in [0.67, 1.5] (p = 0.3).
blur      Gaussian, standard deviation in [0.4, 1] voxels (p = 0.2).
noise     adds Gaussian noise of a standard deviation in [0, 0.1] (p = 0.2).
cutout    sets a box to 0 whose sides are 0.15 to 0.35 of the patch's (p = 0.3); labels stay.

Voxels that are exactly 0 are left alone by whatever changes intensities: they are background, at prediction too.

Each draws from a generator of its own, derived from one number of the example's generator and from its name: naming one
more changes nobody else's draws. Where none is named nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fedrounds_common import rng as labelled
from fedrounds_common.case import F32, U8
from fedrounds_common.warping import moved, smooth_field

SPATIAL = frozenset({"flip", "rotate90", "rotate", "scale", "elastic"})  # what moves labels as well as images
_TISSUE_ONLY = frozenset({"shift", "noise", "contrast", "bias", "blur"})  # ask what is background before they begin
Draws = Callable[[str], np.random.Generator]


def augment(
    image: F32, labels: U8, names: Collection[str], rng: np.random.Generator, *, masks: int = 0
) -> tuple[F32, U8]:
    """New image (C, *patch) and labels (*patch), contiguous; the arguments are not changed.

    The order is fixed (space, then intensities), whatever the order of `names`. A true displacement field is no
    channel: a pair that has one is not to be moved.

    Args:
        masks: so many of the last channels are maps of 0 and 1: they move as labels do, and their values stay.
    """
    if not names:
        return np.array(image, order="C"), np.ascontiguousarray(labels)
    own = _own_draws(rng)
    if "flip" in names:
        image, labels = _flip(image, labels, own("flip"))
    if "rotate90" in names:
        image, labels = _rotate90(image, labels, own("rotate90"))
    image, labels = moved(image, labels, names, own, masks)
    image, labels = np.array(image, order="C"), np.ascontiguousarray(labels)  # a copy: the rest works in place
    _intensities(image[: len(image) - masks], names, own)
    return image, labels


def _intensities(image: F32, names: Collection[str], own: Draws) -> None:
    """All that changes values, in place."""
    tissue = image != 0 if _TISSUE_ONLY & set(names) else None
    if "gain" in names and (draws := own("gain")).random() < 0.5:
        image *= _each_channel(image, draws, 0.9, 1.1)
    if "gamma" in names and (draws := own("gamma")).random() < 0.3:
        _gamma(image, float(draws.uniform(0.7, 1.5)))
    if tissue is not None:
        _contrast_bias_blur(image, tissue, names, own)
    if "shift" in names and (draws := own("shift")).random() < 0.5:
        np.add(image, _each_channel(image, draws, -0.1, 0.1), out=image, where=tissue)
    if "noise" in names and (draws := own("noise")).random() < 0.2:
        noise = draws.standard_normal(image.shape, dtype=np.float32) * np.float32(draws.uniform(0, 0.1))
        np.add(image, noise, out=image, where=tissue)
    if "cutout" in names:
        _cutout(image, own("cutout"))


def _own_draws(rng: np.random.Generator) -> Draws:
    """Name → its own generator; one number is drawn from `rng`, whichever are named."""
    example = int(rng.integers(2**63))
    return lambda name: labelled.generator(example, "augment", name)


def _contrast_bias_blur(image: F32, tissue: NDArray[np.bool_], names: Collection[str], own: Draws) -> None:
    from scipy import ndimage

    if "contrast" in names and (draws := own("contrast")).random() < 0.3:
        factors = draws.uniform(0.75, 1.25, len(image)).astype(np.float32)
        for channel, inside, factor in zip(image, tissue, factors, strict=True):
            middle = channel[inside].mean() if inside.any() else np.float32(0)
            np.copyto(channel, middle + factor * (channel - middle), where=inside)
    if "bias" in names and (draws := own("bias")).random() < 0.3:
        strength = draws.uniform(0.05, 0.2)
        for channel, inside in zip(image, tissue, strict=True):
            field = np.exp(strength * np.clip(smooth_field(image.shape[1:], max(image.shape[1:]) / 2, draws), -2, 2))
            least = channel[inside].min() if inside.any() else np.float32(0)
            np.copyto(channel, least + field * (channel - least), where=inside)
    if "blur" in names and (draws := own("blur")).random() < 0.2:
        sigma = float(draws.uniform(0.4, 1.0))
        for channel, inside in zip(image, tissue, strict=True):
            np.copyto(channel, ndimage.gaussian_filter(channel, sigma), where=inside)


def _cutout(image: F32, draws: np.random.Generator) -> None:
    if draws.random() >= 0.3:
        return
    box = []
    for size in image.shape[1:]:
        side = max(1, round(float(draws.uniform(0.15, 0.35)) * size))
        start = int(draws.integers(size - side + 1))
        box.append(slice(start, start + side))
    image[(slice(None), *box)] = 0


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
