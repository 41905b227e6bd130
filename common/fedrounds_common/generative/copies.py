"""Memorised patients: training cases that a made image lies far closer to than to any case it was not trained on.

Distances stay at the site; counts of them leave, in bins fine enough for a quantile. What is close is told by cases
that nothing was trained on: a twentieth of them lie closer to some made image than the 5th percentile, and half that
distance is what none should reach by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan

import numpy as np

from fedrounds_common.case import F32, F64

SIDE = 16  # voxels of a volume's or picture's side at which two are compared
BINS = 2048  # of the distance's logarithm: a quantile is exact to 0.7 %
LOW, HIGH = 1e-6, 2.0  # distances below and above are counted in the first and the last bin
QUANTILE, FAR_BELOW = 0.05, 0.5
FEWEST = 10  # untrained cases of a kind below which those of all kinds are asked


def look(image: F32) -> F32:
    """(C, *grid) → (D,): what two images are compared by."""
    from fedrounds_common.generative.features import small

    return small(image, SIDE if image.ndim == 3 else SIDE // 2).ravel()


def distance(one: F32, other: F32) -> float:
    """Root mean square difference of two images' looks, in [0, 1]."""
    return float(np.sqrt(np.mean(np.square(look(one).astype(np.float64) - look(other)))))


def nearest(image: F32, looks: F32) -> int:
    """Which of the looks (N, D) is nearest to the image's."""
    return int(np.square(looks - look(image)).sum(axis=1).argmin())


def counted(distances: Sequence[float], kinds: Sequence[int], number: int) -> F64:
    """(number, BINS): how many cases of each kind lie at which distance."""
    found = np.zeros((number, BINS), np.float64)
    for value, kind in zip(distances, kinds, strict=True):
        found[kind, _bin(value)] += 1
    return found


def _bin(value: float) -> int:
    share = np.log(max(value, LOW) / LOW) / np.log(HIGH / LOW)
    return min(int(share * BINS), BINS - 1)


def _edge(place: int) -> float:
    """The distance at which this bin begins."""
    return float(LOW * (HIGH / LOW) ** (place / BINS))


def quantile(counts: F64, q: float) -> float:
    """Of the distances in one row of bins; nan of none."""
    total = counts.sum()
    if not total:
        return nan
    return _edge(int(np.searchsorted(np.cumsum(counts), q * total, side="left")))


def memorised(total: Mapping[str, F64]) -> tuple[int, int]:
    """How many training cases lie far closer to a made image than untrained ones do, and of how many.

    Args:
        total: `untrained` and `trained` (kinds, BINS). Cases of one kind (class) are held against their own kind.
    """
    found = 0
    for kind, trained in enumerate(total["trained"]):
        like = total["untrained"][kind]
        like = like if like.sum() >= FEWEST else total["untrained"].sum(axis=0)
        if like.sum() < FEWEST:
            return 0, 0
        limit = FAR_BELOW * quantile(like, QUANTILE)
        found += round(float(trained[: _bin(limit)].sum()))
    return found, round(float(total["trained"].sum()))
