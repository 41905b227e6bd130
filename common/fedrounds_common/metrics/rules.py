"""The written rule for masks that are empty, in code; `docs/metrics.md` says it in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import Literal

from fedrounds_common.metrics import overlap, surface
from fedrounds_common.metrics.overlap import Counts, Mask

METRICS = ("dice", "iou", "hd95", "sensitivity", "specificity")
STATES = ("scored", "both-empty", "missed", "spurious")

Empty = Literal["one", "skip"]
State = Literal["scored", "both-empty", "missed", "spurious"]


def state_of(counts: Counts) -> State:
    """What there was to compare: both masks, neither, the reference only, the prediction only."""
    predicted = counts.both + counts.predicted_only > 0
    reference = counts.both + counts.reference_only > 0
    if predicted and reference:
        return "scored"
    if reference:
        return "missed"
    return "spurious" if predicted else "both-empty"


def judge(
    predicted: Mask, reference: Mask, spacing_mm: Sequence[float], *, stacked: bool, empty: Empty
) -> tuple[dict[str, float], State]:
    """Score one region of one case by the rule.

    Args:
        predicted, reference: masks on one grid, (X, Y, Z), (H, W), or a stack (S, H, W).
        spacing_mm: one number a grid axis.
        stacked: the first axis counts slices of a 2D study; HD95 is then taken in their planes.
        empty: what two empty masks are worth: "one" a perfect score, "skip" no score (nan).

    Returns:
        A value for each of METRICS (nan = not defined, left out of means), and the state.
    """
    counts = overlap.count(predicted, reference)
    state = state_of(counts)
    specificity = overlap.specificity(counts)
    values = {"specificity": 1.0 if isnan(specificity) and empty == "one" else specificity}
    if state == "both-empty":
        perfect = 1.0 if empty == "one" else nan
        values |= {"dice": perfect, "iou": perfect, "sensitivity": perfect, "hd95": 0.0 if empty == "one" else nan}
    else:
        values |= {
            "dice": overlap.dice(counts),
            "iou": overlap.iou(counts),
            "sensitivity": overlap.sensitivity(counts),
            "hd95": _hd95(predicted, reference, spacing_mm, stacked)
            if state == "scored"
            else _worst(predicted.shape, spacing_mm, stacked),
        }
    return {metric: values[metric] for metric in METRICS}, state


def mean_over_regions(values: Mapping[str, Mapping[str, float]], metrics: Sequence[str] = METRICS) -> dict[str, float]:
    """One case's mean over its regions, each metric by itself; regions without a value are left out."""
    means = {}
    for metric in metrics:
        defined = [region[metric] for region in values.values() if not isnan(region[metric])]
        means[metric] = sum(defined) / len(defined) if defined else nan
    return means


def _hd95(predicted: Mask, reference: Mask, spacing_mm: Sequence[float], stacked: bool) -> float:
    measure = surface.hd95_of_stack if stacked else surface.hd95
    return measure(predicted, reference, spacing_mm)


def _worst(grid: Sequence[int], spacing_mm: Sequence[float], stacked: bool) -> float:
    first = 1 if stacked else 0
    return surface.diagonal_mm(grid[first:], spacing_mm[first:])
