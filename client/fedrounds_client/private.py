"""The steps of DP-SGD: patients drawn in secret, the gradient of each cut to one norm, noise on the sum.

One patient goes through the network at a time, so no network needs to give gradients of single examples, and beside
the gradients there is one sum of their size; where a network allows it and it is quicker, several go at once
(`several.py`), to the same sum. Abadi et al. 2016 (arXiv:1607.00133), Algorithm 1, with the patient as unit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from fedrounds_client.memory import out_of_memory
from fedrounds_client.several import Several
from fedrounds_common.case import Case, Cases
from fedrounds_common.dp.fitness import check_fit
from fedrounds_common.dp.noise import Secret
from fedrounds_common.errors import FedroundsError, RefusedError, RoundError
from fedrounds_common.privacy import NoisySteps
from fedrounds_common.task import Batch, Task

SAFE = 1 + 1e-6  # rounding in float32 may make the cut gradient longer by less
Make = Callable[[Cases, int], Batch]  # so many examples of these cases, as one batch
Backward = Callable[[Batch], object]  # adds the gradients of the batch's mean loss; RoundError where it is not finite


@final
@dataclass
class Lost:
    """Of a round: how many patients' parts in steps were left out, by why. It stays at the site.

    `alone`: why patients go through the network one at a time, where that was just found out; nothing is lost by it.
    """

    unreadable: int = 0
    not_finite: int = 0
    alone: str = ""

    def __bool__(self) -> bool:
        return bool(self.unreadable or self.not_finite)


@final
class Own(Sequence[Case]):
    """One patient's cases, each opened when it is asked for."""

    def __init__(self, cases: Cases, places: Sequence[int]) -> None:
        self._cases, self._places = cases, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]  # Sequence's two overloads
        chosen = self._places[place]
        return [self._cases[each] for each in chosen] if isinstance(place, slice) else self._cases[chosen]


@final
@dataclass
class PatientSteps:
    """A site's noisy steps over its training cases.

    A patient's part is left out where a case cannot be drawn from, or a loss or gradient is not finite: to refuse then
    would tell of that patient. The draws are a stream of their own: they may be made in a thread beside the steps.
    """

    noisy: NoisySteps
    patients: Sequence[Cases]
    lost: Lost = field(default_factory=Lost)
    _draws: Secret = field(default_factory=Secret)
    _noise: Secret = field(default_factory=Secret)

    @staticmethod
    def of(noisy: NoisySteps, cases: Cases) -> PatientSteps:
        """Raises RefusedError FR-C35: fewer patients than the study lets a site take part with."""
        patients = [Own(cases, places) for places in by_patient(cases)]
        if len(patients) < noisy.patients:
            raise RefusedError(
                "FR-C35",
                f"{len(patients)} patients to train on",
                wanted=f"the {noisy.patients} of the study's [[privacy]]",
            )
        return PatientSteps(noisy, patients)

    def seed(self) -> int:
        """For whatever else is drawn in these steps, augmentation and dropout: with a known seed, one patient's being
        drawn would show in what is drawn for the next."""
        return self._draws.seed()

    def draw(self, make: Make) -> list[Batch]:
        """One step's patients, each with probability `rate` and whoever else is drawn: a batch of each; often none."""
        chosen = np.flatnonzero(self._draws.uniform(len(self.patients)) <= self.noisy.rate)
        found = (self._made(self.patients[int(place)], make) for place in chosen)
        return [batch for batch in found if batch is not None]

    def _made(self, own: Cases, make: Make) -> Batch | None:
        try:
            return make(own, self.noisy.examples)
        except (FedroundsError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            self.lost.unreadable += 1
            return None

    def check(self, network: nn.Module, task: Task, make: Make) -> Batch | None:
        """Refuse a network that noise cannot protect patients in. The shapes are those of any patient that has them.

        Returns:
            An example of those shapes, of which the image is nobody's; None without any patient.

        Raises:
            UsageError: FR-U95 naming the layer. FedroundsError: no patient at all can be drawn from, as where the study
                asks for what this site's cases have not; of the last one, and the rounds would be noise alone.
        """
        why: Exception | None = None
        for own in self.patients:
            try:
                batch = make(own, 1)
            except (FedroundsError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
                if out_of_memory(error):
                    raise
                why = error
                continue
            check_fit(network, task, batch)
            return Batch(torch.zeros_like(batch.image), batch.target)
        if why is not None:
            raise why
        return None

    def gradients(
        self,
        named: Mapping[str, nn.Parameter],
        batches: Sequence[Batch],
        backward: Backward,
        several: Several | None = None,
    ) -> None:
        """Set each parameter's gradient: the patients' cut and summed, noise on it, by the expected batch.

        Where nobody was drawn it is noise alone: a step left out would tell so.

        Args:
            several: quicker ways to the same gradients of each patient, taken where they are.
        """
        total = {name: torch.zeros(parameter.shape, device=parameter.device) for name, parameter in named.items()}
        if several is None:
            for batch in batches:
                self._add(total, named, batch, backward)
        else:
            for chunk in several.chunks(batches):
                self._add_chunk(total, named, chunk, backward, several)
        for name, parameter in named.items():
            self._noise.add_to(total[name], self.noisy.multiplier * self.noisy.clip)
            parameter.grad = total[name].div_(self.noisy.batch).to(parameter.dtype)

    def _add_chunk(
        self,
        total: Mapping[str, Tensor],
        named: Mapping[str, nn.Parameter],
        chunk: Sequence[Batch],
        backward: Backward,
        several: Several,
    ) -> None:
        started, way = time.perf_counter(), several.way(len(chunk))
        if way == "together" and not self._add_together(total, named, chunk, several):
            for batch in chunk:  # one of them is not finite: which, is told one at a time, and that is left out
                self._add(total, named, batch, backward)
        elif way != "together":
            for batch in chunk:
                self._add(total, named, batch, several.twice if way == "twice" else backward)
        several.note(way, len(chunk), started)

    def _add_together(
        self,
        total: Mapping[str, Tensor],
        named: Mapping[str, nn.Parameter],
        chunk: Sequence[Batch],
        several: Several,
    ) -> bool:
        found = several.together(named, chunk)
        if found is None:
            return False
        rows = {name: gradients.flatten(1) for name, gradients in found.items()}
        sizes = torch.stack([torch.linalg.vector_norm(each, dim=1, dtype=torch.float64) for each in rows.values()])
        size = torch.linalg.vector_norm(sizes, dim=0)
        if not bool(torch.isfinite(size).all()):
            return False
        shares = (self.noisy.clip / (size * SAFE)).clamp(max=1.0)
        for name, each in rows.items():
            total[name].view(-1).addmv_(each.T.to(total[name].dtype), shares.to(total[name].dtype))
        return True

    def _add(
        self, total: Mapping[str, Tensor], named: Mapping[str, nn.Parameter], batch: Batch, backward: Backward
    ) -> None:
        for parameter in named.values():
            parameter.grad = None
        try:
            backward(batch)
        except RoundError:
            self.lost.not_finite += 1
            return
        except (
            RuntimeError
        ) as error:  # torch's own, as of a shape that the network cannot take: to fail here would tell of it
            if out_of_memory(error):
                raise
            self.lost.unreadable += 1
            return
        found = {name: parameter.grad for name, parameter in named.items() if parameter.grad is not None}
        # in float64: of ten million squares float32 loses more than the bound allows
        sizes = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in found.values()]
        size = float(torch.linalg.vector_norm(torch.stack(sizes))) if sizes else 0.0
        if not math.isfinite(size):
            self.lost.not_finite += 1
            return
        share = min(1.0, self.noisy.clip / (size * SAFE)) if size else 1.0
        for name, gradient in found.items():
            total[name].add_(gradient, alpha=share)


def by_patient(cases: Cases) -> list[list[int]]:
    """The places of each patient's cases, patients in the order in which they first come."""
    places: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        places.setdefault(case.ref.patient, []).append(place)
    return list(places.values())
