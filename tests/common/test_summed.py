"""The sum of updates larger than a block, with tensors that end anywhere: in memory and in a file, one by one and together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedrounds_common.arrays import BLOCK, Arrays, digest, packed
from fedrounds_common.averaging import moved
from fedrounds_common.disk import Scratch
from fedrounds_common.errors import RoundError
from fedrounds_common.summed import WeightedSum

SIZES = {"a": 3, "b": BLOCK - 2, "n": 5, "c": 2 * BLOCK + 1, "d": 1, "e": 0, "f": BLOCK}


def update(seed: int) -> Arrays:
    draws = np.random.default_rng(seed)
    return {
        name: draws.integers(-9, 9, size) if name == "n" else draws.normal(size=size).astype(np.float32)
        for name, size in SIZES.items()
    }


WEIGHTS = (3.0, 7.0**0.5, 11.0)


@pytest.mark.parametrize("held", [None, 0, BLOCK + 5, 3 * BLOCK, 99 * BLOCK])
@pytest.mark.parametrize("together", [1, 2, 3])
def test_every_entry_is_the_sum_in_order_however_it_was_made(held: int | None, together: int, tmp_path: Path) -> None:
    updates = [update(seed) for seed in range(3)]
    flat = [packed(each) for each in updates]
    total = WeightedSum(flat[0].layout) if held is None else WeightedSum(flat[0].layout, Scratch(tmp_path), held)
    sources = list(zip(flat, WEIGHTS, strict=True))
    for start in range(0, 3, together):
        total.add(sources[start : start + together])
    mean = total.mean(3)
    for name in SIZES:
        one, two, three = (each[name].astype(np.float64) for each in updates)
        wanted = (one * WEIGHTS[0] + two * WEIGHTS[1] + three * WEIGHTS[2]) / ((WEIGHTS[0] + WEIGHTS[1]) + WEIGHTS[2])
        np.testing.assert_array_equal(mean[name], wanted)
    start = {name: array.copy() for name, array in update(9).items()}
    # in parts as they are needed, or of whole tensors: the same
    assert digest(moved(start, mean)) == digest(moved(start, dict(mean)))


def test_sites_that_weigh_nothing_have_no_mean() -> None:
    flat = packed(update(0))
    total = WeightedSum(flat.layout)
    total.add([(flat, 0.0)])
    with pytest.raises(RoundError, match="FR-R20 all 1 sites weigh 0"):
        total.mean(1)


def test_adding_nobody_changes_nothing() -> None:
    flat = packed(update(0))
    total = WeightedSum(flat.layout)
    total.add([])
    total.add([(flat, 2.0)])
    total.add([])
    np.testing.assert_array_equal(total.mean(1)["c"], flat["c"])
