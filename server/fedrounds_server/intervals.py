"""95 % intervals over hospitals: the hospital is drawn again, not the case.

The question is what the next hospital may expect, so whole hospitals are drawn with replacement
(percentile bootstrap). From few hospitals such an interval is too narrow; `worth` says by how much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np

from fedrounds_common import rng
from fedrounds_common.case import F64

RESAMPLES = 10_000
FEW = 5  # hospitals below which nothing counts as shown
# How often such an interval held the true mean of normal differences (should be 0.95); a test repeats it.
HELD = {2: 0.50, 3: 0.75, 4: 0.79, 5: 0.84, 6: 0.86, 7: 0.88, 8: 0.89, 9: 0.90, 10: 0.90, 12: 0.91, 15: 0.92}


@final
@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; nan where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def interval(values: F64, sites: Sequence[str], seed: int) -> Interval:
    """The mean of one value a hospital, with the 2.5 and 97.5 percentiles over resampled hospitals.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. One hospital has none.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean)
    low, high = np.percentile(resampled(tuple(sites), seed) @ values, (2.5, 97.5))
    return Interval(mean, float(low), float(high))


@lru_cache(maxsize=8)
def resampled(sites: tuple[str, ...], seed: int) -> F64:
    """Weights of each hospital in each resample, (RESAMPLES, hospitals); each row adds to 1.

    They depend on the names and the seed alone, so all models are compared on the same draws.
    """
    draws = rng.generator(seed, "compare", "hospitals", *sites)
    counts = draws.multinomial(len(sites), np.full(len(sites), 1 / len(sites)), size=RESAMPLES)
    return counts.astype(np.float64) / len(sites)


def worth(hospitals: int) -> str:
    """What an interval from so few hospitals is worth, in a sentence; empty from twenty on."""
    if hospitals < 2:
        return "One hospital: no interval over hospitals can be given."
    if hospitals >= 20:
        return ""
    held = HELD[max(count for count in HELD if count <= hospitals)]
    text = f"{hospitals} hospitals: an interval from so few holds the true mean about {100 * held:.0f} % of the time, not 95 %"
    if hospitals < FEW:
        return f"{text}; all {hospitals} pointing one way happens by chance once in {2 ** (hospitals - 1)}. Nothing is shown."
    return f"{text}."
