"""Sums over hospitals with noise on them: each update cut to one norm, noise of the system's keys, a clip that follows.

By name and over trainable weights only: what a network counts or keeps besides them has no noise, and is not sent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from fedrounds_common.arrays import BLOCK, Array, Arrays, is_float, norm
from fedrounds_common.case import F64
from fedrounds_common.dp.noise import Secret
from fedrounds_common.errors import UpdateError, UsageError
from fedrounds_common.privacy import NoisySum

SAFE = 1 + 1e-6  # rounding in float32 may make the cut update longer by less
CLIP = "hospital_dp|clip"  # under this name a clip that follows the hospitals travels to them
HALF = 0.5


@final
@dataclass(frozen=True)
class Released:
    """What leaves of one hospital's update. `below`: half its weight, with a minus where it is above the clip."""

    arrays: Arrays
    below: float


def released(
    difference: Arrays, trained: Collection[str], how: NoisySum, clip: float, cases: int, secret: Secret
) -> Released:
    """A site's update made fit to be added: looked at, cut, weighed, and with the site's share of the noise if it adds any.

    Args:
        difference: what training added to each array. trained: the names of the weights that train.
        clip: this round's. cases: how many it was trained on.

    Raises:
        UpdateError: FR-R12 a weight is not finite. UsageError: FR-U96 the network keeps numbers besides its weights.
    """
    _refuse_what_is_kept(difference, trained)
    own = {name: array for name, array in difference.items() if name in trained}
    size = norm(own)
    if not math.isfinite(size):
        raise UpdateError("FR-R12", "the update has values that are not finite", wanted="finite numbers")
    weight = 1.0 if how.cases is None else min(1.0, cases / how.cases)
    share = weight * (min(1.0, clip / (size * SAFE)) if size else 1.0)
    below = weight * (HALF if size <= clip else -HALF)
    deviation = 0.0
    if how.hand == "sites":
        parts = math.sqrt(how.shares)
        deviation = how.multiplier * clip / parts
        below += float(secret.normal(1)[0]) * how.count_noise / parts
    arrays = {
        name: _blurred(array, share, deviation, secret) if name in trained else np.zeros_like(array)
        for name, array in difference.items()
    }
    return Released(arrays, below if how.quantile is not None else 0.0)


def with_clip(shared: Arrays, how: NoisySum | None, clip: float | None = None) -> Arrays:
    """What travels beside the consensus, with the clip in it where that follows the hospitals; by default round 1's."""
    if how is None or how.quantile is None:
        return shared
    return {**shared, CLIP: np.array([how.clip if clip is None else clip], np.float64)}


def cut(arrays: Arrays, trained: Collection[str], clip: float) -> Arrays:
    """The same, no longer than the clip: the coordinator looks for itself, for a codec's rounding may lengthen an update.

    What it does not change is not copied.
    """
    strange = [name for name, array in arrays.items() if name not in trained and np.any(array)]
    size = norm({name: array for name, array in arrays.items() if name in trained})
    if size <= clip and not strange:
        return arrays
    share = min(1.0, clip / (size * SAFE)) if size else 1.0
    return {
        name: np.asarray(array * array.dtype.type(share)) if name in trained else np.zeros_like(array)
        for name, array in arrays.items()
    }


def noisy_mean(
    total: Mapping[str, F64], like: Arrays, trained: Collection[str], how: NoisySum, clip: float, secret: Secret
) -> dict[str, F64]:
    """The sum over hospitals, with the coordinator's noise if it adds any, by what it is divided by.

    Args:
        total: the sum of the released updates, by name; {} of none. like: the model.

    Returns:
        float64 arrays, each noise drawn once; of what does not train, zeros.
    """
    deviation = how.multiplier * clip if how.hand == "coordinator" else 0.0
    mean: dict[str, F64] = {}
    for name, array in like.items():
        mean[name] = np.zeros(array.shape)
        if name not in trained:
            continue
        if name in total:
            mean[name] += total[name]
        _add_noise(mean[name].reshape(-1), deviation, secret)
        mean[name] /= how.sites
    return mean


def next_clip(clip: float, below: Collection[float], how: NoisySum, secret: Secret) -> float:
    """The clip of the round after, from how many were below this one's, with noise.

    Source: Andrew, Thakkar, McMahan, Ramaswamy 2021 (arXiv:1905.03871), Algorithm 1, geometric updates.
    """
    if how.quantile is None:
        return clip
    total = math.fsum(below)
    if how.hand == "coordinator":
        total += float(secret.normal(1)[0]) * how.count_noise
    # beyond all or none of them it is noise alone, and must not move the clip further than they could
    found = min(1.0, max(0.0, HALF + total / how.sites))
    return clip * math.exp(-how.pace * (found - how.quantile))


def bounded_part(below: float, how: NoisySum) -> float:
    """What a site says of where it is, as far as it may count; what is no number counts as nothing."""
    if not math.isfinite(below):
        return 0.0
    most = HALF if how.hand == "coordinator" else HALF + 9 * how.count_noise  # normal noise ends at 8.6 deviations
    return min(most, max(-most, below))


def size_of_noise(how: NoisySum, clip: float, entries: int) -> float:
    """About how long one site's share of the noise is, over so many weights; 0 where the coordinator adds it."""
    return how.multiplier * clip * math.sqrt(entries / how.shares) if how.hand == "sites" else 0.0


def _refuse_what_is_kept(difference: Arrays, trained: Collection[str]) -> None:
    """Running statistics change with every batch: without noise they must not leave, and without them it is no model."""
    for name, array in difference.items():
        if name not in trained and is_float(array) and np.any(array):
            raise UsageError(
                "FR-U96", f"{name} changed in training and is no weight that trains",
                wanted="a network that keeps nothing of the images besides its weights",
                do="one without batch norm: see `fedrounds list networks`, running_statistics = false, or freeze the layer",
            )  # fmt: skip


def _blurred(array: Array, share: float, deviation: float, secret: Secret) -> Array:
    """share · array + noise, summed in float64 and rounded once."""
    flat, found = np.ravel(array), np.empty(array.size, array.dtype)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK].astype(np.float64) * share
        if deviation:
            block += deviation * secret.normal(block.size)
        found[start : start + BLOCK] = block
    return found.reshape(array.shape)


def _add_noise(flat: F64, deviation: float, secret: Secret) -> None:
    for start in range(0, flat.size if deviation else 0, BLOCK):
        part = flat[start : start + BLOCK]
        part += deviation * secret.normal(part.size)
