"""Membership inference: can it be told from a model which cases it was trained on?

By the loss alone (Yeom et al. 2018, arXiv:1709.01604), and by how likely that loss is of models that had the case against
models that had it not (LiRA: Carlini et al. 2022, arXiv:2112.03570), with one spread for all cases, since models are few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from fedrounds_client.attacks.evidence import Rate, area, rate_at
from fedrounds_client.threads import threads
from fedrounds_client.training import Piece, train
from fedrounds_common.arrays import Arrays, into_module
from fedrounds_common.case import F64, Case, Cases
from fedrounds_common.privacy import NoisySteps
from fedrounds_common.rng import generator, seeded, torch_generator
from fedrounds_common.task import Batch

if TYPE_CHECKING:
    from fedrounds_client.site import Parts

FALSE = (0.01, 0.001)  # rates of false positives: one patient wrongly accused of a hundred, of a thousand
LEAST, MOST = 1e-7, 30.0  # losses are taken to lie between
Listen = Callable[[int, int], None]


@final
@dataclass(frozen=True)
class Found:
    """What one attack found: larger scores say "member". `area` under the ROC curve, with its interval."""

    name: str
    rates: tuple[Rate, ...]
    area: tuple[float, float, float]

    @property
    def epsilon(self) -> float:
        """The most that its rates refute. Each is 95 % sure by itself."""
        return max(rate.epsilon for rate in self.rates)

    def lines(self) -> list[str]:
        """For a person: what was found, and what could have been."""
        value, low, high = self.area
        return [f"{self.name}: AUC {value:.3f} [{low:.3f}, {high:.3f}], 0.5 is guessing", *map(_line, self.rates)]


def _line(rate: Rate) -> str:
    at = f"  at {rate.false:.1%} false positives: "
    if not rate.measurable:
        return f"{at}cannot be seen with {rate.others} others; {round(1 / rate.false)} are wanted"
    low, high = rate.interval
    told = f"epsilon is at least {rate.epsilon:.2f}" if rate.epsilon else "not told from guessing"
    power = "nothing could have been told from guessing" if rate.needed > 1 else f"{rate.needed:.1%} would have been"
    return f"{at}{rate.share:.1%} found [{low:.1%}, {high:.1%}], {told}; power: {power}"


def found(name: str, members: F64, others: F64) -> Found:
    return Found(name, tuple(rate_at(members, others, false) for false in FALSE), area(members, others))


def losses_of(parts: Parts, arrays: Arrays, cases: Cases, draws: int) -> F64:
    """(N,): the mean loss of a few training examples of each case, not augmented, and the same for every model."""
    study, network = parts.study, parts.module()
    into_module(network, arrays)
    network.eval()
    plain = replace(study.training, augment=(), batch=1)
    found = np.zeros(len(cases), np.float64)
    device = next(network.parameters()).device
    with torch.no_grad(), seeded(0), threads(study.training.threads):
        for place, case in enumerate(cases):
            labels = (case.ref.site or "", case.ref.name)
            examples = [
                parts.task.draw([case], study.cases, plain, generator(0, "member", *labels, number))
                for number in range(draws)
            ]
            # one by one: shapes may differ, and a batch norm in evaluation mode mixes nothing anyhow
            for example in examples:
                image, target = (torch.from_numpy(array)[None].to(device) for array in (example.image, example.target))
                loss = parts.task.loss(network, Batch(image, target), "", torch_generator(0, "loss"))
                found[place] += float(loss.mean()) / draws
    return found


def confidence(losses: F64) -> F64:
    """ln(p / (1 - p)) of p = exp(-loss): its spread over models is about normal, which a loss's is not."""
    kept = np.clip(np.nan_to_num(losses, nan=MOST), LEAST, MOST)
    return np.asarray(-np.log(np.expm1(kept)), np.float64)


def shadows(
    parts: Parts, start: Arrays, cases: Sequence[Case], number: int, steps: int, draws: int, listen: Listen
) -> tuple[NDArray[np.bool_], F64]:
    """Models like the one attacked, each trained on half of the patients: drawn anew for each pair, the other half for its
    second, so that every case was in as many as it was not, and no model that had it not had others of the same patient.

    Returns:
        (number, N): whether a case was in; and the model's confidence in it.
    """
    study, taken = parts.study, np.zeros((number, len(cases)), bool)
    seen = np.zeros((number, len(cases)), np.float64)
    for model in range(number):
        half = half_of(cases, study.seed, model)
        taken[model, half] = True
        piece = Piece(steps, 0, steps, study.seed, ("shadow", model))
        own = [cases[place] for place in half]
        made = train(parts.module(), parts.task, own, study.cases, study.training, piece, start, noisy=_noise(parts))
        seen[model] = confidence(losses_of(parts, made.arrays, cases, draws))
        listen(model + 1, number)
    return taken, seen


def half_of(cases: Sequence[Case], seed: int, model: int) -> list[int]:
    """The places of a shadow model's cases: of half of the patients all that there are; model 1 has the others of model 0."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, case in enumerate(cases):
        places.setdefault((case.ref.site or "", case.ref.patient), []).append(place)
    patients = list(places.values())
    order = generator(seed, "shadow", model // 2).permutation(len(patients))
    drawn = order[: len(patients) // 2] if model % 2 == 0 else order[len(patients) // 2 :]
    return [place for patient in drawn for place in patients[int(patient)]]


def likelihood(taken: NDArray[np.bool_], seen: F64, attacked: F64) -> F64:
    """(N,): ln of how likely the attacked model's confidence is of models that had the case, over those that had not.

    Args:
        taken, seen: (models, N) as from `shadows`. attacked: (N,), confidence of the model that is attacked.
    """
    inside = np.where(taken, seen, np.nan)
    outside = np.where(taken, np.nan, seen)
    with_, without = np.nanmean(inside, axis=0), np.nanmean(outside, axis=0)
    spread_in = max(float(np.sqrt(np.nanmean((inside - with_) ** 2))), 1e-3)
    spread_out = max(float(np.sqrt(np.nanmean((outside - without) ** 2))), 1e-3)
    score = ((attacked - without) / spread_out) ** 2 - ((attacked - with_) / spread_in) ** 2
    return np.asarray(score / 2 - np.log(spread_in / spread_out), np.float64)


def _noise(parts: Parts) -> NoisySteps | None:
    """The study's own noise; half of the patients may be fewer than it lets a site take part with."""
    return None if parts.noisy is None else replace(parts.noisy, patients=1)
