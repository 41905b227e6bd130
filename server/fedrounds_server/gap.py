"""The share of the way from `initial` to `pooled` that the consensus goes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from fedrounds_common.case import F64
from fedrounds_server.compare import common_sites, contestants, mean_over
from fedrounds_server.intervals import Interval, interval, resampled, worth
from fedrounds_server.tables import MEAN, MetricRow

NAMES = ("initial", "consensus", "pooled")


@final
@dataclass(frozen=True)
class Gap:
    """The way from `initial` to `pooled`, and the share of it that the consensus went (1 = all of it)."""

    region: str
    metric: str
    share: Interval
    whole: Interval
    left: Interval
    hospitals: int
    note: str = ""


def gap(
    rows: Iterable[MetricRow], metric: str, cohort: str, region: str = MEAN, seed: int = 0, *, lower: bool
) -> Gap | None:
    """How much of what pooling the data would bring the consensus brings; None without those models.

    `lower`: less of the measure is better.
    """
    return gap_of_runs((tuple(rows),), metric, cohort, region, seed, lower=lower)


def gap_of_runs(
    runs: Sequence[Sequence[MetricRow]], metric: str, cohort: str, region: str = MEAN, seed: int = 0, *, lower: bool
) -> Gap | None:
    """As `gap`, with each hospital's values averaged over the runs."""
    found = [contestants(rows, metric, cohort, lower=lower) for rows in runs]
    if not found or any(name not in one for one in found for name in NAMES):
        return None
    sites = common_sites([one[name] for one in found for name in NAMES], region)
    if not sites:
        return None
    initial, consensus, pooled = (mean_over([one[name] for one in found], region, sites) for name in NAMES)
    way, gone = pooled - initial, consensus - initial
    share, note = _share(gone, way, sites, seed, lower)
    left = interval(consensus - pooled, sites, seed)
    return Gap(region, metric, share, interval(way, sites, seed), left, len(sites), note)


def _share(gone: F64, way: F64, sites: Sequence[str], seed: int, lower: bool) -> tuple[Interval, str]:
    """The ratio of the means, each resample dividing its own two."""
    sign = -1.0 if lower else 1.0
    if sign * float(np.mean(way)) <= 0:
        return Interval(math.nan), "pooled is no better than initial: there is no gap to close"
    share = float(np.mean(gone) / np.mean(way))
    if len(sites) < 2:
        return Interval(share), worth(len(sites))
    draws = resampled(tuple(sites), seed)
    below, above = draws @ way, draws @ gone
    if np.any(sign * below <= 0):
        return Interval(share), "the gap itself is not shown: the share has no interval"
    low, high = np.percentile(above / below, (2.5, 97.5))
    return Interval(share, float(low), float(high)), worth(len(sites))
