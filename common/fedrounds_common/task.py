"""A task: what is learned from a case, and how it is judged. One file in `tasks/` each.

Shapes in model code: B examples, C channels, K outputs, *grid spatial axes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from fedrounds_common.arrays import Arrays
from fedrounds_common.case import F32, F64, U8, Case, Cases
from fedrounds_common.errors import UsageError
from fedrounds_common.network import Makes
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.written import Written

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrounds_common.network import Network

Tally = Mapping[str, F64]  # named arrays that add: sums, counts, histograms


@final
@dataclass(frozen=True)
class Example:
    """One training example: image (C, *patch), and its target (K, *patch) or (K,), float32.

    Of a pair of images, fixed and then moving: 2 C channels, and the labels of both where there are any.
    """

    image: F32
    target: F32


@final
@dataclass(frozen=True)
class Batch:
    """Examples stacked: image (B, C, *patch), target (B, K, *patch) or (B, K)."""

    image: Tensor
    target: Tensor


@final
@dataclass(frozen=True)
class Prediction:
    """What a network makes of one case, on its prepared grid.

    `outputs` is what an ensemble averages: probabilities (K, *grid) of a label map or (K,) of the case, a
    displacement (A, *grid), an image (C, *grid). `labels` is what is decided from them: label values (*grid), or
    (K,) 0 and 1 for the case's classes; empty (0,) where nothing is decided. `image` (C, *grid): a picture made,
    e.g. the moving image warped onto the fixed one. `plain`: `outputs` before they were calibrated, where they were.
    """

    outputs: F32
    labels: U8
    image: F32 | None = None
    plain: F32 | None = None


@final
@dataclass(frozen=True)
class CaseScore:
    """The scores of one case; stays at the site. `values[region][metric]`; nan = undefined, never 0.

    `state[region]` is one of "scored", "both-empty", "missed" (reference only), "spurious" (prediction only).
    `arrays`: what the tally needs besides these, e.g. the probabilities of the case's classes.
    """

    case: str
    patient: str
    values: Mapping[str, Mapping[str, float]]
    state: Mapping[str, str]
    arrays: Mapping[str, F64] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Measure:
    """How a metric is spoken of: `word` with its unit, e.g. "HD95 (mm)"; how many digits are worth printing.

    `brief`: it stands in short tables too, beside the study's primary one. Of a task without any, all do.
    `exact`: the sums that leave give the very number that all cases in one place would; if not, `table` has a row
    that bounds the distance.
    """

    word: str
    lower_is_better: bool = False
    digits: int = 2
    brief: bool = False
    exact: bool = True


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


@final
@dataclass(frozen=True)
class Why:
    """What explains an answer: `says` what the maps show, e.g. "what speaks for pneumonia".

    `maps`: method → the map (*grid) of `over`, float32, 0 or more, larger is more, when called: some take long. `over`: the case
    they are drawn over, of a pair its fixed image.
    """

    says: str
    over: Case
    maps: Mapping[str, Callable[[], F32]]


class Task(ABC):
    """A frozen dataclass; its fields are the study's `[task]` table."""

    measures: ClassVar[Mapping[str, Measure]]  # name of each metric of `table`, as in metrics.csv, → how it is shown
    counts: ClassVar[tuple[str, str, str]] = ("empty", "missed", "spurious")  # what these columns count, in its words
    parts: ClassVar[tuple[str, str]] = ("region", "regions")  # what the rows of `table` are about, one and several
    takes: ClassVar[tuple[Makes, ...]] = ("maps",)  # what its network must make: another head is refused
    by_case: ClassVar[str] = ""  # what orders single cases, where the primary measure may be one of many cases (an AUC)

    @property
    def turns(self) -> tuple[str, ...]:
        """One optimiser each, which take turns in every step; a GAN has ("discriminator", "generator")."""
        return ("",)

    @property
    def before(self) -> tuple[str, ...]:
        """What sites are asked to sum up before round 1, in this order, e.g. ("classes",)."""
        return ()

    @property
    def after(self) -> tuple[str, ...]:
        """And after the last one, each with the model that the one before was settled in, e.g. ("temperature",)."""
        return ()

    @property
    def of_validation(self) -> tuple[str, ...]:
        """Those of `before` and `after` that are summed over the cases a site keeps to validate, and never trained."""
        return ()

    def faults(self, form: CaseForm, training: Training, evaluation: Evaluation) -> Sequence[tuple[str, str]]:
        """What of a study does not go with this task: dotted key and message each, e.g. ("cases.classes", "…")."""
        return ()

    @abstractmethod
    def network(self, network: Network, form: CaseForm) -> nn.Module:
        """Build the network with as many inputs and outputs as the cases ask for; weights not yet seeded."""

    def parameters(self, network: nn.Module, turn: str) -> Sequence[nn.Parameter]:
        """What the optimiser of this turn changes, in the network's order."""
        return [parameter for parameter in network.parameters() if parameter.requires_grad]

    @property
    def of_one_patient(self) -> bool:
        """Whether a training example is made of one patient's cases: only then can noise hide a patient."""
        return True

    def at_site(self, names: Sequence[str]) -> Collection[str]:
        """Which of the model's arrays each site keeps for itself: it goes on from its own, and nothing of them leaves."""
        return ()

    @abstractmethod
    def draw(self, cases: Cases, form: CaseForm, training: Training, rng: np.random.Generator) -> Example:
        """Draw one training example from a site's prepared cases, augmentation included."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        """One value per example, (B,); the caller takes the mean."""

    def judged(self, cases: Cases, form: CaseForm, seed: int) -> Cases:
        """What is judged of one site's cases: each of them, or pairs drawn from them."""
        return cases

    def beside(self, trained: Cases, form: CaseForm, seed: int) -> Cases:
        """What is judged beside them of one site's training cases, for what only these can show: copies of them.

        No number of a table may speak of these as of cases that nothing was trained on.
        """
        return ()

    @abstractmethod
    def predict(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Prediction:
        """Predict one whole prepared case."""

    @abstractmethod
    def decide(self, outputs: F32, case: Case, form: CaseForm) -> Prediction:
        """The prediction that these outputs amount to; an ensemble hands in their mean."""

    @abstractmethod
    def score(self, prediction: Prediction, case: Case, form: CaseForm, evaluation: Evaluation) -> CaseScore:
        """Judge a prediction; what it returns never leaves the site."""

    @abstractmethod
    def tally(self, scores: Sequence[CaseScore], form: CaseForm, evaluation: Evaluation, seed: int) -> Tally:
        """What leaves: float64 arrays such that the tally of two sites' cases is the sum of their tallies.

        Of no case it has the same names and shapes: the coordinator holds what comes against that. Arrays of one row a
        replicate, patients weighed by `summary.patient_weights` of `seed`, have names that begin with "replicate_": by
        that a real site knows what to turn (`metrics/hiding.py`). Without it whoever guesses names could solve for scores.
        """

    @abstractmethod
    def table(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> tuple[Metric, ...]:
        """The same function for one site's tally and for the sum of all."""

    def replicates(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> Mapping[str, F64]:
        """Row of the table → its primary measure in each replicate, (resamples,), nan where it has none; {}: no such thing.

        Patients are drawn alike for every model of a site, so the difference of two models' replicates is paired.
        Asked of the tally of one site, where it is the only one that judges.
        """
        return {}

    def rankable(self, metric: Metric) -> bool:
        """Whether so much stands behind this row that one site may be ranked by it against another."""
        return metric.n > 0

    @abstractmethod
    def picture(self, case: Case, prediction: Prediction, form: CaseForm) -> Picture:
        """Image, reference and prediction side by side, drawn at the site that holds the case."""

    def sample(
        self, network: nn.Module, form: CaseForm, number: int, seed: int, kind: str = "", given: Cases = ()
    ) -> Cases:
        """Synthetic cases with their labels, of a task that makes any; the same seed gives the same ones.

        Args:
            kind: of this class only; "" is each in turn.
            given: prepared cases whose label maps are asked for, where it is label maps that images are made for.

        Raises:
            UsageError: FR-U76 this task makes no images from nothing.
        """
        raise UsageError("FR-U76", "this task makes no images from nothing", wanted="a model of generation")

    def files(self, prediction: Prediction, case: Case, form: CaseForm) -> Mapping[str, Written]:
        """What `fedrounds predict` writes of a case: name of a folder, or of a table, → what comes into it.

        `prediction` and `case` lie on the grid of the case's file.

        Raises:
            DataError: FR-D71 the prediction is not one of this study.
        """
        return {}

    def lacks(self, case: Case, form: CaseForm) -> str:
        """What this case needs to be trained on and judged by, and has not: "a mask", "a class"; "" if nothing."""
        return ""

    def guesses(self, case: Case, form: CaseForm) -> Mapping[str, Prediction]:
        """What those who learn nothing would answer, by the rule's name: each class, the identity, the noisy input.

        The same rules for every case. The best, chosen in hindsight over all judged cases, is the `floor` beside
        the models.
        """
        return {}

    def guessed(self, cases: Cases, form: CaseForm, evaluation: Evaluation) -> Mapping[str, Sequence[CaseScore]]:
        """Rule → the score of what it answers for each of a site's judged cases, in their order; {} without rules."""
        found: dict[str, list[CaseScore]] = {}
        for case in cases:
            for rule, guess in self.guesses(case, form).items():
                found.setdefault(rule, []).append(self.score(guess, case, form, evaluation))
        return found

    def best_guess(
        self, guessed: Mapping[str, Sequence[CaseScore]], form: CaseForm, evaluation: Evaluation
    ) -> tuple[Sequence[CaseScore], Mapping[str, str]]:
        """The rule that is best by the primary measure over all sites' judged cases: a bound in its favour.

        Args:
            guessed: as from `guessed`, of all sites together; at least one rule.

        Returns:
            One score a case, in order, and region → the rule that it is from; one entry "" where one rule stands
            for all regions.
        """
        lower = self.measures[evaluation.primary].lower_is_better
        quick = replace(evaluation, resamples=0)

        def worth(rule: str) -> float:
            rows = self.table(self.tally(guessed[rule], form, quick, 0), form, quick)
            values = {row.region: row.value for row in rows if row.metric == evaluation.primary}
            value = values.get("mean", next(iter(values.values()), math.nan))
            return -math.inf if math.isnan(value) else -value if lower else value

        best = max(guessed, key=worth)
        return guessed[best], {"": best}

    def explain(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Why | None:
        """What of a prepared case its prediction rests on, by each method that this network allows; None: no method."""
        return None

    def gather(self, purpose: str, network: nn.Module, cases: Cases, form: CaseForm, training: Training) -> Tally:
        """What a site answers when asked for one of `before` or `after`: sums over its training cases, or, of
        `of_validation`, over those that it keeps to validate.

        As a tally: float64 arrays that add, of the same names and shapes whatever the cases, and of none.
        """
        raise NotImplementedError(purpose)

    def settle(self, purpose: str, total: Tally, arrays: Arrays, form: CaseForm) -> Arrays:
        """The model with what the sites' sums amount to written into it (class weights, a temperature). Pure."""
        raise NotImplementedError(purpose)


def add_tallies(tallies: Sequence[Tally]) -> dict[str, F64]:
    """Sum by name; a name that one site lacks counts as zeros there."""
    total: dict[str, F64] = {}
    for tally in tallies:
        for name, array in tally.items():
            total[name] = total[name] + array if name in total else array.astype(np.float64)
    return total
