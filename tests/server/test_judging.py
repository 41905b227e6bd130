"""Scores that cannot be added cost one site, and nothing of the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import check_tally
from fedrounds_common.study.tables import CaseForm, Evaluation
from fedrounds_common.tasks.segmentation import Segmentation

FORM, RULE = CaseForm(), Evaluation(resamples=3)


def of_nothing() -> dict[str, Any]:
    return dict(Segmentation().tally((), FORM, RULE, 0))


def test_sums_of_the_same_names_types_and_shapes_may_be_added() -> None:
    check_tally({name: array + 1 for name, array in of_nothing().items()}, of_nothing())


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"cases": np.zeros(2)}, r"cases <f8 \(2,\) has no match"),
        ({"cases": np.zeros(1, np.float32)}, r"cases <f4 \(1,\) has no match"),
        ({"weight": np.zeros(1)}, r"weight <f8 \(1,\) has no match"),
        ({"cases": np.array([np.nan])}, "cases holds numbers that are not finite"),
    ],
)
def test_other_sums_are_refused(changed: dict[str, Any], found: str) -> None:
    with pytest.raises(UpdateError, match=f"FR-R04 {found}"):
        check_tally(of_nothing() | changed, of_nothing())


def test_a_sum_that_is_not_there_is_refused() -> None:
    lacking = of_nothing()
    del lacking["state"]
    with pytest.raises(UpdateError, match=r"FR-R04 state <f8 \(2, 4\) has no match"):
        check_tally(lacking, of_nothing())
