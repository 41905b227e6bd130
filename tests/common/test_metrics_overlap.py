"""Overlap of two masks, by hand and as properties."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from fedrounds_common.metrics import overlap
from fedrounds_common.metrics.overlap import Counts, Mask, count

# both 3, prediction alone 1, reference alone 2, neither 4
SOME = Counts(3, 1, 2, 4)
FRACTIONS = (overlap.dice, overlap.iou, overlap.sensitivity, overlap.specificity)

masks = arrays(np.bool_, (3, 4))


def test_counts_by_hand() -> None:
    predicted = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    reference = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
    assert count(predicted, reference) == SOME


def test_scores_by_hand() -> None:
    assert overlap.dice(SOME) == pytest.approx(6 / 9)
    assert overlap.iou(SOME) == pytest.approx(3 / 6)
    assert overlap.sensitivity(SOME) == pytest.approx(3 / 5)
    assert overlap.specificity(SOME) == pytest.approx(4 / 5)


def test_nothing_to_divide_by_is_nan() -> None:
    nothing = Counts(0, 0, 0, 7)
    assert isnan(overlap.dice(nothing))
    assert isnan(overlap.iou(nothing))
    assert isnan(overlap.sensitivity(nothing))
    assert overlap.specificity(nothing) == 1
    assert isnan(overlap.specificity(Counts(3, 0, 4, 0)))


def test_masks_of_two_shapes_are_an_error() -> None:
    # (3, 4) and (4,) would be stretched to one shape in silence
    with pytest.raises(ValueError, match=r"prediction \(3, 4\), reference \(4,\): one shape wanted"):
        count(np.zeros((3, 4), bool), np.zeros(4, bool))


def test_a_mask_is_where_any_of_the_values_stands() -> None:
    labels = np.array([[0, 1, 2], [4, 1, 255]], np.uint8)
    np.testing.assert_array_equal(overlap.mask_of(labels, (1, 255)), [[0, 1, 0], [0, 1, 1]])
    assert overlap.mask_of(labels, (3,)).sum() == 0


@given(masks, masks)
def test_counts_add_up_to_the_grid(predicted: Mask, reference: Mask) -> None:
    counts = count(predicted, reference)
    assert counts.both + counts.predicted_only + counts.reference_only + counts.neither == 12
    assert min(counts.both, counts.predicted_only, counts.reference_only, counts.neither) >= 0


@given(masks, masks)
def test_fractions_are_within_0_and_1_or_nan(predicted: Mask, reference: Mask) -> None:
    for fraction in FRACTIONS:
        value = fraction(count(predicted, reference))
        assert isnan(value) or 0 <= value <= 1


@given(masks, masks)
def test_dice_and_iou_do_not_care_which_is_the_reference(predicted: Mask, reference: Mask) -> None:
    there, back = count(predicted, reference), count(reference, predicted)
    np.testing.assert_equal(overlap.dice(there), overlap.dice(back))
    np.testing.assert_equal(overlap.iou(there), overlap.iou(back))


@given(masks, masks)
def test_dice_follows_from_iou(predicted: Mask, reference: Mask) -> None:
    counts = count(predicted, reference)
    iou = overlap.iou(counts)
    if not isnan(iou):
        assert overlap.dice(counts) == pytest.approx(2 * iou / (1 + iou))


@given(masks, masks)
def test_sensitivity_and_specificity_change_places_with_the_complement(predicted: Mask, reference: Mask) -> None:
    counts, complement = count(predicted, reference), count(~predicted, ~reference)
    np.testing.assert_equal(overlap.specificity(counts), overlap.sensitivity(complement))


@given(masks)
def test_a_mask_agrees_with_itself(mask: Mask) -> None:
    if mask.any():
        counts = count(mask, mask)
        assert overlap.dice(counts) == overlap.iou(counts) == overlap.sensitivity(counts) == 1
