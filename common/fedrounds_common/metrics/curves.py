"""Area under the ROC and the precision-recall curve from histograms of scores, which add over sites.

A histogram is (2, bins): how many negative and how many positive cases fell into each bin, scores rising. Within
a bin nobody knows who came first, so its cases count as tied; how far that can be from the truth is known
(`auc_bound`, `ap_bound`) and stands beside the value.
"""

from __future__ import annotations

from math import exp, inf, log, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F64

SPREAD = 4.0  # log-odds at which half of the bins of one side are used up
Z = 1.959963984540054  # of a 95 % interval


def places(probabilities: F64, bins: int) -> NDArray[np.intp]:
    """The bin of each probability, of its own shape.

    Bins are equal steps of z / (4 + |z|), z being the log-odds: networks push probabilities against 0 and 1, where
    equal steps of probability would put thousands of cases into one bin. The order of scores is kept.
    """
    with np.errstate(divide="ignore"):
        odds = np.log(probabilities) - np.log1p(-probabilities)
    with np.errstate(invalid="ignore"):
        share = np.where(np.isinf(odds), np.sign(odds), odds / (SPREAD + np.abs(odds)))
    found: NDArray[np.intp] = np.clip(((1 + share) / 2 * bins).astype(np.intp), 0, bins - 1)
    return found


def histogram(probabilities: F64, truth: F64, bins: int) -> F64:
    """(N,) and (N,) of 0 and 1 → (2, bins): negatives, then positives."""
    where = places(probabilities, bins)
    return np.stack([np.bincount(where[truth == kind], minlength=bins) for kind in (0, 1)]).astype(np.float64)


def auc(counts: F64) -> float:
    """The share of pairs of a positive and a negative in which the positive scores higher; ties count half.

    Source: Hanley and McNeil 1982, Radiology 143:29.
    """
    negative, positive = counts
    pairs = float(negative.sum() * positive.sum())
    if not pairs:
        return nan
    below = np.cumsum(negative) - negative
    return float(positive @ (below + negative / 2)) / pairs


def ranked_pairs(probabilities: F64, truth: F64, weights: F64, bins: int) -> F64:
    """(B, 2): pairs of a positive and a negative in which the positive scores higher (ties half), and all of them.

    Args:
        probabilities, truth: (N,); scores in one of `bins` are ties, as in the histogram.
        weights: (N, B), how often each case counts in each replicate.
    """
    if not len(truth):
        return np.zeros((weights.shape[1], 2))
    where = places(probabilities, bins)
    order = np.argsort(where, kind="stable")
    first = np.flatnonzero(np.diff(where[order], prepend=-1))  # of the cases in each bin that holds any
    positive, negative = (
        np.add.reduceat(weights[order] * (truth[order] == kind)[:, np.newaxis], first, axis=0) for kind in (1, 0)
    )
    below = np.cumsum(negative, axis=0) - negative
    right = (positive * (below + negative / 2)).sum(axis=0)
    return np.stack([right, positive.sum(axis=0) * negative.sum(axis=0)], axis=-1)


def auc_bound(counts: F64) -> float:
    """How far the exact AUC can be from `auc`: half of the pairs that share a bin."""
    negative, positive = counts
    pairs = float(negative.sum() * positive.sum())
    return float(positive @ negative) / 2 / pairs if pairs else nan


def auc_error(counts: F64) -> float:
    """The standard error of `auc`, cases being independent (nan below two of either kind).

    Exact for the binned scores, whose ties are ties. Source: DeLong et al. 1988, Biometrics 44:837.
    """
    negative, positive = counts
    n, m = float(negative.sum()), float(positive.sum())
    if min(n, m) < 2:
        return nan
    area = auc(counts)
    of_positive = (np.cumsum(negative) - negative / 2) / n  # of a positive in this bin: the negatives below it
    of_negative = 1 - (np.cumsum(positive) - positive / 2) / m
    spread = float(positive @ (of_positive - area) ** 2) / (m - 1) / m
    spread += float(negative @ (of_negative - area) ** 2) / (n - 1) / n
    return sqrt(max(spread, 0.0))


def auc_interval(counts: F64) -> tuple[float, float]:
    """95 % of `auc`: DeLong's error on the log-odds of the area; where that error is 0, Newcombe's method 5.

    Source of the latter: Newcombe 2006, Stat Med 25:559. nan below two cases of either kind.
    """
    area, error = auc(counts), auc_error(counts)
    if error != error:
        return nan, nan
    if error > 0 and 0 < area < 1:
        return _by_log_odds(area, error / (area * (1 - area)))
    n, m = (float(kind.sum()) for kind in counts)
    return _newcombe(area, n, m, low=True), _newcombe(area, n, m, low=False)


def ap(counts: F64) -> float:
    """Average precision: Σ over thresholds of (gain of recall) x (precision), each bin one threshold."""
    negative, positive = (kind[::-1] for kind in counts)
    total = float(positive.sum())
    if not total:
        return nan
    used = positive > 0
    precision = np.cumsum(positive)[used] / (np.cumsum(positive) + np.cumsum(negative))[used]
    return float(positive[used] @ precision) / total


def ap_bound(counts: F64) -> float:
    """How far the exact average precision can be from `ap`: bins sorted as well and as badly as can be."""
    negative, positive = (kind[::-1] for kind in counts)
    total = float(positive.sum())
    if not total:
        return nan
    better = worse = 0.0
    before_p, before_n = np.cumsum(positive) - positive, np.cumsum(negative) - negative
    for bin_ in np.flatnonzero(positive):
        found = before_p[bin_] + np.arange(1, positive[bin_] + 1)
        better += float(np.sum(found / (found + before_n[bin_])))
        worse += float(np.sum(found / (found + before_n[bin_] + negative[bin_])))
    value = ap(counts)
    return max(better / total - value, value - worse / total, 0.0)


def ap_interval(counts: F64) -> tuple[float, float]:
    """95 % of `ap`, on its log-odds, from the number of positives. Source: Boyd et al. 2013, ECML PKDD, section 3.2.

    nan below two positives, and at 0 and 1, where this method has no width.
    """
    value, positives = ap(counts), float(counts[1].sum())
    if positives < 2 or not 0 < value < 1:
        return nan, nan
    return _by_log_odds(value, 1 / sqrt(positives * value * (1 - value)))


def _by_log_odds(value: float, error: float) -> tuple[float, float]:
    middle = log(value / (1 - value))
    return tuple(_expit(middle + side * Z * error) for side in (-1, 1))  # type: ignore[return-value]


def _expit(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def _newcombe(area: float, n: float, m: float, *, low: bool) -> float:
    """The area whose own 95 % reach just ends at the one that was found, by bisection."""
    if area == (0.0 if low else 1.0):
        return area
    inside, outside = area, 0.0 if low else 1.0
    for _ in range(60):
        middle = (inside + outside) / 2
        reach = Z * sqrt(_hanley_mcneil(middle, n, m))
        inside, outside = (middle, outside) if abs(area - middle) <= reach else (inside, middle)
    return inside


def _hanley_mcneil(area: float, n: float, m: float) -> float:
    """The variance of an area of two exponential distributions, as Newcombe symmetrises it."""
    if not 0 < area < 1:
        return 0.0 if area in (0.0, 1.0) else inf
    half = (m + n) / 2 - 1
    return area * (1 - area) * (1 + half * (1 - area) / (2 - area) + half * area / (1 + area)) / (m * n)
