"""Calibration from sums: the same as from all cases together, and a temperature that is the pooled one's."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from fedrounds_common.case import F64
from fedrounds_common.metrics import calibration


def ece_by_loop(confidence: F64, right: F64) -> float:
    edges = np.linspace(0, 1, calibration.BINS + 1)
    total = 0.0
    for low, high in pairwise(edges):
        inside = (confidence >= low) & ((confidence < high) | (high == 1))
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return total


def test_ece_of_added_bins_is_that_of_all_cases() -> None:
    draws = np.random.default_rng(1)
    confidence = draws.random(400)
    right = (draws.random(400) < confidence**2).astype(np.float64)
    parts = [calibration.reliability(confidence[part], right[part]) for part in (slice(90), slice(90, None))]
    assert float(calibration.ece(parts[0] + parts[1])) == pytest.approx(ece_by_loop(confidence, right), abs=1e-12)
    assert math.isnan(float(calibration.ece(np.zeros((calibration.BINS, 3)))))


def test_a_confidence_of_1_is_in_the_last_bin() -> None:
    assert calibration.reliability(np.array([1.0, 0.0]), np.ones(2))[[0, -1], 0].tolist() == [1, 1]


def logits(seed: int, cases: int, sharper: float, *, exclusive: bool) -> tuple[F64, F64]:
    """Logits that are right in distribution, and then made so many times too sharp."""
    draws = np.random.default_rng(seed)
    x = draws.normal(0, 1.5, (cases, 3))
    if exclusive:
        p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
        truth = np.eye(3)[[draws.choice(3, p=row) for row in p]]
    else:
        truth = (draws.random(x.shape) < 1 / (1 + np.exp(-x))).astype(np.float64)
    return x * sharper, truth


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_temperature_of_sums_is_the_pooled_one_and_undoes_what_was_done(exclusive: bool) -> None:
    x, truth = logits(3, 1500, 2.5, exclusive=exclusive)
    cuts = [slice(0, 700), slice(700, 701), slice(701, None)]
    parts = [calibration.loss_at_temperatures(x[cut], truth[cut], exclusive=exclusive) for cut in cuts]
    whole = calibration.loss_at_temperatures(x, truth, exclusive=exclusive)
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-12)
    found = calibration.best_temperature(np.sum(parts, axis=0), 1500)
    assert found == calibration.best_temperature(whole, 1500)
    assert found == pytest.approx(2.5, rel=0.12)


@pytest.mark.parametrize("exclusive", [True, False])
def test_losses_at_temperatures_are_log_losses(exclusive: bool) -> None:
    x, truth = logits(5, 50, 1.0, exclusive=exclusive)
    losses = calibration.loss_at_temperatures(x, truth, exclusive=exclusive)
    for place in (600, 900):  # below, sigmoids leave what a log loss tells apart
        scaled = x / calibration.TEMPERATURES[place]
        p = np.exp(scaled) / np.exp(scaled).sum(1, keepdims=True) if exclusive else 1 / (1 + np.exp(-scaled))
        expected = calibration.log_loss(p, truth, exclusive=exclusive).mean(axis=1).sum()
        assert losses[0, place] == pytest.approx(expected, rel=1e-9)
        unknown = np.full_like(truth, 1 / 3 if exclusive else 0.5)
        expected = calibration.log_loss(p, unknown, exclusive=exclusive).mean(axis=1).sum()
        assert losses[1, place] == pytest.approx(expected, rel=1e-9)


def test_a_few_cases_that_are_all_right_make_nobody_infinitely_sure() -> None:
    x = np.array([[4.0, -4.0], [-4.0, 4.0]] * 10)
    losses = calibration.loss_at_temperatures(x, (x > 0).astype(float), exclusive=True)
    scaled = x / calibration.best_temperature(losses, 20)
    # the share that counts as unknown is 1 in 22, half of it for each class
    assert 1 / (1 + np.exp(scaled[0, 0] - scaled[0, 1])) == pytest.approx(1 / 44, rel=0.05)


def test_without_a_case_nothing_is_scaled_and_the_middle_temperature_is_1() -> None:
    nothing = calibration.loss_at_temperatures(np.zeros((0, 3)), np.zeros((0, 3)), exclusive=True)
    assert calibration.best_temperature(nothing, 0) == 1
    assert calibration.TEMPERATURES[600] == pytest.approx(1, abs=1e-12)


def test_a_log_loss_is_finite_however_sure_and_wrong() -> None:
    for exclusive in (True, False):
        assert np.isfinite(
            calibration.log_loss(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), exclusive=exclusive)
        ).all()
