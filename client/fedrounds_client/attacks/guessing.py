"""Which canaries to guess about, settled before anything is seen, and what an audit of so many could have found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
from numpy.typing import NDArray

from fedrounds_client.attacks.evidence import LEVEL, p_value
from fedrounds_common.case import F64
from fedrounds_common.dp import accounting
from fedrounds_common.privacy import NoisySteps
from fedrounds_common.rng import generator

SHARES = (0.025, 0.05, 0.075, 0.1, 0.15)  # of the canaries, that are guessed about on either side
TRIES = 200  # audits that are played through
OFTEN = 0.95  # of these must refute
WEAKER = 0.95  # noise that is so much less is tried next


@final
@dataclass(frozen=True)
class Guesses:
    """The `inside` canaries that stand out most are said to be in, the `outside` ones that do least to be out."""

    inside: int
    outside: int

    @property
    def number(self) -> int:
        return self.inside + self.outside

    def right(self, seen: F64, put_in: NDArray[np.bool_]) -> int:
        ordered = put_in[np.argsort(-seen)]
        return int(ordered[: self.inside].sum() + (~ordered[len(ordered) - self.outside :]).sum())


@final
@dataclass(frozen=True)
class Power:
    """`smallest`: the smallest true epsilon at which 19 of 20 such audits refute the claim, for noise of so many clips
    less than claimed (`multiplier`); None: not even without noise."""

    guesses: Guesses
    multiplier: float | None
    smallest: float | None
    claimed: float

    def text(self) -> str:
        if self.multiplier is None:
            return "none: not even a mechanism without noise would have been told from the claim"
        least = "without any noise" if self.smallest is None else f"of a true epsilon of {self.smallest:.2f} or more"
        return (
            f"19 of 20 such audits refute a mechanism {least} (noise multiplier {self.multiplier:.2f} in place of "
            f"{self.claimed:.2f})"
        )


@lru_cache(maxsize=64)
def power_of(steps: NoisySteps, number: int, epsilon: float, delta: float, canaries: int) -> Power:
    """The guesses that refute this claim soonest as noise gets less, and from which epsilon on they do.

    Audits are played through with what a canary looks like: how often it was drawn, and normal noise.
    """
    options = [Guesses(round(share * canaries), round(share * canaries)) for share in SHARES]
    options += [Guesses(2 * each.inside, 0) for each in options]
    wanted = np.array([_wanted(canaries, each.number, epsilon, delta) for each in options])
    draws = generator(0, "power", canaries, number)
    multiplier = steps.multiplier
    while multiplier > 0:
        found = (_right(options, steps.rate, number, multiplier, canaries, draws) >= wanted[:, None]).mean(axis=1)
        if found.max() >= OFTEN:
            true = _epsilon(multiplier, steps.rate, number, delta)
            return Power(options[int(found.argmax())], multiplier, true, steps.multiplier)
        multiplier = multiplier * WEAKER if multiplier > 0.01 * steps.multiplier else 0.0
    found = (_right(options, steps.rate, number, 0.0, canaries, draws) >= wanted[:, None]).mean(axis=1)
    best = options[int(found.argmax())]
    return Power(best, 0.0 if found.max() >= OFTEN else None, None, steps.multiplier)


def _wanted(canaries: int, guesses: int, epsilon: float, delta: float) -> float:
    """How many must be right to refute the claim; infinite: all would not be enough."""
    low, high = 0, guesses + 1
    while low < high:
        middle = (low + high) // 2
        if p_value(canaries, guesses, middle, epsilon, delta) < LEVEL:
            high = middle
        else:
            low = middle + 1
    return math.inf if low > guesses else low


def _right(
    options: list[Guesses], rate: float, number: int, multiplier: float, canaries: int, draws: np.random.Generator
) -> F64:
    """(options, TRIES): how many guesses are right in audits that are played through."""
    put_in = draws.random((TRIES, canaries)) < 0.5
    drawn = draws.binomial(number, rate, put_in.shape) * put_in
    # by so little that it decides between equals only
    seen = drawn + max(multiplier, 1e-9) * math.sqrt(number) * draws.standard_normal(put_in.shape)
    ordered = np.take_along_axis(put_in, np.argsort(-seen, axis=1), axis=1)
    inside, outside = ordered.cumsum(axis=1), (~ordered[:, ::-1]).cumsum(axis=1)
    none = np.zeros(TRIES, np.int64)
    return np.array(
        [inside[:, each.inside - 1] + (outside[:, each.outside - 1] if each.outside else none) for each in options],
        np.float64,
    )


def _epsilon(multiplier: float, rate: float, number: int, delta: float) -> float | None:
    if multiplier < accounting.LEAST:
        return None
    return accounting.epsilon("rdp", multiplier, rate, number, delta)
