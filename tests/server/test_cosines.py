"""Cosines from a part of the weights: exact of a small network, near of a large one, and small in memory."""

from __future__ import annotations

import numpy as np
import pytest

from fedrounds_common.arrays import Arrays
from fedrounds_server.cosines import LEAST, MOST, TOGETHER, cosine, nearness, sample, sampled_of


def model(seed: int, size: int) -> Arrays:
    draws = np.random.default_rng(seed)
    return {
        "w": draws.normal(size=size).astype(np.float32),
        "seen": np.array(3, np.int64),
        "b": draws.normal(size=size // 7).astype(np.float32),
    }


def exact(update: Arrays, step: Arrays) -> float:
    a, b = (np.concatenate([each["w"], each["b"]]).astype(np.float64) for each in (update, step))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def plus(a: Arrays, b: Arrays, share: float) -> Arrays:
    return {name: (a[name] + share * b[name]).astype(a[name].dtype) for name in a}


def test_of_a_network_no_larger_than_that_every_weight_is_looked_at() -> None:
    # 3 + 4 float entries; the counter is none
    arrays = {"w": np.float32([1, 2, 3]), "n": np.array(9, np.int64), "b": np.float32([4, 5, 6, 7])}
    np.testing.assert_array_equal(sample(arrays, 7), [1, 2, 3, 4, 5, 6, 7])


def test_what_is_left_out_is_left_out_evenly_across_tensors() -> None:
    arrays = {"w": np.arange(5, dtype=np.float32), "n": np.array(9, np.int64), "b": np.arange(5, 12, dtype=np.float32)}
    # twelve of which five at most: every third, wherever the tensors end
    np.testing.assert_array_equal(sample(arrays, 5), [0, 3, 6, 9])


def test_a_cosine_is_exact_where_all_is_looked_at_and_near_where_not() -> None:
    start, step, other = model(0, 200_000), model(1, 200_000), model(2, 200_000)
    update, after = plus(step, other, 0.75), plus(start, step, 1.0)
    wanted = exact(update, step)
    assert wanted == pytest.approx(0.8, abs=0.01)
    for most, near in ((10**6, 1e-5), (MOST, 2 * nearness(MOST)), (LEAST, 2 * nearness(LEAST))):
        found = cosine(sample(update, most), sample(start, most), sample(after, most))
        assert found == pytest.approx(wanted, abs=near)


def test_what_does_not_move_has_no_cosine() -> None:
    still, moves = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert cosine(still, still, moves) is None
    assert cosine(moves, moves, moves) is None


@pytest.mark.parametrize(("sites", "weights"), [(1, MOST), (71, MOST), (1000, TOGETHER // 1000), (10_000, LEAST)])
def test_the_more_sites_the_fewer_weights_of_each(sites: int, weights: int) -> None:
    assert sampled_of(sites) == weights
    assert sites * weights * 4 <= 40 * 2**20
