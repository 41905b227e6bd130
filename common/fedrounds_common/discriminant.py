"""Linear discriminant analysis and Gaussian naive Bayes from sums over sites: one answer each, no rounds.

What a site sends is, for each class, how many cases it has and the sums of their features and of the features'
products, in float64. From their totals the very classifier follows that all cases in one place would give.

K classes, F features. Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning (2nd ed.),
4.3 and 6.6.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from fedrounds_common.case import F64
from fedrounds_common.errors import RoundError

Kind = Literal["lda", "gnb"]


@final
@dataclass(frozen=True)
class Rule:
    """logits = square (x − centre)² + weight (x − centre) + bias: (K, F), (K, F), (K,), (F,). LDA has no squares."""

    weight: F64
    bias: F64
    square: F64
    centre: F64


def sums(kind: Kind, features: F64, truth: F64) -> dict[str, F64]:
    """What leaves a site: counts (K,), sums (K, F), and squares: of LDA (F, F), of naive Bayes (K, F).

    Args:
        features: (N, F).
        truth: (N, K), one 1 in each row.
    """
    squares = features.T @ features if kind == "lda" else truth.T @ features**2
    return {"counts": truth.sum(axis=0), "sums": truth.T @ features, "squares": squares}


def solve(kind: Kind, total: Mapping[str, F64], shrinkage: float, *, equal_priors: bool) -> Rule:
    """The classifier that the sites' sums amount to.

    Args:
        shrinkage: in [0, 1], the share by which the covariance is drawn to a multiple of the identity of the same
            trace (naive Bayes: each class's variances to their mean).
        equal_priors: every class is taken to be as likely as any other; otherwise as frequent as in the sums.

    Raises:
        RoundError: FR-R60 a class has too few cases, or its features do not vary and shrinkage is 0.
    """
    counts, sums_ = total["counts"], total["sums"]
    if counts.min() < 2:
        found = f"a class has {counts.min():.0f} cases at all sites together"
        raise RoundError("FR-R60", found, wanted="2 of each class", do="leave the class out, or train a linear head")
    means = sums_ / counts[:, np.newaxis]
    priors = np.full(len(counts), 1 / len(counts)) if equal_priors else counts / counts.sum()
    if kind == "lda":
        return _linear(means, np.log(priors), _within(total, means, shrinkage))
    return _naive(total, means, np.log(priors), shrinkage)


def _within(total: Mapping[str, F64], means: F64, shrinkage: float) -> F64:
    """The covariance that the classes share, (F, F), unbiased before it is shrunk."""
    counts = total["counts"]
    between = np.einsum("k,kf,kg->fg", counts, means, means)
    covariance = (total["squares"] - between) / (counts.sum() - len(counts))
    features = len(covariance)
    shrunk: F64 = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / features * np.eye(features)
    return shrunk


def _linear(means: F64, log_priors: F64, covariance: F64) -> Rule:
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise _flat("the features' covariance is singular") from error
    centre = means.mean(axis=0)
    away = means - centre
    weight = np.linalg.solve(lower.T, np.linalg.solve(lower, away.T)).T
    bias = log_priors - (weight * away).sum(axis=1) / 2
    return Rule(weight, bias, np.zeros_like(weight), centre)


def _naive(total: Mapping[str, F64], means: F64, log_priors: F64, shrinkage: float) -> Rule:
    variances = total["squares"] / total["counts"][:, np.newaxis] - means**2
    variances = (1 - shrinkage) * variances + shrinkage * variances.mean(axis=1, keepdims=True)
    if not (variances > 0).all():
        raise _flat("a feature is the same in every case of a class")
    centre = means.mean(axis=0)
    away = means - centre
    bias = log_priors - (away**2 / variances + np.log(variances)).sum(axis=1) / 2
    return Rule(away / variances, bias, -1 / (2 * variances), centre)


def _flat(found: str) -> RoundError:
    return RoundError("FR-R60", found, wanted="features that vary within each class", do="raise task.shrinkage")
