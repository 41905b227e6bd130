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
ROUND = "a whole round"
HEAD, SURE = "head.bias", 30.0  # e to the -30 of a gradient is left where a head is so sure
# as much noise as a single step of one patient takes where a study says nothing of it
NOISE = NoisySteps(rate=1.0, clip=1.0, multiplier=1.0, batch=1)
Listen = Callable[[str], object]


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
    """Attack the first of these sites in each of these ways; the last, by altered weights, where the network has a head
    that can be altered and the site cases of another class.

    Args:
        start: the weights that the updates are differences from. sites: the training cases of each, the first the victim.
        images: how many one plain step is taken with, the second time.

    Raises:
        UsageError: FR-U86 images too large to be rebuilt, or a task of several turns.
    """
    own, first = sites[0], [sites[0][0]]
    examples = _batch(parts, own, images)
    _refuse_large(parts, examples[0])
    noisy = replace(parts.noisy or NOISE, rate=1.0, batch=1, patients=1)
    one, all_ = examples[:1], f"one step on {len(examples)} images"
    ways: list[tuple[str, Arrays, Callable[[], Mapping[str, Tensor]], list[Example]]] = [
        ("one step on one image", start, lambda: _one_step(parts, start, first), one),
        (all_, start, lambda: _gradient(parts, start, examples), examples),
        (ROUND, start, lambda: _round(parts, start, own), one),
        ("one step on one image, with noise", start, lambda: _one_step(parts, start, first, noisy), one),
        (f"the sum of {len(sites)} sites' steps", start, lambda: _sum(parts, start, sites), one),
    ]
    trap = altered(start, examples[0])
    if trap is not None and _others(examples):
        ways.append((f"{all_}, from altered weights", trap, lambda: _gradient(parts, trap, examples), one))
    made = []
    for name, weights, update, shown in ways:
        listen(name)
        made.append(_attempt(parts, weights, name, update(), shown, own if name == ROUND else (), how))
    return made


def altered(start: Arrays, wanted: Example) -> Arrays | None:
    """Weights by which the images of one class alone show in a batch: the head is sure of every other class already, so
    that of those nothing is left to learn. None of a network without such a head.

    Source: Wen et al. 2022 (arXiv:2202.00580).
    """
    if HEAD not in start or start[HEAD].shape != wanted.target.shape:
        return None
    return {**start, HEAD: np.asarray(start[HEAD] + SURE * (1 - wanted.target), start[HEAD].dtype)}


def _batch(parts: Parts, own: Cases, images: int) -> list[Example]:
    """The first case, and then those of other classes: so that altered weights have somebody to leave out."""
    first, *rest = (_example(parts, case) for case in own[: 8 * images])
    rest.sort(key=lambda each: bool(np.array_equal(each.target, first.target)))
    return [first, *rest[: images - 1]]


def _others(examples: Sequence[Example]) -> bool:
    return len(examples) > 1 and not any(np.array_equal(each.target, examples[0].target) for each in examples[1:])


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
    # what range the images have is known: without it noise would be as far off as one likes
    rebuilt = np.clip(rebuilt, truth.min(), truth.max())
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
