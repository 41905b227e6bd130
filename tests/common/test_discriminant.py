"""Discriminant analysis and naive Bayes: what sites' sums give is what all cases in one place give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedrounds_common import discriminant
from fedrounds_common.case import F64
from fedrounds_common.discriminant import Kind
from fedrounds_common.errors import RoundError
from fedrounds_common.task import add_tallies


def made(seed: int = 0, cases: int = 400, features: int = 7) -> tuple[F64, F64]:
    """Features far from 0 beside their spread, as networks make them, of three classes of unequal size."""
    draws = np.random.default_rng(seed)
    kinds = draws.choice(3, cases, p=(0.6, 0.3, 0.1))
    mixing = draws.normal(0, 1, (features, features))
    x = draws.normal(0, 1, (cases, features)) @ mixing + 2 * draws.normal(0, 1, (3, features))[kinds] + 20
    return x, np.eye(3)[kinds]


def logits(rule: discriminant.Rule, x: F64) -> F64:
    away = x - rule.centre
    return np.asarray(away**2 @ rule.square.T + away @ rule.weight.T + rule.bias)


def log_density(x: F64, mean: F64, covariance: F64) -> F64:
    away = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T)
    return np.asarray(-(away**2).sum(0) / 2 - np.linalg.slogdet(covariance)[1] / 2)


@pytest.mark.parametrize("kind", ["lda", "gnb"])
@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
def test_what_the_sites_sums_give_is_what_all_cases_give(kind: Kind, shrinkage: float) -> None:
    x, truth = made()
    pooled = discriminant.solve(kind, discriminant.sums(kind, x, truth), shrinkage, equal_priors=False)
    order = np.argsort(truth.argmax(1), kind="stable")  # sites that each hold nearly one class
    parts = [discriminant.sums(kind, x[part], truth[part]) for part in np.array_split(order, 5)]
    of_sites = discriminant.solve(kind, add_tallies(parts), shrinkage, equal_priors=False)
    for name in ("weight", "bias", "square", "centre"):
        np.testing.assert_allclose(getattr(of_sites, name), getattr(pooled, name), rtol=1e-9, atol=1e-9)


def test_lda_is_the_log_density_of_one_covariance_and_the_priors() -> None:
    x, truth = made(1)
    rule = discriminant.solve("lda", discriminant.sums("lda", x, truth), 0.0, equal_priors=False)
    means = [x[truth[:, k] == 1].mean(0) for k in range(3)]
    within = sum(np.cov(x[truth[:, k] == 1].T) * (truth[:, k].sum() - 1) for k in range(3)) / (len(x) - 3)
    expected = np.stack(
        [log_density(x, means[k], np.asarray(within)) + math.log(truth[:, k].mean()) for k in range(3)], 1
    )
    found = logits(rule, x)
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-7)
    assert (found.argmax(1) == truth.argmax(1)).mean() > 0.8


def test_naive_bayes_is_the_log_density_of_each_classs_variances() -> None:
    x, truth = made(2)
    rule = discriminant.solve("gnb", discriminant.sums("gnb", x, truth), 0.0, equal_priors=True)
    expected = np.stack(
        [log_density(x, x[truth[:, k] == 1].mean(0), np.diag(x[truth[:, k] == 1].var(0))) for k in range(3)], 1
    )
    found = logits(rule, x)
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-7)


def test_equal_priors_move_the_bias_alone() -> None:
    x, truth = made(3)
    total = discriminant.sums("lda", x, truth)
    frequent, equal = (discriminant.solve("lda", total, 0.1, equal_priors=flag) for flag in (False, True))
    np.testing.assert_array_equal(frequent.weight, equal.weight)
    np.testing.assert_allclose(frequent.bias - equal.bias, np.log(truth.mean(0)) - math.log(1 / 3), atol=1e-12)


@pytest.mark.parametrize("kind", ["lda", "gnb"])
def test_a_class_of_one_case_and_features_that_do_not_vary_are_refused(kind: Kind) -> None:
    x, truth = made(4)
    few = np.concatenate([np.flatnonzero(truth[:, 0]), np.flatnonzero(truth[:, 1]), np.flatnonzero(truth[:, 2])[:1]])
    with pytest.raises(RoundError, match="1 cases"):
        discriminant.solve(kind, discriminant.sums(kind, x[few], truth[few]), 0.1, equal_priors=False)
    flat = np.array(x)
    flat[:, 2] = 0
    with pytest.raises(RoundError, match="singular|the same in every case"):
        discriminant.solve(kind, discriminant.sums(kind, flat, truth), 0.0, equal_priors=False)
    rule = discriminant.solve(kind, discriminant.sums(kind, flat, truth), 0.1, equal_priors=False)
    assert np.isfinite(logits(rule, flat)).all()
