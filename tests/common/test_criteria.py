"""Losses of classification, by hand and beside torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedrounds_common import criteria

ONES = torch.ones(2, 3)
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0], [-1.0, 4.0, 4.5]])
ONE_OF = torch.eye(3)[[0, 2, 1]]
ANY_OF = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]])


def loss(name: criteria.Name, logits: Tensor = LOGITS, target: Tensor = ONE_OF, weights: Tensor = ONES, *,
         exclusive: bool = True, gamma: float = 2.0, smoothing: float = 0.0) -> Tensor:  # fmt: skip
    return criteria.loss(name, logits, target, weights, exclusive=exclusive, gamma=gamma, smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_classes_is_torchs(smoothing: float) -> None:
    expected = functional.cross_entropy(LOGITS, ONE_OF.argmax(1), reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(loss("cross-entropy", smoothing=smoothing), expected)


def test_cross_entropy_of_labels_is_torchs_mean_over_them() -> None:
    expected = functional.binary_cross_entropy_with_logits(LOGITS, ANY_OF, reduction="none").mean(1)
    torch.testing.assert_close(loss("cross-entropy", target=ANY_OF, exclusive=False), expected)


@pytest.mark.parametrize(("exclusive", "target"), [(True, ONE_OF), (False, ANY_OF)])
def test_focal_loss_is_cross_entropy_at_0_and_forgets_what_is_sure(exclusive: bool, target: Tensor) -> None:
    plain = loss("cross-entropy", target=target, exclusive=exclusive)
    torch.testing.assert_close(loss("focal", target=target, exclusive=exclusive, gamma=0.0), plain)
    assert (loss("focal", target=target, exclusive=exclusive) < plain).all()
    p = LOGITS.softmax(1)[0, 0]
    assert float(loss("focal")[0]) == pytest.approx(float(-((1 - p) ** 2) * p.log()), rel=1e-5)


def test_crammer_and_singer_ask_for_a_margin_of_1_from_the_best_other_class() -> None:
    # 2 − 0.5 is margin enough; −3 against 0.2; 4 against 4.5
    assert loss("svm").tolist() == pytest.approx([0.0, 1 + 0.2 + 3, 1 + 4.5 - 4])


def test_one_against_the_rest_asks_each_class_for_its_side() -> None:
    expected = [(0 + 0 + 1.5) / 3, (1.1 + 1.2 + 4) / 3, (0 + 0 + 5.5) / 3]
    assert loss("svm-one-vs-rest").tolist() == pytest.approx(expected)
    torch.testing.assert_close(
        loss("svm", target=ANY_OF, exclusive=False), loss("svm-one-vs-rest", target=ANY_OF, exclusive=False)
    )


@pytest.mark.parametrize("name", ["cross-entropy", "focal", "svm", "svm-one-vs-rest"])
def test_a_weight_of_2_counts_a_class_twice(name: criteria.Name) -> None:
    weights = torch.tensor([[1.0, 1, 1], [1, 1, 2]])
    plain, weighed = loss(name), loss(name, weights=weights)
    if name == "svm-one-vs-rest":  # of that example, the term of its own class: 1 + 3
        assert float(weighed[1] - plain[1]) == pytest.approx(4 / 3)
    else:
        torch.testing.assert_close(weighed[1], 2 * plain[1])
    torch.testing.assert_close(weighed[0], plain[0])


def test_a_weight_of_those_without_counts_where_a_label_is_not() -> None:
    weights = torch.tensor([[3.0, 3, 3], [1, 1, 1]])
    found = loss("cross-entropy", target=torch.zeros(3, 3), weights=weights, exclusive=False)
    torch.testing.assert_close(found, 3 * loss("cross-entropy", target=torch.zeros(3, 3), exclusive=False))


@pytest.mark.parametrize("name", ["cross-entropy", "focal", "svm", "svm-one-vs-rest"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_every_loss_has_a_slope_and_is_finite_at_large_logits(name: criteria.Name, exclusive: bool) -> None:
    logits = (LOGITS * 1e3).requires_grad_()
    values = loss(name, logits, ONE_OF, exclusive=exclusive, smoothing=0.0 if name.startswith("svm") else 0.1)
    assert torch.isfinite(values).all()
    values.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not math.isclose(float(logits.grad.abs().sum()), 0)
