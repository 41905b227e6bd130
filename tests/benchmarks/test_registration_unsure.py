"""What says whether a registration knows where it is wrong, checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import registration_unsure as unsure


def test_a_map_that_rises_with_the_error_has_rank_correlation_one_and_an_even_one_has_none() -> None:
    error = np.array([0.1, 0.2, 0.4, 0.8], np.float32)
    assert unsure._rank_correlation(error**3, error) == pytest.approx(1)
    assert unsure._rank_correlation(-error, error) == pytest.approx(-1)
    assert unsure._rank_correlation(np.ones(4, np.float32), error) == 0


def test_the_worst_tenth_of_places_is_held_against_the_best() -> None:
    heat = np.arange(101, dtype=np.float32)
    # places 90 to 100 have error 3, the others 1
    error = np.where(heat >= 90, 3.0, 1.0).astype(np.float32)
    assert unsure._worst_to_best(heat, error) == pytest.approx(3)


@pytest.mark.parametrize(
    ("trained", "random", "passes"),
    [((0.1, 0.3), (-0.1, 0.1), True), ((-0.1, 0.3), (-0.1, 0.1), False), ((0.1, 0.3), (0.02, 0.1), False)],
)
def test_a_map_passes_if_it_goes_with_the_error_and_with_random_weights_does_not(
    trained: tuple[float, float], random: tuple[float, float], passes: bool
) -> None:
    one = {name: {"mean": sum(ends) / 2, "low": ends[0], "high": ends[1]} for name, ends in
           (("trained", trained), ("random", random), ("ratio", (1.0, 2.0)))}  # fmt: skip
    assert unsure._passes(one) == passes
    said = unsure.table({"pairs": 9, "phantom": "phantom", "error_mm": 2.0, "maps": {"a": {**one, "passes": passes}}})
    assert said.rstrip().endswith(f"| {'yes' if passes else 'no'} |")


def test_an_interval_of_pairs_that_agree_is_narrow_and_holds_their_mean() -> None:
    found = unsure._interval(np.array([0.3, 0.31, 0.29, 0.3]))
    assert found["mean"] == pytest.approx(0.3)
    assert found["low"] < 0.3 < found["high"]
    assert found["high"] - found["low"] < 0.02
