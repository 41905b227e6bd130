"""The weighted mean of the sites' differences: read once each, in site order, in float64."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedrounds_common.arrays import Array, Arrays, is_float
from fedrounds_common.case import F64
from fedrounds_common.errors import RoundError
from fedrounds_common.strategy import Updates

Weights = Literal["cases", "equal", "root"]


def weight_of(cases: int, weights: Weights) -> float:
    """How much a site counts: its training cases, 1, or their square root (between the two)."""
    return {"cases": float(cases), "equal": 1.0, "root": float(np.sqrt(cases))}[weights]


def weighted_mean(updates: Updates, weights: Weights = "cases") -> dict[str, F64]:
    """Average the sites' differences, each in proportion to its weight.

    Args:
        updates: one a site, sorted by site name: even float64 sums differ in the last bit when
            sites come in another order. Each is dropped before the next is read.

    Returns:
        float64 arrays of the same names and shapes.

    Raises:
        RoundError: there are no updates, or no site weighs more than 0.

    Source: McMahan et al. 2017, Algorithm 1 (arXiv:1602.05629).
    """
    total: dict[str, F64] = {}
    weight_sum = 0.0
    for update in updates:
        weight = weight_of(update.cases, weights)
        weight_sum += weight
        for name, array in update.arrays.items():
            # NumPy makes a plain number of an array without axes, and a number cannot be divided in place
            share = np.asarray(np.multiply(array, weight, dtype=np.float64))
            if name in total:
                total[name] += share
            else:
                total[name] = share
    if weight_sum <= 0:
        raise RoundError("FR-R20", f"all {len(updates)} sites weigh 0", do="did every site report 0 cases?")
    for array in total.values():
        array /= weight_sum
    return total


def moved(arrays: Arrays, step: Arrays) -> dict[str, Array]:
    """`arrays + step` in float64, in the arrays' own dtypes; integer buffers round to the nearest."""
    return {name: _cast(array.astype(np.float64) + step[name], array) for name, array in arrays.items()}


def _cast(value: F64, like: Array) -> Array:
    return (value if is_float(like) else np.rint(value)).astype(like.dtype)
