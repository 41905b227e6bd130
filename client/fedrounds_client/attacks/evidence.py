"""How sure an attack's success is: what its counts refute, and what so few could not have shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np

from fedrounds_common.case import F64

LEVEL = 0.05  # a claim is refuted where it would be seen so far out in one of twenty audits at most


@lru_cache(maxsize=4096)
def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """At most how probable it is that so many guesses or more are right, if the mechanism keeps (epsilon, delta).

    Args:
        canaries: each was put in or left out by a fair coin. guesses: for how many of them it was guessed which.

    Returns:
        P[B >= v] + 2 m delta max_i P[v - i <= B < v] / i, of B ~ Binomial(guesses, 1 / (1 + exp(-epsilon))); at most 1.

    Source: Steinke, Nasr, Jagielski 2023 (arXiv:2305.08846), Corollary 5.4; its number of 0.673 for 75 right of 100
    guesses, 1,000 canaries and delta 1e-4 is a test of ours.
    """
    from scipy.stats import binom

    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, chance))
    if right == 0 or delta == 0:
        return min(tail, 1.0)
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
    slack = float((below / np.arange(1, right + 1)).max())
    return min(tail + 2 * canaries * delta * slack, 1.0)


@lru_cache(maxsize=4096)
def epsilon_at_least(canaries: int, guesses: int, right: int, delta: float, level: float = LEVEL) -> float:
    """The largest epsilon that so many right guesses refute, to 1e-6; 0 if they refute none."""

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, right, epsilon, delta) < level

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def between(hits: int, of: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share, by Clopper and Pearson (1934): never too short."""
    from scipy.special import betaincinv

    low = float(betaincinv(hits, of - hits + 1, level / 2)) if hits else 0.0
    high = float(betaincinv(hits + 1, of - hits, 1 - level / 2)) if hits < of else 1.0
    return low, high


@final
@dataclass(frozen=True)
class Rate:
    """True positives at a rate of false ones: `hits` of `members` lie above all but `allowed` of the `others`.

    `epsilon`: what these counts refute, of both intervals together; 0 if nothing. `needed`: the share of members that
    would have had to be found before it could be told from guessing. None of both where there are too few others.
    """

    false: float
    allowed: int
    hits: int
    members: int
    others: int

    @property
    def measurable(self) -> bool:
        """Whether a rate so low can be had at all: of 50 others the lowest above 0 is 2 %."""
        return self.allowed >= 1

    @property
    def share(self) -> float:
        return self.hits / self.members

    @property
    def interval(self) -> tuple[float, float]:
        return between(self.hits, self.members)

    @property
    def epsilon(self) -> float:
        """ln of least true over most false positives, each at half the level: of the whole 95 % are sure."""
        low = between(self.hits, self.members)[0]
        return max(0.0, math.log(low / between(self.allowed, self.others)[1])) if low else 0.0

    @property
    def needed(self) -> float:
        """The smallest share of members found that would have refuted epsilon 0; above 1: none would have."""
        most_false = between(self.allowed, self.others)[1]
        found = next((n for n in range(self.members + 1) if between(n, self.members)[0] > most_false), self.members + 1)
        return found / self.members


def rate_at(members: F64, others: F64, false: float) -> Rate:
    """How many members lie above all but so many others; larger scores say "member".

    A tie with the other that is the limit counts as not found.
    """
    allowed = math.floor(false * len(others) + 1e-9)
    ordered = np.sort(others)[::-1]
    limit = ordered[allowed] if allowed < len(ordered) else -math.inf
    return Rate(false, allowed, int((members > limit).sum()), len(members), len(others))


def area(members: F64, others: F64) -> tuple[float, float, float]:
    """The area under the ROC curve with its 95 % interval: Hanley and McNeil (1982); ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([members, others]))
    m, n = len(members), len(others)
    value = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    one, two = value / (2 - value), 2 * value**2 / (1 + value)
    variance = (value * (1 - value) + (m - 1) * (one - value**2) + (n - 1) * (two - value**2)) / (m * n)
    half = 1.96 * math.sqrt(max(variance, 0.0))
    return value, max(value - half, 0.0), min(value + half, 1.0)
