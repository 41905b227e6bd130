"""What needs a model to show: hospitals differ, and what all of them know can be learned.

A small U-Net and a short, fixed recipe: enough to compare, not to win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from fedrounds_common import rng, untrained
from fedrounds_common.case import F64, Case
from fedrounds_common.networks.tiny_unet import TinyUNet
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.task import Batch
from fedrounds_common.tasks.segmentation import Segmentation

if TYPE_CHECKING:
    from torch import nn

Dice = Mapping[str, float]  # region → Dice of one case
# trains on cases for so many steps under a name that seeds it; gives back how to score a case
Learner = Callable[[Sequence[Case], int, str], Callable[[Case], Dice]]

POOLED_STEPS = 1500
OWN_STEPS = 400
LOSES = 0.10


@final
@dataclass(frozen=True)
class AwayFromHome:
    """Mean Dice over regions of a hospital's own model: on its other patients, and on other hospitals'."""

    site: str
    home: float
    away: float

    @property
    def loses(self) -> bool:
        return self.home - self.away >= LOSES


@final
@dataclass(frozen=True)
class Pooled:
    """Mean Dice by region on hospitals that no model saw: one model of all the others, and the floor there."""

    dice: Mapping[str, float]
    floor: Mapping[str, float]

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.dice.values())))

    @property
    def floor_mean(self) -> float:
        return float(np.mean(list(self.floor.values())))


def away_from_home(
    home: Mapping[str, tuple[Sequence[Case], Sequence[Case]]], others: Sequence[Case], learner: Learner
) -> tuple[AwayFromHome, ...]:
    """Train each hospital's own model.

    Args:
        home: hospital → (cases to train on, cases of other patients of the same hospital).
        others: cases of hospitals that are not in `home`.
    """
    found = []
    for site, (training, fresh) in home.items():
        score = learner(training, OWN_STEPS, site)
        found.append(AwayFromHome(site, float(np.mean(_dice(score, fresh))), float(np.mean(_dice(score, others)))))
    return tuple(found)


def pooled(training: Sequence[Case], others: Sequence[Case], form: CaseForm, learner: Learner) -> Pooled:
    """Train one model on the cases of many hospitals and judge it on others."""
    dice = _dice(learner(training, POOLED_STEPS, "pooled"), others).mean(axis=0)
    means = {region: float(value) for region, value in zip(form.scored, dice, strict=True)}
    return Pooled(means, untrained.floor(others, form))


def _dice(score: Callable[[Case], Dice], cases: Sequence[Case]) -> F64:
    """(cases, regions)"""
    return np.array([list(score(case).values()) for case in cases])


def small_unet(form: CaseForm, seed: int) -> Learner:
    """The learner of the check: `tiny_unet`, batches of two 32³ patches, AdamW with a cosine to zero."""
    task, training, evaluation = Segmentation(), Training(batch=2, patch=(32, 32, 32)), Evaluation()

    def learn(cases: Sequence[Case], steps: int, name: str) -> Callable[[Case], Dice]:
        with rng.seeded(rng.derive(seed, "phantom-check", name)):
            network = task.network(TinyUNet(), form)
        _fit(network, task, cases, form, training, steps, rng.derive(seed, "phantom-check-draws", name))

        def score(case: Case) -> Dice:
            found = task.score(task.predict(network, case, form, training, evaluation), case, form, evaluation)
            return {region: found.values[region]["dice"] for region in form.scored}

        return score

    return learn


def _fit(
    network: nn.Module,
    task: Segmentation,
    cases: Sequence[Case],
    form: CaseForm,
    training: Training,
    steps: int,
    seed: int,
) -> None:
    import torch

    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=training.weight_decay)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.05)
    draws, noise = rng.generator(seed, "draw"), rng.torch_generator(seed, "loss")
    network.train()
    for _ in range(steps):
        examples = [task.draw(cases, form, training, draws) for _ in range(training.batch)]
        batch = Batch(
            torch.from_numpy(np.stack([example.image for example in examples])),
            torch.from_numpy(np.stack([example.target for example in examples])),
        )
        optimiser.zero_grad(set_to_none=True)
        task.loss(network, batch, "", noise).mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimiser.step()
        rates.step()
