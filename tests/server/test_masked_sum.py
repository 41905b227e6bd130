"""What a coordinator still looks at where it sees a sum only."""

from __future__ import annotations

import numpy as np
import pytest

from fedrounds_common.arrays import packed
from fedrounds_common.averaging import weight_of
from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.errors import RoundError
from fedrounds_common.strategy import Weights
from fedrounds_server.masked import MaskedSum, thrown_away

TOLD = {"A": 3, "B": 7, "C": 11}


def sum_of(weights: Weights, cases: dict[str, int], *, value: float = 0.5) -> MaskedSum:
    """Of updates whose every entry is `value`, of sites that have told `TOLD` and weigh by `cases`."""
    numbers, update = SecureSum().numbers, packed({"w": np.full(4, value, np.float32), "n": np.array([2])})
    total = sum(numbers.numbers(update, weight_of(each, weights)).view(np.int64) for each in cases.values())
    assert isinstance(total, np.ndarray)
    return MaskedSum(total, numbers, update.layout, weights, TOLD)


@pytest.mark.parametrize("weights", ["cases", "root", "equal"])
def test_a_sum_of_the_cases_that_were_told_passes(weights: Weights) -> None:
    total = sum_of(weights, TOLD)
    total.check(1.0)
    assert total.norm() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("weights", ["cases", "root"])
@pytest.mark.parametrize("cases", [{**TOLD, "A": 4}, {**TOLD, "C": 10}, {"A": 3, "B": 7}])
def test_a_site_that_weighs_more_or_less_than_it_told_spoils_the_round(weights: Weights, cases: dict[str, int]) -> None:
    with pytest.raises(RoundError, match="FR-R83 3 sites that weigh .* as they told") as raised:
        sum_of(weights, cases).check(1.0)
    assert thrown_away(raised.value)


def test_a_mean_that_is_longer_than_is_believed_of_anybody_spoils_the_round() -> None:
    with pytest.raises(RoundError, match="FR-R83 a mean of norm 2; at most 1"):
        sum_of("cases", TOLD, value=1.0).check(1.0)
