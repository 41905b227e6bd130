"""Overlap of two masks, from four counts. A fraction with nothing below its line is nan; `rules` decides."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@final
@dataclass(frozen=True)
class Counts:
    """Voxels in both masks, in the prediction only, in the reference only, in neither."""

    both: int
    predicted_only: int
    reference_only: int
    neither: int


def count(predicted: Mask, reference: Mask) -> Counts:
    """Compare two masks of one shape.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != reference.shape:
        raise ValueError(f"prediction {predicted.shape}, reference {reference.shape}: one shape wanted")
    both = int(np.count_nonzero(predicted & reference))
    predicted_only = int(np.count_nonzero(predicted)) - both
    reference_only = int(np.count_nonzero(reference)) - both
    return Counts(both, predicted_only, reference_only, predicted.size - both - predicted_only - reference_only)


def dice(counts: Counts) -> float:
    """2 |A ∩ B| / (|A| + |B|); nan if both are empty."""
    return _fraction(2 * counts.both, 2 * counts.both + counts.predicted_only + counts.reference_only)


def iou(counts: Counts) -> float:
    """|A ∩ B| / |A ∪ B|; nan if both are empty."""
    return _fraction(counts.both, counts.both + counts.predicted_only + counts.reference_only)


def sensitivity(counts: Counts) -> float:
    """Share of the reference that was found; nan if the reference is empty."""
    return _fraction(counts.both, counts.both + counts.reference_only)


def specificity(counts: Counts) -> float:
    """Share of the rest that was left alone; nan if the reference fills the grid."""
    return _fraction(counts.neither, counts.neither + counts.predicted_only)


def mask_of(labels: NDArray[Any], values: tuple[int, ...]) -> Mask:
    """Where uint8 `labels` hold one of `values`."""
    table = np.zeros(256, np.bool_)
    table[list(values)] = True
    mask: Mask = table[labels]
    return mask


def _fraction(above: int, below: int) -> float:
    return above / below if below else nan
