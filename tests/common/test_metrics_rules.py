"""The empty-mask rule of docs/metrics.md, row by row."""

from __future__ import annotations

from math import isnan, nan, sqrt
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrounds_common.metrics import rules, surface
from fedrounds_common.metrics.overlap import Mask

Empty = Literal["one", "skip"]
GRID = (4, 5)
DIAGONAL = sqrt(3**2 + (4 * 2) ** 2)  # mm, at (1, 2) mm
NOTHING = np.zeros(GRID, bool)
ONE = NOTHING.copy()
ONE[1, 1] = True
TWO = ONE.copy()
TWO[1, 2] = True
ALL = np.ones(GRID, bool)


def judge(predicted: Mask, reference: Mask, empty: Empty = "one") -> tuple[dict[str, float], str]:
    return rules.judge(predicted, reference, (1, 2), stacked=False, empty=empty)


def row(dice: float, iou: float, hd95: float, sensitivity: float, specificity: float) -> dict[str, float]:
    return {"dice": dice, "iou": iou, "hd95": hd95, "sensitivity": sensitivity, "specificity": specificity}


@pytest.mark.parametrize(
    ("predicted", "reference", "empty", "state", "values"),
    [
        (NOTHING, NOTHING, "one", "both-empty", row(1, 1, 0, 1, 1)),
        (NOTHING, NOTHING, "skip", "both-empty", row(nan, nan, nan, nan, 1)),
        (NOTHING, ONE, "one", "missed", row(0, 0, DIAGONAL, 0, 1)),
        (NOTHING, ONE, "skip", "missed", row(0, 0, DIAGONAL, 0, 1)),
        (ONE, NOTHING, "one", "spurious", row(0, 0, DIAGONAL, nan, 19 / 20)),
        (ONE, NOTHING, "skip", "spurious", row(0, 0, DIAGONAL, nan, 19 / 20)),
        # distances {0, 2} and {0}, in mm: the 95th percentile is 1.9
        (TWO, ONE, "one", "scored", row(2 / 3, 1 / 2, 1.9, 1, 18 / 19)),
        (ONE, TWO, "skip", "scored", row(2 / 3, 1 / 2, 1.9, 1 / 2, 1)),
        (ALL, ALL, "one", "scored", row(1, 1, 0, 1, 1)),
        (ALL, ALL, "skip", "scored", row(1, 1, 0, 1, nan)),
        (NOTHING, ALL, "one", "missed", row(0, 0, DIAGONAL, 0, 1)),
        (NOTHING, ALL, "skip", "missed", row(0, 0, DIAGONAL, 0, nan)),
    ],
)
def test_every_row_of_the_written_rule(
    predicted: Mask, reference: Mask, empty: Empty, state: str, values: dict[str, float]
) -> None:
    found, found_state = judge(predicted, reference, empty)
    assert found_state == state
    assert list(found) == list(rules.METRICS)
    for metric, value in values.items():
        assert found[metric] == pytest.approx(value, nan_ok=True), metric


@given(arrays(np.bool_, GRID), arrays(np.bool_, GRID), st.sampled_from(["one", "skip"]))
def test_nan_comes_only_where_the_rule_says(predicted: Mask, reference: Mask, empty: Empty) -> None:
    values, state = judge(predicted, reference, empty)
    undefined = {metric for metric, value in values.items() if isnan(value)}
    allowed: set[str] = {"sensitivity"} if state == "spurious" else set()
    if empty == "skip":
        allowed |= {"dice", "iou", "hd95", "sensitivity"} if state == "both-empty" else set()
        allowed |= {"specificity"} if reference.all() else set()
    assert undefined == allowed


@given(arrays(np.bool_, GRID), arrays(np.bool_, GRID))
def test_no_prediction_is_better_than_the_reference_itself(predicted: Mask, reference: Mask) -> None:
    best, _ = judge(reference, reference)
    values, state = judge(predicted, reference)
    for metric in ("dice", "iou", "specificity"):
        assert values[metric] <= best[metric]
    assert values["hd95"] >= best["hd95"]
    assert state in rules.STATES


@given(arrays(np.bool_, GRID), arrays(np.bool_, GRID))
def test_a_lesion_found_anywhere_is_no_worse_than_one_missed(predicted: Mask, reference: Mask) -> None:
    if predicted.any() and reference.any():
        assert judge(predicted, reference)[0]["hd95"] <= judge(NOTHING, reference)[0]["hd95"]


def test_the_cubes_of_the_written_examples() -> None:
    a, b = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    a[2:6, 2:6, 2:6] = b[4:8, 2:6, 2:6] = True
    values, _ = rules.judge(a, b, (1, 1, 1), stacked=False, empty="one")
    assert values["dice"] == pytest.approx(0.5)
    assert values["iou"] == pytest.approx(1 / 3)
    assert values["sensitivity"] == pytest.approx(0.5)
    assert values["hd95"] == pytest.approx(2)


def test_a_stack_is_measured_in_its_planes_and_missed_by_the_planes_diagonal() -> None:
    reference = np.zeros((3, *GRID), bool)
    reference[:, 1, 1] = True
    moved = np.roll(reference, 1, axis=2)
    spacing = (50.0, 1.0, 2.0)
    values, _ = rules.judge(moved, reference, spacing, stacked=True, empty="one")
    assert values["hd95"] == pytest.approx(2)
    one_slice = reference.copy()
    one_slice[1:] = False
    values, _ = rules.judge(one_slice, reference, spacing, stacked=True, empty="one")
    assert values["hd95"] == pytest.approx(DIAGONAL)
    assert values["dice"] == pytest.approx(1 / 2)  # of the stack: 2 · 1 / (1 + 3)
    values, _ = rules.judge(np.zeros_like(reference), reference, spacing, stacked=True, empty="one")
    assert values["hd95"] == pytest.approx(DIAGONAL)
    values, _ = rules.judge(np.zeros_like(reference), reference, spacing, stacked=False, empty="one")
    assert values["hd95"] == pytest.approx(surface.diagonal_mm(reference.shape, spacing))


def test_the_mean_is_over_the_regions_that_have_a_value() -> None:
    values = {
        "ET": row(1, nan, 3, nan, 0.5),
        "TC": row(0, 0.25, 5, nan, 1),
        "WT": row(0.2, 0.75, 1, nan, 0.9),
    }
    means = rules.mean_over_regions(values)
    assert list(means) == list(rules.METRICS)
    assert means["dice"] == pytest.approx(0.4)
    assert means["iou"] == pytest.approx(0.5)
    assert means["hd95"] == pytest.approx(3)
    assert isnan(means["sensitivity"])
    assert means["specificity"] == pytest.approx(0.8)
