"""Local training: one readable loop, the same for a site's round and for every baseline.

What differs is handed in: the cases, how many steps, where in the learning-rate schedule they lie,
the seed they draw from, the moments they start with, and the strategy's correction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import nn

from fedrounds_client.ahead import each_made
from fedrounds_client.device import carried
from fedrounds_client.optimising import optimiser_of, take_step
from fedrounds_client.private import Lost, Make, PatientSteps
from fedrounds_client.several import Several
from fedrounds_client.threads import threads
from fedrounds_common.arrays import Array, Arrays, into_module, of_module
from fedrounds_common.case import Cases
from fedrounds_common.errors import RoundError, no_exit
from fedrounds_common.freezing import still
from fedrounds_common.privacy import NoisySteps
from fedrounds_common.rng import derive, generator, seeded, torch_generator
from fedrounds_common.spans import timed
from fedrounds_common.study.tables import CaseForm, Training
from fedrounds_common.tail import Tail
from fedrounds_common.task import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor

Correct = Callable[[Mapping[str, "Tensor"], Mapping[str, "Tensor"]], None]
Fill = Callable[[Mapping[str, nn.Parameter]], float]  # sets the gradients of these, and returns the loss


@final
@dataclass(frozen=True)
class Piece:
    """A stretch of training: `steps` steps, of which the first is number `first` of `total` in the schedule."""

    steps: int
    first: int
    total: int
    seed: int
    labels: tuple[str | int, ...]


@final
@dataclass(frozen=True)
class Result:
    """`loss`: mean over the piece's steps. `moments`: the optimisers' state, as named arrays. `waiting`: seconds that
    steps have waited for their batches. `lost`: of noisy steps, what was left out; there is no loss of them."""

    arrays: Arrays
    moments: Arrays = field(default_factory=dict)
    loss: float = 0.0
    waiting: float = 0.0
    lost: Lost = field(default_factory=Lost)


def steps_per_round(training: Training, cases: int) -> int:
    """`local_steps`, or as many steps as `local_epochs` passes over the cases take (default: one pass)."""
    if training.local_steps is not None:
        return training.local_steps
    return max(1, math.ceil((training.local_epochs or 1.0) * cases / training.batch))


def learning_rate(training: Training, step: int, total: int) -> float:
    """The rate at `step` of `total` (from 0): linear warm-up, then the schedule, which ends at 0 (Loshchilov
    and Hutter 2017, arXiv:1608.03983, without restarts)."""
    warm = training.warmup * total
    if step < warm:
        return training.learning_rate * (step + 1) / (warm + 1)
    progress = (step - warm) / max(total - warm, 1)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return training.learning_rate * (1 - progress if training.schedule == "linear" else 1.0)


@no_exit()
@timed("compute")
def train(
    network: nn.Module,
    task: Task,
    cases: Cases,
    form: CaseForm,
    training: Training,
    piece: Piece,
    start: Arrays,
    moments: Arrays | None = None,
    correct: Correct | None = None,
    pieces: int = 1,
    averaged: Set[int] = frozenset(),
    beside: bool = False,
    noisy: NoisySteps | None = None,
) -> Result:
    """Train `network` from `start` on `cases`.

    Args:
        pieces: each batch goes through the network in so many pieces, where memory is short: the same examples
            in the same order and the same steps, with gradients added up. Only layers that look at a whole
            batch (BatchNorm) see fewer cases at once.
        averaged: after which steps, from 1, the weights count for the mean that is returned; empty: only the last.
        beside: draw each batch in a thread while the step before runs, where there is a core for it. The bits are
            the same.
        noisy: take every step so, by patients and with noise, none of it from the piece's seed. `training.gradient_norm`
            is then not looked at: each patient's gradient is cut by itself.

    Returns:
        The weights reached; the moments; the mean loss. Nothing is kept anywhere else.

    Raises:
        RoundError: a loss is not finite (the site then sends no update; of noisy steps that patient's part is left out).
        UsageError: FR-U95 of noisy steps, the network mixes patients.
    """
    into_module(network, start)
    network.train()
    still(network)
    # of a turn whose weights are all frozen there is nothing to take
    trained = {turn: [each for each in task.parameters(network, turn) if each.requires_grad] for turn in task.turns}
    optimisers = {turn: optimiser_of(parameters, training) for turn, parameters in trained.items() if parameters}
    for turn, optimiser in optimisers.items():
        _put_moments(optimiser, network, turn, moments or {})
    private = None if noisy is None else PatientSteps.of(noisy, cases)
    seed = piece.seed if private is None else private.seed()
    draws = generator(seed, "draw", *piece.labels)
    noise = torch_generator(seed, "loss", *piece.labels)
    losses, waiting, tail = list[float](), 0.0, Tail()

    def make(own: Cases, count: int) -> Batch:
        return _batch(task, own, form, replace(training, batch=count), draws, network)

    def drawn() -> list[Batch]:
        return [make(cases, training.batch)] if private is None else private.draw(make)

    losses_of = partial(_losses, task, training, noise)

    def back(batch: Batch, turn: str, share: float) -> float:
        return _backward(losses_of(turn, network, batch), share)

    # dropout draws from torch's global generator: it must not know what ran before in this process
    with seeded(derive(seed, "dropout", *piece.labels)), threads(training.threads):
        several = None if private is None else _several(private, network, task, make, optimisers, losses_of, pieces)
        for step, (batches, waited) in enumerate(each_made(drawn, piece.steps, beside=beside)):
            rate = learning_rate(training, piece.first + step, piece.total)
            waiting += waited
            for turn, optimiser in optimisers.items():
                fill = _filling(batches, turn, back, training.gradient_norm, pieces, private, several)
                losses.append(_step(network, optimiser, rate, fill, correct))
            if step + 1 in averaged:
                tail = tail.plus(of_module(network))
    kept: dict[str, Array] = {}
    for turn, optimiser in optimisers.items():
        kept |= _take_moments(optimiser, network, turn)
    reached = of_module(network)
    ended = tail.mean(reached) if tail.models else reached
    if private is not None:  # whatever else a network may have changed has no noise on it
        noised = {name for optimiser in optimisers.values() for name in _named(network, optimiser)}
        ended = {name: array if name in noised else start[name] for name, array in ended.items()}
    return Result(ended, kept, float(np.mean(losses)), waiting, Lost() if private is None else private.lost)


@timed("data")
def _batch(
    task: Task, cases: Cases, form: CaseForm, training: Training, draws: np.random.Generator, network: nn.Module
) -> Batch:
    drawn = (task.draw(cases, form, training, draws) for _ in range(training.batch))
    image, target = (torch.from_numpy(array) for array in stacked(((e.image, e.target) for e in drawn), training.batch))
    device = next(network.parameters()).device
    return Batch(carried(image, device), carried(target, device))


def stacked(rows: Iterable[tuple[Array, ...]], count: int) -> list[Array]:
    """Each row's arrays stacked over the rows, of which no more than one is held beside the stacks.

    Raises:
        ValueError: arrays of different shapes.
    """
    stacks: list[Array] = []
    for place, row in enumerate(rows):
        stacks = stacks or [np.empty((count, *array.shape), array.dtype) for array in row]
        for stack, array in zip(stacks, row, strict=True):
            if array.shape != stack.shape[1:]:
                raise ValueError(f"examples of shapes {stack.shape[1:]} and {array.shape} in one batch")
            stack[place] = array
    return stacks


def _split(batch: Batch, pieces: int) -> list[Batch]:
    if pieces == 1:
        return [batch]
    images, targets = batch.image.tensor_split(pieces), batch.target.tensor_split(pieces)
    return [Batch(image, target) for image, target in zip(images, targets, strict=True) if len(image)]


def _several(
    private: PatientSteps,
    network: nn.Module,
    task: Task,
    make: Make,
    optimisers: Mapping[str, torch.optim.Optimizer],
    losses: Callable[[str, nn.Module, Batch], Tensor],
    pieces: int,
) -> Several | None:
    """Look whether noise can protect patients here, and for quicker ways to their gradients; None: there are none.

    Raises:
        UsageError: FR-U95, it cannot.
    """
    probe = private.check(network, task, make)
    if probe is None or len(optimisers) != 1 or pieces > 1:  # in pieces, memory is short
        return None
    ((turn, optimiser),) = optimisers.items()
    named, words = _named(network, optimiser), f"{task}"
    several = Several.of(network, partial(losses, turn), named, probe, private.noisy.examples, words)
    private.lost.alone = several.found.why if several.new else ""
    return several


def _filling(
    batches: Sequence[Batch],
    turn: str,
    back: Callable[[Batch, str, float], float],
    longest: float | None,
    pieces: int,
    private: PatientSteps | None,
    several: Several | None,
) -> Fill:
    """What sets a step's gradients: of one batch for all, or of one for each patient, with noise on their sum."""

    def back_all(batch: Batch) -> float:
        parts, total = _split(batch, pieces), len(batch.image)
        losses = [back(part, turn, len(part.image) / total) for part in parts]
        return losses[0] if len(losses) == 1 else math.fsum(losses)

    def plain(named: Mapping[str, nn.Parameter]) -> float:
        loss = math.fsum(map(back_all, batches))
        if longest is not None:
            nn.utils.clip_grad_norm_(named.values(), longest)
        return loss

    def noised(named: Mapping[str, nn.Parameter]) -> float:
        assert private is not None
        private.gradients(named, batches, back_all, several)
        return 0.0  # a mean of a few patients' losses has no noise: not even the site's own update holds it

    return plain if private is None else noised


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, rate: float, fill: Fill, correct: Correct | None
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    # the other turns' gradients too: a loss of this turn may run through what another one trains
    network.zero_grad(set_to_none=True)
    named = _named(network, optimiser)
    loss = fill(named)
    if correct is not None:
        weights = {name: parameter.detach() for name, parameter in named.items()}
        correct({name: parameter.grad for name, parameter in named.items() if parameter.grad is not None}, weights)
    take_step(optimiser)
    return loss


def _losses(
    task: Task, training: Training, noise: torch.Generator, turn: str, network: nn.Module, batch: Batch
) -> Tensor:
    """(B,): one an example."""
    with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=training.amp == "bf16"):
        return task.loss(network, batch, turn, noise).float()


def _backward(losses: Tensor, share: float) -> float:
    """Add the gradients of one piece, which is that share of its step's examples, and return its share of the loss."""
    loss = losses.mean()
    if not torch.isfinite(loss):
        raise RoundError(
            "FR-R30", f"the loss became {loss.item()}", do="lower training.learning_rate, or check the cases"
        )
    if share != 1:
        loss = loss * share
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _named(network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """What this optimiser changes, by name, in its own order."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(parameter)]: parameter for group in optimiser.param_groups for parameter in group["params"]}


def _take_moments(optimiser: torch.optim.Optimizer, network: nn.Module, turn: str) -> dict[str, Array]:
    moments: dict[str, Array] = {}
    for name, parameter in _named(network, optimiser).items():
        for entry, value in optimiser.state.get(parameter, {}).items():
            if value is not None:
                moments[f"{turn}/{entry}/{name}"] = torch.as_tensor(value).detach().cpu().numpy().copy()
    return moments


def _put_moments(optimiser: torch.optim.Optimizer, network: nn.Module, turn: str, moments: Arrays) -> None:
    """Set the state that `_take_moments` took; a tensor of which there is none starts afresh."""
    for name, parameter in _named(network, optimiser).items():
        found = {
            key.split("/", 2)[1]: torch.from_numpy(np.array(value))
            for key, value in moments.items()
            if key.startswith(f"{turn}/") and key.split("/", 2)[2] == name
        }
        if found:
            optimiser.state[parameter] = {
                entry: value if entry == "step" else value.to(parameter.device) for entry, value in found.items()
            }
