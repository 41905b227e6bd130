"""The mean of the last stretch of training: which models count, and that it is their mean."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedrounds_common.tail import Tail, counted, marks


def test_the_last_share_of_the_rounds_counts() -> None:
    assert list(counted(10, 0.3)) == [8, 9, 10]
    assert list(counted(10, 1.0)) == list(range(1, 11))


def test_a_share_too_small_for_a_round_is_the_last_round() -> None:
    assert list(counted(4, 0.01)) == [4]


def test_without_a_share_or_without_rounds_nothing_is_averaged() -> None:
    assert not list(counted(10, 0.0))
    assert not list(counted(0, 0.5))
    assert not marks(0, 0.5, 100)


def test_the_mean_is_that_of_the_models_and_counters_are_the_last_ones() -> None:
    rng = np.random.default_rng(0)
    models = [{"w": rng.normal(size=(3, 2)).astype(np.float32), "n": np.array(step)} for step in range(5)]
    tail = Tail()
    for model in models:
        tail = tail.plus(model)
    mean = tail.mean(models[-1])
    np.testing.assert_allclose(mean["w"], np.mean([m["w"].astype(np.float64) for m in models], axis=0), rtol=1e-6)
    assert mean["w"].dtype == np.float32
    assert mean["n"] == 4


def test_the_mean_of_one_model_is_that_model_to_the_bit() -> None:
    model = {"w": np.float32([0.1, 1e-30, 3e8])}
    assert Tail().plus(model).mean(model)["w"].tobytes() == model["w"].tobytes()


def test_what_was_summed_before_stays_as_it_was() -> None:
    first = Tail().plus({"w": np.ones(2, np.float32)})
    first.plus({"w": np.ones(2, np.float32)})
    assert first.sums["w"].tolist() == [1.0, 1.0]


@given(st.integers(1, 60), st.floats(0.01, 1.0), st.integers(1, 500))
def test_a_baseline_is_averaged_over_the_same_stretch_and_its_last_step_counts(
    rounds: int, share: float, steps: int
) -> None:
    found = marks(rounds, share, steps)
    assert max(found) == steps
    assert min(found) >= steps * (rounds - len(counted(rounds, share))) / rounds
    assert all(1 <= step <= steps for step in found)
