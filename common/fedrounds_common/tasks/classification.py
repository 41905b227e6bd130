"""Classification of whole cases, 2D and 3D: one of two or more classes, or any number of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from fedrounds_common import discriminant, drawing
from fedrounds_common.arrays import Arrays
from fedrounds_common.case import F32, F64, U8, Case, Cases
from fedrounds_common.errors import CaseError, UsageError
from fedrounds_common.metrics import calibration, classes, confusion
from fedrounds_common.network import Makes
from fedrounds_common.study.tables import CaseForm, Count, Evaluation, OrNone, Training
from fedrounds_common.task import Batch, CaseScore, Example, Measure, Metric, Picture, Prediction, Tally, Task, Why
from fedrounds_common.written import Values, Written

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrounds_common.network import Network

Bins = Annotated[int, Field(ge=10, le=100_000)]
STATES = ("scored", "spurious", "both-empty", "missed")  # of a class: TP, FP, TN, FN, as `confusion.COUNTS`


@final
@dataclass(frozen=True)
class Classification(Task):
    """Classes that exclude each other: one softmax over `cases.classes`. With `cases.multi_label`: a sigmoid each.

    `criterion`: the loss. "svm" is a linear support-vector machine's: of Crammer and Singer for classes that exclude
    each other, else one class against the rest. `focal`: the exponent of "focal". `smoothing`: the share of the truth
    that is spread over all classes. `weights = "inverse"`: rare classes count more in the loss, in inverse proportion
    to their cases at all sites together, which the sites are asked for before round 1. `sampling = "balanced"`: each
    class that a site has is drawn equally often there.
    `head`: "network": as the network brings it. "lda", "gnb": once the rounds are over, linear discriminant analysis
    or Gaussian naive Bayes of the features takes its place, solved from one more answer of each site; `shrinkage` of
    its covariance in [0, 1].
    `threshold`: from which probability on the second of two classes is named, or each class of a multi-label study.
    `flips`: probabilities are the mean over the image and its mirror images. `slices`: of a stack, so many slices are
    looked at in training, evenly spread; "none": all of them.
    `temperature`: probabilities are calibrated after the last round, on the sites' validation cases.
    `bins`: of the histograms of scores that leave a site; fewer say less of single cases and less of the AUC.
    """

    measures: ClassVar[Mapping[str, Measure]] = classes.MEASURES
    counts: ClassVar[tuple[str, str, str]] = ("TN", "FN", "FP")
    parts: ClassVar[tuple[str, str]] = ("class", "classes")
    takes: ClassVar[tuple[Makes, ...]] = ("scores",)
    by_case: ClassVar[str] = "log_loss"

    criterion: Literal["cross-entropy", "focal", "svm", "svm-one-vs-rest"] = "cross-entropy"
    focal: Annotated[float, Field(ge=0)] = 2.0
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weights: Literal["none", "inverse"] = "none"
    sampling: Literal["natural", "balanced"] = "natural"
    head: Literal["network", "lda", "gnb"] = "network"
    shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.01
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    flips: bool = False
    slices: OrNone[Count] = None
    temperature: bool = True
    bins: Bins = 10_000

    @property
    def before(self) -> tuple[str, ...]:
        return ("classes",) if self.weights == "inverse" else ()

    @property
    def after(self) -> tuple[str, ...]:
        """The temperature last: it is that of the head that is then there."""
        moments = () if self.head == "network" else ("moments",)
        return (*moments, "temperature") if self.temperature else moments

    @property
    def of_validation(self) -> tuple[str, ...]:
        return ("temperature",)

    def faults(self, form: CaseForm, training: Training, evaluation: Evaluation) -> Sequence[tuple[str, str]]:
        found = []
        if not form.classes:
            found.append(("cases.classes", "[]: the classes are wanted, in the order of the network's outputs"))
        if self.head != "network" and form.multi_label:
            found.append(
                ("task.head", f"{self.head!r} takes each case to be of one class, and cases.multi_label is true")
            )
        if self.smoothing and self.criterion.startswith("svm"):
            found.append(("task.smoothing", f"{self.smoothing:g}: {self.criterion!r} has no probabilities to smooth"))
        if self.threshold != 0.5 and _exclusive(form):
            found.append(
                ("task.threshold", f"{self.threshold:g}: of {len(form.classes)} classes the likeliest is named")
            )
        return found

    def network(self, network: Network, form: CaseForm) -> nn.Module:
        """As many outputs as classes; class weights and temperature lie beside the weights, as buffers.

        Raises:
            UsageError: FR-U58 no classes, or the network makes maps; FR-U59 "lda" or "gnb" on another head.
        """
        import torch

        from fedrounds_common import heads, windows

        if network.makes not in self.takes:
            found = f"{type(network).__name__} makes {network.makes}"
            raise UsageError("FR-U58", found, wanted="a network that makes scores", do="`fedrounds list networks`")
        if not form.classes:
            raise UsageError("FR-U58", "a study without classes", wanted="names in [cases] classes, or a reader's own")
        outputs = len(form.classes)
        module = network.build(form.dims, len(form.channels), outputs)
        if self.head != "network":
            module.add_module("head", heads.Discriminant(heads.features_of(module), outputs))
        if self.weights == "inverse":
            module.register_buffer(heads.CLASS_WEIGHTS, torch.ones(2, outputs))
        if self.temperature:
            module.register_buffer(heads.TEMPERATURE, torch.ones(1))
        return windows.note(module, windows.Facts(network.divisor(form.dims), not form.multi_label, form.dims))

    def draw(self, cases: Cases, form: CaseForm, training: Training, rng: np.random.Generator) -> Example:
        """A random case, or with `sampling = "balanced"` one of a random class; whole, or a patch of `training.patch`.

        Raises:
            UsageError: FR-U42 no case; FR-U43 no patch, and the grids differ.
            CaseError: FR-D40 the case has no classes.
        """
        if not len(cases):
            raise UsageError("FR-U42", "no case to draw a training example from")
        case = drawing.case_of(cases, rng, balanced=self.sampling == "balanced")
        image = drawing.shown(case, cases[0], form.dims, training.patch, self.slices, rng)
        return Example(drawing.augmented(image, form.dims, training.augment, rng), _truth(case).astype(np.float32))

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        from fedrounds_common import criteria, heads, windows

        facts = windows.facts_of(network)
        logits = heads.logits(network, batch.image, facts)
        weights = getattr(network, heads.CLASS_WEIGHTS, None)
        return criteria.loss(
            self.criterion,
            logits,
            batch.target,
            batch.target.new_ones(2, batch.target.shape[1]) if weights is None else weights,
            exclusive=facts.exclusive,
            gamma=self.focal,
            smoothing=self.smoothing,
        )

    def predict(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Prediction:
        """Probabilities (K,) of the whole case; with `training.patch`, of the mean logits of windows of that size."""
        logits = self._logits(network, case, form, training)
        made = self.decide(_probabilities(logits / _temperature(network), form), case, form)
        return Prediction(made.outputs, made.labels, plain=_probabilities(logits, form))

    def _logits(self, network: nn.Module, case: Case, form: CaseForm, training: Training) -> F64:
        """(K,): what the network itself makes of the case, the mean over windows and mirror images."""
        from fedrounds_common import heads

        parts = drawing.windows_of(case.image, form.dims, training.patch)
        if self.flips:
            parts = drawing.with_mirror_images(parts, form.dims)
        return np.asarray(heads.judged(network, parts, training.amp).mean(axis=0), np.float64)

    def decide(self, outputs: F32, case: Case, form: CaseForm) -> Prediction:
        """The likeliest class; of two the second from the threshold on; of multi-label each from the threshold on."""
        named: U8 = np.zeros(len(outputs), np.uint8)
        if form.multi_label:
            named[outputs >= self.threshold] = 1
        elif len(outputs) == 2:
            named[int(outputs[1] >= self.threshold)] = 1
        else:
            named[int(outputs.argmax())] = 1
        return Prediction(outputs, named)

    def score(self, prediction: Prediction, case: Case, form: CaseForm, evaluation: Evaluation) -> CaseScore:
        """For each class and for the case as a whole ("mean"): whether it is right, log loss, Brier score.

        Raises:
            CaseError: FR-D40 the case has no classes.
        """
        chosen = _scored(form)
        plain = prediction.outputs if prediction.plain is None else prediction.plain
        arrays = {
            "probabilities": prediction.outputs,
            "plain": plain,
            "truth": _truth(case),
            "decided": prediction.labels,
        }
        kept = {name: np.asarray(array, np.float64)[chosen] for name, array in arrays.items()}
        judged = classes.Judged(
            kept["probabilities"][None], kept["plain"][None], kept["truth"][None], kept["decided"][None]
        )
        losses = classes.losses_of(judged, exclusive=_exclusive(form))[0]
        four = confusion.each(kept["decided"], kept["truth"])
        right = [float(each[0] + each[2]) for each in four]
        right.append(float(min(right)) if _exclusive(form) else float(np.mean(right)))
        names = _names(form)
        values = {
            name: {"accuracy": hit, **dict(zip(classes.LOSSES, map(float, loss), strict=True))}
            for name, hit, loss in zip([*names, "mean"], right, losses, strict=True)
        }
        state = {name: STATES[int(each.argmax())] for name, each in zip(names, four, strict=True)}
        return CaseScore(case.ref.name, case.ref.patient, values, state, kept)

    def tally(self, scores: Sequence[CaseScore], form: CaseForm, evaluation: Evaluation, seed: int) -> Tally:
        count = len(_names(form))
        return classes.tally(scores, count, self.bins, evaluation.resamples, seed, exclusive=_exclusive(form))

    def table(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> tuple[Metric, ...]:
        return classes.table(tally, _names(form), exclusive=_exclusive(form))

    def replicates(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> Mapping[str, F64]:
        return classes.replicates(tally, _names(form), evaluation.primary, exclusive=_exclusive(form))

    def rankable(self, metric: Metric) -> bool:
        """Ten cases of the class at least and ten of no such class; of "mean" ten cases.

        With fewer, one case more or less moves a site past others.
        """
        positives = metric.n - metric.empty - metric.spurious
        least = metric.n if metric.region == "mean" else min(positives, metric.n - positives)
        return least >= confusion.FEW_POSITIVES

    def picture(self, case: Case, prediction: Prediction, form: CaseForm) -> Picture:
        from fedrounds_common import bars

        truth = None if case.target is None else case.target.classes
        return bars.beside(case, prediction.outputs, truth, form)

    def explain(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Why:
        """What speaks for the likeliest class; of two classes, for the finding, whichever is likelier."""
        from fedrounds_common.explaining import attribution

        first = _scored(form).start or 0
        likeliest = int(self.predict(network, case, form, training, evaluation).outputs[first:].argmax()) + first
        maps = {
            name: partial(method, network, case.image, likeliest)
            for name, method in attribution.methods(network).items()
        }
        return Why(f"what speaks for {form.classes[likeliest]}", case, maps)

    def files(self, prediction: Prediction, case: Case, form: CaseForm) -> Mapping[str, Written]:
        """A line of `predictions.csv`: the probability of each class, and which are named."""
        named = [name for name, is_one in zip(form.classes, prediction.labels, strict=True) if is_one]
        chances = {f"p_{name}": float(p) for name, p in zip(form.classes, prediction.outputs, strict=True)}
        return {"predictions": Values({**chances, "named": "; ".join(named)})}

    def lacks(self, case: Case, form: CaseForm) -> str:
        return "a class" if case.target is None or case.target.classes is None else ""

    def guesses(self, case: Case, form: CaseForm) -> Mapping[str, Prediction]:
        """Always the same class; of a multi-label study always none, and always all."""
        if form.multi_label:
            rules = {"always none": np.zeros(len(form.classes)), "always all": np.ones(len(form.classes))}
        else:
            rules = dict(zip((f"always {name}" for name in form.classes), np.eye(len(form.classes)), strict=True))
        return {name: self.decide(outputs.astype(np.float32), case, form) for name, outputs in rules.items()}

    def gather(self, purpose: str, network: nn.Module, cases: Cases, form: CaseForm, training: Training) -> Tally:
        """ "classes": cases of each class; "moments": sums of features; "temperature": losses at each temperature."""
        from fedrounds_common import heads

        truth = np.array([_truth(case) for case in cases], np.float64).reshape(len(cases), len(form.classes))
        if purpose == "classes":
            return {"cases": np.array([len(cases)], np.float64), "positives": truth.sum(axis=0)}
        if purpose == "moments" and self.head != "network":
            features = np.zeros((len(cases), heads.width_of(network)))
            for row, case in zip(features, cases, strict=True):
                parts = drawing.windows_of(case.image, form.dims, training.patch)
                row[:] = heads.judged(network, parts, training.amp, "features").mean(axis=0)
            return discriminant.sums(self.head, features, truth)
        if purpose == "temperature":
            logits = np.zeros_like(truth)
            for row, case in zip(logits, cases, strict=True):
                row[:] = self._logits(network, case, form, training)
            losses = calibration.loss_at_temperatures(logits, truth, exclusive=not form.multi_label)
            return {"cases": np.array([len(cases)], np.float64), "losses": losses}
        raise NotImplementedError(purpose)

    def settle(self, purpose: str, total: Tally, arrays: Arrays, form: CaseForm) -> Arrays:
        from fedrounds_common import heads

        if purpose == "classes":
            weights = class_weights(total["cases"][0], total["positives"], exclusive=not form.multi_label)
            found = {heads.CLASS_WEIGHTS: weights}
        elif purpose == "moments" and self.head != "network":
            equal = self.weights == "inverse"
            found = heads.tensors_of(discriminant.solve(self.head, total, self.shrinkage, equal_priors=equal))
        elif purpose == "temperature":
            found = {heads.TEMPERATURE: np.array([calibration.best_temperature(total["losses"], total["cases"][0])])}
        else:
            raise NotImplementedError(purpose)
        return {name: found[name].astype(array.dtype) if name in found else array for name, array in arrays.items()}


def class_weights(cases: float, positives: F64, *, exclusive: bool) -> F64:
    """(2, K): what a class counts where a case is not of it, and where it is, so that all classes count alike.

    Their mean over cases is 1. A class without a case counts 1: there is nothing that it could be multiplied with.
    """
    shares = len(positives) if exclusive else 2
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.stack([cases / (shares * (cases - positives)), cases / (shares * positives)])
    if exclusive:
        weights[0] = 1
    return np.where(np.isfinite(weights), weights, 1.0)


def _truth(case: Case) -> F64:
    if case.target is None or case.target.classes is None:
        raise CaseError("FR-D40", "the case has no reference", wanted="its classes", case=case.ref.name)
    return case.target.classes.astype(np.float64)


def _temperature(network: nn.Module) -> float:
    from fedrounds_common import heads

    buffer = getattr(network, heads.TEMPERATURE, None)
    return 1.0 if buffer is None else float(buffer[0])


def _probabilities(logits: F64, form: CaseForm) -> F32:
    """(K,) of (K,)."""
    if form.multi_label:
        p = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    else:
        p = np.exp(logits - logits.max())
        p /= p.sum()
    return np.asarray(p, np.float32)


def _exclusive(form: CaseForm) -> bool:
    """Whether the table is one of classes that exclude each other. Of two, the second alone is scored: the finding."""
    return not form.multi_label and len(form.classes) > 2


def _scored(form: CaseForm) -> slice:
    return slice(1, 2) if not form.multi_label and len(form.classes) == 2 else slice(None)


def _names(form: CaseForm) -> tuple[str, ...]:
    return form.classes[_scored(form)]
