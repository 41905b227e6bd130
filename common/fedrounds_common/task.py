"""A task: what is learned from a case, and how it is judged. One file in `tasks/` each.

Shapes in model code: B examples, C channels, K outputs, *grid spatial axes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from fedrounds_common.case import F32, F64, U8, Case, Cases
from fedrounds_common.study.tables import CaseForm, Evaluation, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrounds_common.network import Network

Tally = Mapping[str, F64]  # named arrays that add: sums, counts, histograms


@final
@dataclass(frozen=True)
class Example:
    """One training example, e.g. a patch: image (C, *patch) and target (K, *patch), float32."""

    image: F32
    target: F32


@final
@dataclass(frozen=True)
class Batch:
    """Examples stacked: image (B, C, *patch), target (B, K, *patch)."""

    image: Tensor
    target: Tensor


@final
@dataclass(frozen=True)
class Prediction:
    """On the case's prepared grid: probabilities (K, *grid), and label values (*grid) drawn from them."""

    probabilities: F32
    labels: U8


@final
@dataclass(frozen=True)
class CaseScore:
    """The scores of one case; stays at the site. `values[region][metric]`; nan = undefined, never 0.

    `state[region]` is one of "scored", "both-empty", "missed" (reference only), "spurious" (prediction only).
    """

    case: str
    patient: str
    values: Mapping[str, Mapping[str, float]]
    state: Mapping[str, str]


@final
@dataclass(frozen=True)
class Metric:
    """One row of a table: a mean with its 95 % interval (patients resampled), and what stands behind it.

    n = cases in the mean; empty, missed, spurious = counts over all cases of this region.
    value, low and high are nan where nothing could be averaged.
    """

    region: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    empty: int
    missed: int
    spurious: int


@final
@dataclass(frozen=True)
class Picture:
    """RGB images drawn at the site, (H, W, 3) each, with a caption; R and L are written into the pixels."""

    title: str
    panels: Mapping[str, U8]


class Task(ABC):
    """A frozen dataclass; its fields are the study's `[task]` table."""

    turns: ClassVar[tuple[str, ...]] = ("",)  # one optimiser each; a GAN has ("discriminator", "generator")

    @abstractmethod
    def network(self, network: Network, form: CaseForm) -> nn.Module:
        """Build the network with as many inputs and outputs as the cases ask for; weights not yet seeded."""

    @abstractmethod
    def draw(self, cases: Cases, form: CaseForm, training: Training, rng: np.random.Generator) -> Example:
        """Draw one training example from a site's prepared cases, augmentation included."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        """One value per example, (B,); the caller takes the mean."""

    @abstractmethod
    def predict(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Prediction:
        """Predict one whole prepared case."""

    @abstractmethod
    def decide(self, probabilities: F32, form: CaseForm) -> Prediction:
        """The prediction that these probabilities (K, *grid) amount to; an ensemble hands in their mean."""

    @abstractmethod
    def score(self, prediction: Prediction, case: Case, form: CaseForm, evaluation: Evaluation) -> CaseScore:
        """Judge a prediction; what it returns never leaves the site."""

    @abstractmethod
    def tally(self, scores: Sequence[CaseScore], form: CaseForm, evaluation: Evaluation, seed: int) -> Tally:
        """What leaves: float64 arrays such that the tally of two sites' cases is the sum of their tallies.

        Of no case it has the same names and shapes: the coordinator holds what comes against that.
        """

    @abstractmethod
    def table(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> tuple[Metric, ...]:
        """The same function for one site's tally and for the sum of all."""

    @abstractmethod
    def picture(self, case: Case, prediction: Prediction, form: CaseForm) -> Picture:
        """Image, reference and prediction side by side, drawn at the site that holds the case."""


def add_tallies(tallies: Sequence[Tally]) -> dict[str, F64]:
    """Sum by name; a name that one site lacks counts as zeros there."""
    total: dict[str, F64] = {}
    for tally in tallies:
        for name, array in tally.items():
            total[name] = total[name] + array if name in total else array.astype(np.float64)
    return total
