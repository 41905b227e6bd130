"""What can be rebuilt of images from updates as they leave: after one step, a whole round, with noise, and of a sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from fedrounds_client.attacks.inversion import Search, gradients_of, invert, matched, psnr, ssim
from fedrounds_client.training import Piece, steps_per_round, train
from fedrounds_common.arrays import Arrays, into_module
from fedrounds_common.case import F32, Case, Cases
from fedrounds_common.errors import UsageError
from fedrounds_common.privacy import NoisySteps
from fedrounds_common.rng import generator
from fedrounds_common.study.tables import Training
from fedrounds_common.task import Batch, Example

if TYPE_CHECKING:
    from torch import Tensor

    from fedrounds_client.site import Parts

MOST_VOXELS = 64**2  # of an image: of more, one core would take hours
# as much noise as a single step of one patient takes where a study says nothing of it
NOISE = NoisySteps(rate=1.0, clip=1.0, multiplier=1.0, batch=1)
Listen = Callable[[str], None]


@final
@dataclass(frozen=True)
class Attempt:
    """`truth`, `rebuilt` (B, C, *grid). What leaves a round of many steps has many images behind it: the nearest is `truth`."""

    name: str
    truth: F32
    rebuilt: F32

    @property
    def psnr(self) -> float:
        return float(np.mean([psnr(one, other) for one, other in zip(self.rebuilt, self.truth, strict=True)]))

    @property
    def ssim(self) -> float:
        return float(np.mean([ssim(one, other) for one, other in zip(self.rebuilt, self.truth, strict=True)]))


def attempts(
    parts: Parts, start: Arrays, sites: Sequence[Cases], how: Search, images: int, listen: Listen = str
) -> list[Attempt]:
    """Attack the first of these sites in each of five ways.

    Args:
        start: the weights that the updates are differences from. sites: the training cases of each, the first the victim.
        images: how many one plain step is taken with, the second time.

    Raises:
        UsageError: FR-U86 images too large to be rebuilt, or a task of several turns.
    """
    own = sites[0]
    examples = [_example(parts, case) for case in own[: max(images, 1)]]
    _refuse_large(parts, examples[0])
    noisy = replace(parts.noisy or NOISE, rate=1.0, batch=1, patients=1)
    first = [own[0]]
    ways: list[tuple[str, Callable[[], Mapping[str, Tensor]], list[Example]]] = [
        ("one step on one image", lambda: _one_step(parts, start, first), examples[:1]),
        (f"one step on {len(examples)} images", lambda: _gradient(parts, start, examples), examples),
        ("a whole round", lambda: _round(parts, start, own), examples[:1]),
        ("one step on one image, with noise", lambda: _one_step(parts, start, first, noisy), examples[:1]),
        (f"the sum of {len(sites)} sites' steps", lambda: _sum(parts, start, sites), examples[:1]),
    ]  # fmt: skip
    made = []
    for name, update, shown in ways:
        listen(name)
        made.append(_attempt(parts, start, name, update(), shown, own if name == "a whole round" else (), how))
    return made


def _attempt(
    parts: Parts, start: Arrays, name: str, wanted: Mapping[str, Tensor], shown: Sequence[Example], near: Cases, how: Search
) -> Attempt:  # fmt: skip
    network = parts.module()
    into_module(network, start)
    target = torch.from_numpy(np.stack([each.target for each in shown]))
    truth = np.stack([each.image for each in shown])
    rebuilt = invert(network, parts.task, wanted, target, truth.shape[1:], how)
    if near:  # any image of the site would do
        images = [_example(parts, case).image for case in near]
        truth = np.stack([max(images, key=lambda image: psnr(rebuilt[0], image))])
    return Attempt(name, truth, matched(rebuilt, truth))


def _example(parts: Parts, case: Case) -> Example:
    plain = _plain(parts.study.training)
    return parts.task.draw([case], parts.study.cases, plain, generator(0, "rebuilt", case.ref.name))


def _plain(training: Training) -> Training:
    """One step of plain descent: what leaves is the gradient itself."""
    return replace(
        training, optimiser="sgd", momentum=0.0, weight_decay=0.0, batch=1, local_steps=1, local_epochs=None, augment=(),
        schedule="constant", warmup=0.0, gradient_norm=None, learning_rate=1.0,
    )  # fmt: skip


def _one_step(parts: Parts, start: Arrays, cases: Cases, noisy: NoisySteps | None = None) -> Mapping[str, Tensor]:
    study = parts.study
    piece = Piece(1, 0, 1, study.seed, ("rebuilt",))
    made = train(
        parts.module(), parts.task, cases, study.cases, _plain(study.training), piece, start, noisy=noisy
    )  # fmt: skip
    return _left(start, made.arrays)


def _gradient(parts: Parts, start: Arrays, examples: Sequence[Example]) -> Mapping[str, Tensor]:
    """As of a step on just these: a site draws with replacement, and may take one twice."""
    network = parts.module()
    into_module(network, start)
    image, target = (
        torch.from_numpy(np.stack(each)) for each in zip(*((e.image, e.target) for e in examples), strict=True)
    )
    return gradients_of(network.train(), parts.task, Batch(image, target))


def _round(parts: Parts, start: Arrays, cases: Cases) -> Mapping[str, Tensor]:
    """As the study has it: its steps, its optimiser, its augmentation."""
    study = parts.study
    steps = steps_per_round(study.training, len(cases))
    piece = Piece(steps, 0, steps * max(study.training.rounds, 1), study.seed, ("rebuilt", "round"))
    made = train(parts.module(), parts.task, cases, study.cases, study.training, piece, start, noisy=parts.noisy)
    return _left(start, made.arrays)


def _sum(parts: Parts, start: Arrays, sites: Sequence[Cases]) -> Mapping[str, Tensor]:
    """What the coordinator holds with a secure sum, which equals the plain one: nobody's own update."""
    steps = [_one_step(parts, start, [cases[0]]) for cases in sites]
    return {name: torch.stack([each[name] for each in steps]).sum(0) for name in steps[0]}


def _left(start: Arrays, reached: Arrays) -> Mapping[str, Tensor]:
    """The update times -1, of what floats."""
    return {
        name: torch.from_numpy(np.asarray(start[name] - reached[name])).float()
        for name in start
        if np.issubdtype(start[name].dtype, np.floating)
    }


def _refuse_large(parts: Parts, example: Example) -> None:
    size = int(np.prod(example.image.shape[1:]))
    if size > MOST_VOXELS or len(parts.task.turns) > 1:
        found = f"images of {size} voxels" if size > MOST_VOXELS else f"{' and '.join(parts.task.turns)} take turns"
        raise UsageError(
            "FR-U86", found, wanted=f"at most {MOST_VOXELS} voxels, and one network",
            do="attack a study of small pictures; what holds for those holds for patches of larger ones",
        )  # fmt: skip
