"""The losses, against MONAI's and by hand."""

from __future__ import annotations

from math import log

import pytest
import torch
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from torch import Tensor
from torch.nn import functional

from fedrounds_common import losses

SMOOTH = 0.5


def regions(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn((3, 2, 4, 5, 6), generator=g), (torch.rand((3, 2, 4, 5, 6), generator=g) < 0.4).float()


def classes(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 3, (4, 7, 6), generator=g)
    return torch.randn((4, 3, 7, 6), generator=g), functional.one_hot(truth, 3).movedim(-1, 1).float()


def value(name: losses.Name, pair: tuple[Tensor, Tensor], *, exclusive: bool, smooth: float = SMOOTH) -> Tensor:
    return losses.loss(name, *pair, exclusive=exclusive, smooth=smooth)


def monai_dice(pair: tuple[Tensor, Tensor], *, exclusive: bool) -> Tensor:
    theirs = DiceLoss(
        include_background=not exclusive,
        sigmoid=not exclusive,
        softmax=exclusive,
        smooth_nr=SMOOTH,
        smooth_dr=SMOOTH,
        reduction="none",
    )
    result: Tensor = theirs(*pair).flatten(1).mean(1)
    return result


@pytest.mark.parametrize("exclusive", [False, True])
def test_dice_is_monais(exclusive: bool) -> None:
    pair = classes() if exclusive else regions()
    torch.testing.assert_close(value("dice", pair, exclusive=exclusive), monai_dice(pair, exclusive=exclusive))


def test_cross_entropy_of_regions_is_torchs_on_top_of_dice() -> None:
    logits, target = regions()
    ce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2, 3, 4))
    torch.testing.assert_close(
        value("dice+ce", (logits, target), exclusive=False), monai_dice((logits, target), exclusive=False) + ce
    )


def test_cross_entropy_of_labels_is_torchs_on_top_of_dice() -> None:
    logits, target = classes()
    ce = functional.cross_entropy(logits, target.argmax(1), reduction="none").mean((1, 2))
    torch.testing.assert_close(
        value("dice+ce", (logits, target), exclusive=True), monai_dice((logits, target), exclusive=True) + ce
    )


def test_focal_of_regions_is_monais() -> None:
    logits, target = regions()
    focal = FocalLoss(gamma=2.0, reduction="none")(logits, target).mean((1, 2, 3, 4))
    torch.testing.assert_close(
        value("dice+focal", (logits, target), exclusive=False), monai_dice((logits, target), exclusive=False) + focal
    )


def test_focal_of_labels_is_monais() -> None:
    logits, target = classes()
    # MONAI leaves the terms of the other classes in as zeros, so its sum over classes is ours
    focal = FocalLoss(gamma=2.0, reduction="none", use_softmax=True)(logits, target).sum(1).mean((1, 2))
    torch.testing.assert_close(
        value("dice+focal", (logits, target), exclusive=True), monai_dice((logits, target), exclusive=True) + focal
    )


def test_focal_takes_its_exponent() -> None:
    # one voxel, logit 0: CE = log 2, 1 − p = 1/2, so gamma halves the term each time it grows by 1
    logits, target = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    for gamma in (1.0, 3.0):
        term = losses.cross_entropy(logits, target, exclusive=False, gamma=gamma)
        torch.testing.assert_close(term, torch.tensor([log(2) / 2**gamma]))


def test_soft_dice_by_hand() -> None:
    # p = (1, 0.5, 0), t = (1, 0, 0): (2 · 1 + 0.5) / (1.5 + 1 + 0.5) = 5/6
    p, t = torch.tensor([[[1.0, 0.5, 0.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]])
    torch.testing.assert_close(losses.soft_dice(p, t, SMOOTH), torch.tensor([[5 / 6]]))


def test_mirrored_dice_is_the_mean_over_the_mask_and_its_complement() -> None:
    logits, target = regions()
    p = logits.sigmoid()
    both = [losses.soft_dice(a, b, SMOOTH).mean(1) for a, b in ((p, target), (1 - p, 1 - target))]
    torch.testing.assert_close(value("mirrored-dice", (logits, target), exclusive=False), 1 - (both[0] + both[1]) / 2)


def test_mirrored_dice_by_hand() -> None:
    # p = 1/2 at two voxels, t = (1, 0), no smoothing to speak of:
    # Dice 2 · 0.5 / (1 + 1) = 1/2, and the same of the complement, so the loss is 1/2
    target = torch.tensor([[[1.0, 0.0]]])
    result = value("mirrored-dice", (torch.zeros(1, 1, 2), target), exclusive=False, smooth=1e-9)
    torch.testing.assert_close(result, torch.tensor([0.5]))


@pytest.mark.parametrize("name", losses.NAMES)
@pytest.mark.parametrize("exclusive", [False, True])
class TestEveryLoss:
    def test_is_one_finite_number_an_example(self, name: losses.Name, exclusive: bool) -> None:
        pair = classes() if exclusive else regions()
        result = value(name, pair, exclusive=exclusive)
        assert result.shape == (len(pair[0]),)
        assert torch.isfinite(result).all()

    def test_of_an_example_does_not_depend_on_its_batch(self, name: losses.Name, exclusive: bool) -> None:
        logits, target = classes() if exclusive else regions()
        together = value(name, (logits, target), exclusive=exclusive)
        alone = [value(name, (logits[i : i + 1], target[i : i + 1]), exclusive=exclusive) for i in range(len(logits))]
        torch.testing.assert_close(together, torch.cat(alone))

    def test_is_nearly_0_when_all_is_right_and_large_when_all_is_wrong(
        self, name: losses.Name, exclusive: bool
    ) -> None:
        _, target = classes() if exclusive else regions()
        right = value(name, (40 * target - 20, target), exclusive=exclusive)
        wrong = value(name, (20 - 40 * target, target), exclusive=exclusive)
        assert right.max() < 1e-3
        assert wrong.min() > 0.4

    def test_is_finite_where_no_region_is_and_the_network_is_sure(self, name: losses.Name, exclusive: bool) -> None:
        logits, target = classes() if exclusive else regions()
        target = torch.zeros_like(target)
        if exclusive:
            target[:, 0] = 1
        sure = (1000 * logits).requires_grad_()
        result = value(name, (sure, target), exclusive=exclusive)
        result.mean().backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(result).all()
        assert sure.grad is not None
        assert torch.isfinite(sure.grad).all()

    def test_takes_half_precision_logits_in_full_precision(self, name: losses.Name, exclusive: bool) -> None:
        logits, target = classes() if exclusive else regions()
        result = value(name, (logits.bfloat16(), target), exclusive=exclusive)
        torch.testing.assert_close(result, value(name, (logits.bfloat16().float(), target), exclusive=exclusive))


def test_the_names_are_those_a_study_may_write() -> None:
    from typing import get_args, get_type_hints

    from fedrounds_common.tasks.segmentation import Segmentation

    assert get_args(get_type_hints(Segmentation)["criterion"]) == losses.NAMES
