"""What noise costs: epsilon at delta of many steps, each on a Poisson sample, with Gaussian noise.

Adding or taking away all that is of one patient changes the sum of a step by at most the clip; the noise's standard
deviation is `multiplier` clips. No torch here: a site weighs a study's promise before it permits anything.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from fedrounds_common.case import F64

Accountant = Literal["rdp", "prv"]
# Opacus' own orders, and more above them: of little noise the best are low, of much noise high
ORDERS = (*(1 + tenth / 10 for tenth in range(1, 100)), *map(float, range(12, 64)), 80.0, 128.0, 256.0, 512.0, 1024.0)
LEAST, MOST = 0.1, 1e4  # noise multipliers that are believed
GRID = 1000  # a multiplier that is found is a whole number of thousandths
POINTS_A_DEVIATION = 30


def epsilon(accountant: Accountant, multiplier: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon at delta of so many steps.

    Args:
        multiplier: standard deviation of the noise, in clips. rate: at which each patient is drawn into a step.

    Returns:
        Never too small. By "rdp" a bound that is easily checked; by "prv" as Opacus computes it, which is at most
        0.01 above the truth.
    """
    if steps == 0:
        return 0.0
    bound = epsilon_of(steps * divergence(multiplier, rate), delta)
    # of very small epsilons the numerical one is the coarser
    return min(bound, _by_prv(multiplier, rate, steps, delta)) if accountant == "prv" else bound


def together(steps: Mapping[tuple[float, float], int], delta: float) -> float:
    """Epsilon at delta of steps of several kinds: multiplier and rate → how many; by "rdp", which adds them up."""
    kinds = [count * divergence(multiplier, rate) for (multiplier, rate), count in steps.items() if count]
    return epsilon_of(np.sum(kinds, axis=0), delta) if kinds else 0.0


@lru_cache(maxsize=64)
def noise_multiplier(accountant: Accountant, target: float, rate: float, steps: int, delta: float) -> float:
    """The smallest multiplier, in thousandths, that keeps so many steps within `target`.

    Raises:
        ValueError: none up to 10,000 does.
    """
    if epsilon("rdp", MOST, rate, steps, delta) > target:
        raise ValueError(f"no noise keeps {steps} steps at rate {rate:g} within epsilon {target:g}")

    def within(thousandths: int) -> bool:
        return epsilon(accountant, thousandths / GRID, rate, steps, delta) <= target

    low, high = int(LEAST * GRID) - 1, int(MOST * GRID)
    # what suffices by the looser account suffices by the other, which is slow; else from 1 on, by doubling
    near = GRID if accountant == "rdp" else round(GRID * noise_multiplier("rdp", target, rate, steps, delta))
    while near < high and not within(near):
        low, near = near, 2 * near
    high = min(near, high)
    near = high * 3 // 4
    while near > low and within(near):
        high, near = near, near * 3 // 4
    low = max(low, near)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return high / GRID


def left_beside_a_count(multiplier: float, count_noise: float) -> float:
    """The multiplier for a sum beside which a count is told, where both together are to be as good as `multiplier`.

    Args:
        count_noise: standard deviation of the noise on the count, of which each part is ½ up or down.

    Source: Andrew, Thakkar, McMahan, Ramaswamy 2021 (arXiv:1905.03871), Theorem 1.
    """
    rest = multiplier**-2 - (2 * count_noise) ** -2
    if rest <= 0:
        raise ValueError(f"a count with noise of {count_noise:g} tells more than noise of {multiplier:g} allows")
    return float(rest**-0.5)


def divergence(multiplier: float, rate: float, orders: Sequence[float] = ORDERS) -> F64:
    """Rényi divergence of one step, at each order: how far a patient's being there can move what is seen.

    Source: Mironov, Talwar, Zhang 2019 (arXiv:1908.10530), Theorem 4: it is that of a mixture of two Gaussians from one
    of them. Their series is not used: the integral is smooth, and the trapezoid rule is exact to rounding for it.
    """
    if rate == 1:
        return np.array([order / (2 * multiplier**2) for order in orders])
    return np.array([_log_moment(multiplier, rate, order) / (order - 1) for order in orders])


def _log_moment(multiplier: float, rate: float, order: float) -> float:
    """log E[((1 − q) + q exp((2x − 1) / 2σ²))^order] of x ~ N(0, σ²)."""
    step = multiplier / POINTS_A_DEVIATION
    x = np.arange(-12 * multiplier, order + 12 * multiplier, step)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * multiplier**2))
    weight = -((x / multiplier) ** 2) / 2 + math.log(step / (multiplier * math.sqrt(2 * math.pi)))
    whole = weight + order * ratio
    largest = float(whole.max())
    total = largest + math.log(float(np.exp(whole - largest).sum()))
    if total > 0.01:
        return total
    # so near 0 that 1 + … would round it away: E[… − 1] instead
    power = order * ratio
    excess = np.where(power < 30, np.exp(weight) * np.expm1(np.minimum(power, 30)), np.exp(whole))
    return math.log1p(max(float(excess.sum()), 0.0))


def epsilon_of(divergences: F64, delta: float, orders: Sequence[float] = ORDERS) -> float:
    """The smallest epsilon at delta that some order of a Rényi divergence gives.

    Source: Canonne, Kamath, Steinke 2020 (arXiv:2004.00010), Proposition 12.
    """
    order = np.array(orders)
    bounds = divergences + np.log1p(-1 / order) - (math.log(delta) + np.log(order)) / (order - 1)
    return max(0.0, float(bounds.min()))


@lru_cache(maxsize=256)
def _by_prv(multiplier: float, rate: float, steps: int, delta: float) -> float:
    """Gopi, Lee, Wutschitz 2021 (arXiv:2106.02848)."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(multiplier, rate, steps)]
    with warnings.catch_warnings():  # of the orders with which it looks how wide its grid must be
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta=delta))
