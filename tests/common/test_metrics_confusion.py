"""Rates from counts that add: by hand where a formula is known, nan where there is nothing to divide by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedrounds_common.case import F64
from fedrounds_common.metrics import confusion


def test_the_rates_of_one_table_are_those_of_the_textbook() -> None:
    found = {name: float(value) for name, value in confusion.rates(np.array([40.0, 10.0, 90.0, 20.0])).items()}
    assert found == pytest.approx(
        {
            "accuracy": 130 / 160, "balanced_accuracy": (40 / 60 + 90 / 100) / 2, "sensitivity": 40 / 60,
            "specificity": 90 / 100, "ppv": 40 / 50, "npv": 90 / 110, "f1": 80 / 110,
            "mcc": (40 * 90 - 10 * 20) / math.sqrt(50 * 60 * 100 * 110),
        }
    )  # fmt: skip


def test_what_cannot_be_divided_is_nan_and_never_0() -> None:
    nobody_ill = {name: float(value) for name, value in confusion.rates(np.array([0.0, 0.0, 9.0, 0.0])).items()}
    assert {name for name, value in nobody_ill.items() if math.isnan(value)} == {
        "balanced_accuracy", "sensitivity", "ppv", "f1", "mcc",
    }  # fmt: skip
    assert nobody_ill["specificity"] == nobody_ill["accuracy"] == nobody_ill["npv"] == 1
    assert all(math.isnan(float(value)) for value in confusion.rates(np.zeros(4)).values())


def counts_of(truth: F64, decided: F64) -> F64:
    return confusion.each(decided, truth).sum(axis=0)


def test_over_classes_mcc_is_gorodkins_and_accuracy_the_share_of_right_cases() -> None:
    draws = np.random.default_rng(2)
    truth, guess = draws.integers(0, 4, 200), draws.integers(0, 4, 200)
    guess = np.where(draws.random(200) < 0.6, truth, guess)
    found = confusion.overall(counts_of(np.eye(4)[truth], np.eye(4)[guess]), exclusive=True)
    assert float(found["accuracy"]) == pytest.approx(float((truth == guess).mean()))
    recalls = [float((guess[truth == k] == k).mean()) for k in range(4)]
    assert float(found["balanced_accuracy"]) == pytest.approx(float(np.mean(recalls)))
    # Gorodkin's coefficient is the correlation of the two sets of indicators
    x, y = np.eye(4)[truth], np.eye(4)[guess]
    covariance = [((a - a.mean(0)) * (b - b.mean(0))).sum() for a, b in ((x, y), (x, x), (y, y))]
    assert float(found["mcc"]) == pytest.approx(covariance[0] / math.sqrt(covariance[1] * covariance[2]))


def test_over_labels_each_rate_is_the_mean_where_it_is_defined() -> None:
    counts = np.array([[3.0, 1.0, 5.0, 1.0], [0.0, 0.0, 10.0, 0.0]])
    found = confusion.overall(counts, exclusive=False)
    assert float(found["sensitivity"]) == 3 / 4
    assert float(found["specificity"]) == pytest.approx((5 / 6 + 1) / 2)
    assert float(found["accuracy"]) == pytest.approx((0.8 + 1) / 2)


def test_each_decision_is_one_of_four() -> None:
    decided, truth = np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.0, 1.0]])
    assert confusion.each(decided, truth)[0].tolist() == np.eye(4).tolist()
