"""The audit of noise in one run: canaries put in by fair coins, looked for in what leaves, and counted.

A canary is a patient whose gradient lies along one weight of the network alone, and is far longer than the clip. So what
leaves tells of each by one number. The patients are drawn, cut, added up and noised by `private.py` itself; nothing of it
is done again here. Steinke, Nasr, Jagielski 2023 (arXiv:2305.08846), with their white-box canaries of one entry each.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from fedrounds_client.attacks.evidence import epsilon_at_least
from fedrounds_client.attacks.guessing import Guesses, Power, power_of
from fedrounds_client.private import PatientSteps
from fedrounds_common.case import F64, Case, CaseRef, Cases
from fedrounds_common.networks.tiny_cnn import TinyCNN
from fedrounds_common.privacy import NoisySteps, Privacy
from fedrounds_common.rng import generator, seeded
from fedrounds_common.study.tables import Training
from fedrounds_common.task import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE = 16  # pixels of a picture
BESIDE = 8  # patients who are none: the network learns something too, and they lie in the same sums
LONGER = 100.0  # clips that a canary's gradient is long: left uncut it drowns any noise
PACE = 1e-2  # how far a clip moves a weight: far above rounding, far below what would make the loss infinite

Flags = NDArray[np.bool_]


@final
@dataclass(frozen=True)
class Claim:
    """What is said of a mechanism: steps like these, so many of them, keep (epsilon, delta)."""

    epsilon: float
    delta: float
    steps: NoisySteps
    number: int


def claims(measures: Sequence[Privacy], training: Training) -> list[Claim]:
    """Of each of a study's measures that says how steps are taken."""
    found = []
    for measure in measures:
        steps = measure.steps(training)
        spent = measure.spent(training, [1] * training.rounds)
        if steps is not None and spent is not None:
            found.append(Claim(spent.epsilon, spent.delta, steps, training.rounds * (training.local_steps or 0)))
    return found


def together(runs: Sequence[Audited]) -> float:
    """What several audits of one mechanism show together: epsilon is at least this, 95 % sure.

    Each canary is in one run only, so all runs are one mechanism of so many canaries, which keeps the same epsilon.
    """
    canaries, guesses, right = (
        sum(values) for values in zip(*((run.canaries, run.guesses.number, run.right) for run in runs), strict=True)
    )
    return epsilon_at_least(canaries, guesses, right, runs[0].claim.delta)


@final
@dataclass(frozen=True)
class Audited:
    """`put_in` of `canaries` were in; of `guesses` so many were `right`. `bound`: epsilon is at least this, 95 % sure."""

    claim: Claim
    canaries: int
    put_in: int
    guesses: Guesses
    right: int
    power: Power

    @property
    def bound(self) -> float:
        return epsilon_at_least(self.canaries, self.guesses.number, self.right, self.claim.delta)

    @property
    def refuted(self) -> bool:
        return self.bound > self.claim.epsilon

    @property
    def most(self) -> float:
        """What the audit would have shown had every guess been right: of a larger epsilon it could say nothing."""
        return epsilon_at_least(self.canaries, self.guesses.number, self.guesses.number, self.claim.delta)

    def text(self) -> str:
        claim, number = self.claim, self.guesses.number
        verdict = "REFUTED" if self.refuted else "not refuted"
        return "\n".join(
            [
                f"{self.canaries} canaries, {self.put_in} of them put in by fair coins; {number} guesses, {self.right} right",
                f"epsilon is at least {self.bound:.2f} (95 % sure); claimed: at most {claim.epsilon:.2f} at delta "
                f"{claim.delta:g}: {verdict}",
                f"power: {self.power.text()}; {number} guesses can show {self.most:.2f} at most",
            ]
        )


def audit(claim: Claim, canaries: int = 1000, done: NoisySteps | None = None) -> Audited:
    """Put canaries through the mechanism and say what comes out against the claim.

    Args:
        claim: of the mechanism that is audited. canaries: at most as many as the small network has weights.
        done: what is carried out in place of what is claimed: so a test breaks the mechanism.
    """
    power = power_of(claim.steps, claim.number, claim.epsilon, claim.delta, canaries)
    put_in = np.array([secrets.randbits(1) for _ in range(canaries)], bool)
    seen = look_for(put_in, done or claim.steps, claim.number, claim.steps.clip)
    return Audited(claim, canaries, int(put_in.sum()), power.guesses, power.guesses.right(seen, put_in), power)


def look_for(put_in: Flags, steps: NoisySteps, number: int, clip: float) -> F64:
    """Of each canary, how far its weight moved in the update, in clips: about how often it was drawn, and noise.

    Args:
        put_in: (canaries,) whether it is among the patients. steps: how each of the `number` steps is taken.
        clip: as claimed; a canary's gradient is so many times longer.
    """
    network, places, signs = _planted(len(put_in))
    named = dict(network.named_parameters())
    flat = [(name, place) for name, parameter in named.items() for place in range(parameter.numel())]

    def backward(batch: Batch) -> None:
        canary = int(batch.target[0, 0])
        if canary < 0:
            loss = torch.nn.functional.cross_entropy(network(batch.image), -1 - batch.target[:, 0].long())
        else:
            name, place = flat[int(places[canary])]
            loss = named[name].view(-1)[place] * float(signs[canary]) * LONGER * clip
        loss.backward()  # type: ignore[no-untyped-call]

    # how many patients a site must have bounds nothing of the noise, and how many are in is left to coins
    patients = PatientSteps.of(replace(steps, patients=1), _cases(put_in))
    before, rate = _weights(network), PACE * steps.batch / clip
    for _ in range(number):
        patients.gradients(named, patients.draw(_made), backward)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter.sub_(rate * parameter.grad)
    moved = np.subtract(before, _weights(network))
    return np.asarray(moved[places] * signs / PACE, np.float64)


def _planted(canaries: int) -> tuple[nn.Module, NDArray[np.int64], F64]:
    """A small network; which of its weights is each canary's own; and the way it pulls."""
    draws = generator(0, "canaries", canaries)
    with seeded(0):
        network = TinyCNN(channels=(8, 16)).build(2, 1, 2).train()
    weights = sum(parameter.numel() for parameter in network.parameters())
    places = draws.permutation(weights)[:canaries]
    return network, places, draws.choice([-1.0, 1.0], canaries)


def _weights(network: nn.Module) -> F64:
    flat: Tensor = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
    return flat.numpy().astype(np.float64)


def _cases(put_in: Flags) -> Cases:
    draws = generator(0, "beside")
    others = [draws.standard_normal((1, SIDE, SIDE)).astype(np.float32) for _ in range(BESIDE)]
    blank = np.zeros((1, SIDE, SIDE), np.float32)
    named = [(f"canary {number}", blank) for number in np.flatnonzero(put_in)]
    named += [(f"beside {number}", image) for number, image in enumerate(others)]
    return [Case(CaseRef(name, name), image, None, np.eye(4)) for name, image in named]


def _made(own: Cases, count: int) -> Batch:
    """So many times the patient's one picture. Target (B, 1): the canary's number, or -1 - class of one that is none."""
    word, number = own[0].ref.name.split()
    target = float(number) if word == "canary" else -1.0 - int(number) % 2
    image = torch.from_numpy(own[0].image)
    return Batch(image.expand(count, *image.shape), torch.full((count, 1), target))
