"""The weighted mean of the sites' differences: each read once, in site order, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from fedrounds_common.arrays import BLOCK, Array, Arrays, is_float, like, manifest
from fedrounds_common.case import F64
from fedrounds_common.flat import layout_of
from fedrounds_common.strategy import Updates, Weights
from fedrounds_common.summed import Mean, nobody_weighs


@runtime_checkable
class Summing(Protocol):
    """Updates that were added up as they came, or lie where they can be read in parts."""

    def mean(self, weights: Weights) -> Mapping[str, F64]: ...


def weight_of(cases: int, weights: Weights) -> float:
    """How much a site counts: its training cases, 1, or their square root (between the two)."""
    return {"cases": float(cases), "equal": 1.0, "root": float(np.sqrt(cases))}[weights]


def weighted_mean(updates: Updates, weights: Weights = "cases") -> Mapping[str, F64]:
    """Average the sites' differences, each in proportion to its weight.

    Args:
        updates: one a site, sorted by site name: even float64 sums differ in the last bit when
            sites come in another order. Each is dropped before the next is read.

    Returns:
        float64 arrays of the same names and shapes; those of a store are worked out one by one, as they are asked for.

    Raises:
        RoundError: there are no updates, or no site weighs more than 0.

    Source: McMahan et al. 2017, Algorithm 1 (arXiv:1602.05629).
    """
    if isinstance(updates, Summing):
        return updates.mean(weights)
    total: dict[str, F64] = {}
    weight_sum = 0.0
    for update in updates:
        weight = weight_of(update.cases, weights)
        weight_sum += weight
        for name, array in update.arrays.items():
            if name in total:
                _add(total[name].reshape(-1), np.ravel(array), weight)
            else:
                # NumPy makes a plain number of an array without axes, and a number cannot be added to in place
                total[name] = np.asarray(np.multiply(array, weight, dtype=np.float64, order="C"))
    if weight_sum <= 0:
        raise nobody_weighs(len(updates))
    for array in total.values():
        array /= weight_sum
    return total


def _add(total: F64, values: Array, weight: float) -> None:
    """total += weight · values, a block at a time."""
    product = np.empty(min(BLOCK, total.size))
    for start in range(0, total.size, BLOCK):
        part = total[start : start + BLOCK]
        block = product[: part.size]
        np.copyto(block, values[start : start + BLOCK])
        block *= weight
        part += block


def moved(arrays: Arrays, step: Mapping[str, Array]) -> dict[str, Array]:
    """`arrays + step` in float64, in the arrays' own dtypes; integer buffers round to the nearest."""
    result = dict(like(layout_of(tuple(manifest(arrays)))))
    for name, array in arrays.items():
        _move(np.ravel(array), _in_parts(step, name, array), result[name].reshape(-1))
    return result


def _in_parts(step: Mapping[str, Array], name: str, array: Array) -> Callable[[int, int], Array]:
    """From which entry on, how many → these entries of a tensor's step."""
    if isinstance(step, Mean):  # worked out as it is needed
        return lambda start, count: step.part(name, start, count)
    found = np.asarray(step[name])
    whole = np.ravel(found) if found.size == array.size else np.broadcast_to(found, array.shape).reshape(-1)
    return lambda start, count: whole[start : start + count]


def _move(values: Array, step: Callable[[int, int], Array], result: Array) -> None:
    wide = np.empty(min(BLOCK, values.size))
    for start in range(0, values.size, BLOCK):
        part = result[start : start + BLOCK]
        block = wide[: part.size]
        np.copyto(block, values[start : start + BLOCK])
        block += step(start, part.size)
        if not is_float(result):
            np.rint(block, out=block)
        np.copyto(part, block, casting="unsafe")
