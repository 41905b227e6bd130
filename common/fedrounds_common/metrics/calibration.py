"""Whether a probability of 0.8 comes true four times in five: reliability bins, and the temperature that mends it.

All of it is sums, so it equals that of all cases in one place.
"""

from __future__ import annotations

import numpy as np

from fedrounds_common.case import F64

BINS = 15
SURE = 1e-7  # a probability is kept this far from 0 and 1 before its logarithm: float32 tells no more apart
TEMPERATURES = np.exp(np.linspace(-3.0, 3.0, 1201))  # 0.05 to 20, in steps of 0.5 %; the middle one is 1
AT_A_TIME = 256  # cases whose losses at all temperatures are held in memory


def membership(confidence: F64) -> F64:
    """(N,) → (N, BINS): 1 in the bin of each confidence; bins of equal width, the last one with its upper edge."""
    where = np.clip((confidence * BINS).astype(np.intp), 0, BINS - 1)
    return np.eye(BINS)[where]


def reliability(confidence: F64, right: F64) -> F64:
    """(N,) and (N,) of 0 and 1 → (BINS, 3): cases, sum of confidences, how many were right."""
    each = np.stack([np.ones_like(confidence), confidence, right], axis=1)
    binned: F64 = membership(confidence).T @ each
    return binned


def ece(bins: F64) -> F64:
    """Expected calibration error of (..., BINS, 3): the cases' mean distance of confidence and share of right ones.

    Source: Guo et al. 2017 (arXiv:1706.04599). nan without cases.
    """
    cases = bins[..., 0].sum(axis=-1)
    gaps = np.abs(bins[..., 1] - bins[..., 2]).sum(axis=-1)
    error: F64 = np.divide(gaps, cases, out=np.full(np.shape(cases), np.nan), where=cases > 0)
    return error


def log_loss(probabilities: F64, truth: F64, *, exclusive: bool) -> F64:
    """(N, K) and (N, K) → (N, K) of binary losses; `exclusive`: (N, 1), of the true class's probability."""
    p = np.clip(probabilities, SURE, 1 - SURE)
    if exclusive:
        return np.asarray(-(truth * np.log(p)).sum(axis=1, keepdims=True), np.float64)
    return np.asarray(-(truth * np.log(p) + (1 - truth) * np.log1p(-p)), np.float64)


def loss_at_temperatures(logits: F64, truth: F64, *, exclusive: bool) -> F64:
    """(N, K) and (N, K) → (2, len(TEMPERATURES)): the log loss at each temperature, summed over cases.

    First of the truth; second of a truth that nobody knows, all classes being as likely.
    """
    total = np.zeros((2, len(TEMPERATURES)))
    unknown = np.full(truth.shape[1:], 1 / truth.shape[1] if exclusive else 0.5)
    for start in range(0, len(logits), AT_A_TIME):
        x = logits[start : start + AT_A_TIME, np.newaxis] / TEMPERATURES[:, np.newaxis]  # (n, T, K)
        for row, t in zip(total, (truth[start : start + AT_A_TIME, np.newaxis], unknown), strict=True):
            if exclusive:
                highest = x.max(axis=-1, keepdims=True)
                log_sum = np.log(np.exp(x - highest).sum(axis=-1)) + highest[..., 0]
                row += (log_sum - (t * x).sum(axis=-1)).sum(axis=0)
            else:
                row += (np.logaddexp(0, x) - t * x).mean(axis=-1).sum(axis=0)
    return total


def best_temperature(losses: F64, cases: float) -> float:
    """The temperature of the smallest sum; 1 where no case was summed up.

    A share 1 / (cases + 2) of each truth counts as not known, so that a few cases which are all right do not make the
    network infinitely sure. Sources: Guo et al. 2017; Platt 1999, "Probabilistic outputs for support vector machines",
    section 2.2, for the share.
    """
    if not cases:
        return 1.0
    share = 1 / (cases + 2)
    return float(TEMPERATURES[int(np.argmin((1 - share) * losses[0] + share * losses[1]))])
