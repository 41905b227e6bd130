"""What shuffled batches cost: at least this much, where an account of Poisson samples claims less.

Most programs shuffle the cases, cut them into batches and account as if each case had been drawn by a coin of its own.
That is another mechanism. Here is one pair of neighbouring data sets, and one way to look at what comes out, by which its
epsilon can be bounded from below in closed form.
"""

from __future__ import annotations

import math

import numpy as np


def shuffled_epsilon(multiplier: float, batches: int, delta: float) -> float:
    """Epsilon at delta of one pass in shuffled batches: at least this.

    Everybody's clipped gradient is -1, and one patient's is +1 or blank. The one batch that has this patient is higher by
    2 or by 1 than the others; whoever looks at the highest batch and asks whether it is above a limit C sees

        P = 1 - F((C - 2) / s) F(C / s)^(T - 1)   and   Q = 1 - F((C - 1) / s) F(C / s)^(T - 1),

    F the normal distribution, s the multiplier, T batches; delta is at least P - exp(epsilon) Q, for every C.

    Source: Chua et al. 2024 (arXiv:2403.17673), the lower bound on the shuffled ABLQ mechanism. Neighbours as there and in
    our accounts: one patient's images are there or blank.
    """
    from scipy.special import log_ndtr

    limits = np.linspace(0, 2 + 12 * multiplier, 20_001)
    rest = (batches - 1) * log_ndtr(limits / multiplier)
    there = -np.expm1(log_ndtr((limits - 2) / multiplier) + rest)
    blank = -np.expm1(log_ndtr((limits - 1) / multiplier) + rest)

    def possible(epsilon: float) -> bool:
        return bool((there - math.exp(epsilon) * blank).max() <= delta)

    if possible(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not possible(high) and high < 500:
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return low
