"""What a translation is shown and asked for, in NumPy: channels brought to one scale, and patches of both alike."""

from __future__ import annotations

import numpy as np

from fedrounds_common import sampling
from fedrounds_common.augment import SPATIAL, augment
from fedrounds_common.case import F32
from fedrounds_common.study.tables import Training
from fedrounds_common.task import Example


def standard(source: F32) -> F32:
    """Each channel with mean 0 and spread 1 over what is not 0: sources come in any scanner's units."""
    found = np.zeros_like(source)
    for out, channel in zip(found, source, strict=True):
        inside = channel != 0
        values = channel[inside]
        if len(values) and float(values.std()) > 0:
            out[inside] = (values - values.mean()) / values.std()
    return found


def pair(source: F32, target: F32, training: Training, rng: np.random.Generator) -> Example:
    """Source (S, *patch) and target (T, *patch): moved alike, and only the source's intensities changed."""
    both = np.concatenate([source, target])
    if training.patch is not None:
        box = sampling.content_box(source)
        both = sampling.cut(both, sampling.patch_start(None, box, training.patch, both.shape[1:], rng), training.patch)
    nothing = np.zeros(both.shape[1:], np.uint8)
    both, _ = augment(both, nothing, [name for name in training.augment if name in SPATIAL], rng)
    rest = [name for name in training.augment if name not in SPATIAL]
    image, _ = augment(both[: len(source)], nothing, rest, rng)
    return Example(image, np.ascontiguousarray(both[len(source) :]))


def stretched(channel: F32, low: float, high: float) -> F32:
    """Its 0.5th and 99.5th percentile at `low` and `high`, and nothing beyond: what one who learns nothing can do."""
    least, most = np.percentile(channel, (0.5, 99.5))
    share = np.clip((channel - least) / max(float(most - least), 1e-6), 0, 1)
    return np.asarray(low + (high - low) * share, np.float32)
