"""DP-SGD: noise in every step at a site, so that no patient can be told from the update (Abadi et al. 2016, arXiv:1607.00133)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

from pydantic import ConfigDict, Field, model_validator

from fedrounds_common.dp import accounting
from fedrounds_common.dp.accounting import Accountant
from fedrounds_common.plugins import STRICT, RulesBroken
from fedrounds_common.privacy import NoisySteps, Privacy, Spent, one_of
from fedrounds_common.study.tables import Count, OrNone, Positive, Training

if TYPE_CHECKING:
    from fedrounds_common.task import Task

Noise = Annotated[float, Field(ge=accounting.LEAST, le=accounting.MOST)]


@final
@dataclass(frozen=True)
class DPSGD(Privacy):
    """Each patient's part of each step is bounded, and noise hides whether it is there.

    `epsilon`, `delta`: what all of the study's rounds may tell of a patient at most; the noise follows from them. Or
    `noise_multiplier`: how much noise, in clips, and `epsilon = "none"`.
    `clip`: the largest norm of one patient's gradient, of all of the patient's images together.
    `sampling_rate`: the probability with which each patient is drawn into a step, the same at every site;
    `training.batch` is what a step's sum is divided by, so about the rate times a typical site's patients.
    `examples`: how many are drawn of each patient that a step has drawn; they count as one.
    `patients`: a site with fewer to train on takes no part.
    `accountant`: "rdp", or "prv", which claims a little less for the same noise and takes seconds to compute.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    unit: ClassVar[Literal["patient", "hospital"]] = "patient"

    epsilon: OrNone[Positive] = 8.0
    noise_multiplier: OrNone[Noise] = None
    delta: Annotated[float, Field(gt=0, le=0.01)] = 1e-5
    clip: Positive = 1.0
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    examples: Count = 1
    patients: Count = 20
    accountant: Accountant = "rdp"

    @model_validator(mode="after")
    def _agree(self) -> DPSGD:
        rules = one_of(self.epsilon, self.noise_multiplier)
        if self.delta * self.patients >= 1:
            wanted = f"below 1 / patients = {1 / self.patients:g}: to give one patient away whole would be within it"
            rules.append((("delta", "patients"), f"{self.delta:g}: {wanted}"))
        if rules:
            raise RulesBroken(rules)
        return self

    def faults(self, task: Task, training: Training) -> Sequence[tuple[str, str]]:
        return tuple(self._faults(task, training))

    def _faults(self, task: Task, training: Training) -> Iterator[tuple[str, str]]:
        if training.local_steps is None or training.rounds == 0:
            key = "training.rounds" if training.rounds == 0 else "training.local_steps"
            yield (
                key,
                "dp_sgd wants a number of steps that depends on nobody's cases: rounds and local_steps, 1 or more",
            )
        elif self.epsilon is not None:
            try:
                self._multiplier(training)
            except ValueError as error:
                yield ".epsilon", f"{self.epsilon:g}: {error}"
        if len(task.turns) > 1:
            yield "task", f"dp_sgd accounts for one network, and here {' and '.join(task.turns)} take turns"
        if not task.of_one_patient:
            yield "task", "dp_sgd hides a patient, and an example of this task is made of several patients' cases"
        trained = [each for each in (*task.before, *task.after) if each not in task.of_validation]
        if trained:
            yield (
                "task",
                f"dp_sgd puts no noise into sums over training cases, and this task asks for {', '.join(trained)}",
            )

    def steps(self, training: Training) -> NoisySteps:
        return NoisySteps(
            self.sampling_rate, self.clip, self._multiplier(training), training.batch, self.examples, self.patients
        )

    def spent(self, training: Training, sites_by_round: Sequence[int]) -> Spent:
        """Of a site that took part in every one of these rounds; the sites share no patient, so none costs another."""
        steps = len(sites_by_round) * (training.local_steps or 0)
        found = accounting.epsilon(self.accountant, self._multiplier(training), self.sampling_rate, steps, self.delta)
        return Spent(found, self.delta, self.unit, self.accountant)

    def _multiplier(self, training: Training) -> float:
        """Raises ValueError: no noise is enough."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        assert self.epsilon is not None
        steps = training.rounds * (training.local_steps or 0)
        return accounting.noise_multiplier(self.accountant, self.epsilon, self.sampling_rate, steps, self.delta)
