"""Segmentation, 2D and 3D: of labels that exclude each other, or of regions that overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from fedrounds_common import sampling
from fedrounds_common.augment import augment
from fedrounds_common.case import F32, F64, U8, Case, Cases
from fedrounds_common.errors import CaseError, DataError, UsageError
from fedrounds_common.metrics import overlap, rules, summary
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.task import Batch, CaseScore, Example, Measure, Metric, Picture, Prediction, Tally, Task, Why
from fedrounds_common.written import LabelImage, ScalarImages, Written

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrounds_common.network import Network

SURE = 1e-6  # probabilities are kept this far from 0 and 1 before their logarithm
LIKELY = 0.499  # less is less probable than not, however it is rounded


@final
@dataclass(frozen=True)
class Segmentation(Task):
    """With regions: one sigmoid each, for they overlap. Without: one softmax over background and labels.

    `criterion`: the loss; of a softmax, Dice looks at the labels and not at the background.
    `smooth`: voxels added to Dice's fraction, so that a patch without a region has a slope too.
    `focal`: the exponent of "dice+focal".
    """

    measures: ClassVar[Mapping[str, Measure]] = {
        "dice": Measure("Dice", brief=True),
        "iou": Measure("IoU"),
        "hd95": Measure("HD95 (mm)", lower_is_better=True, digits=1, brief=True),
        "sensitivity": Measure("Sensitivity"),
        "specificity": Measure("Specificity"),
    }

    criterion: Literal["dice", "dice+ce", "dice+focal", "mirrored-dice"] = "dice+ce"
    smooth: Annotated[float, Field(gt=0)] = 1.0
    focal: Annotated[float, Field(ge=0)] = 2.0

    def network(self, network: Network, form: CaseForm) -> nn.Module:
        """As many outputs as regions, or as labels and background.

        Raises:
            UsageError: a region or label is called "mean", the name of the row of means.
        """
        from fedrounds_common import windows

        if summary.MEAN in form.scored:
            raise UsageError("FR-U41", f'a region or label is called "{summary.MEAN}"', do="give it another name")
        module = network.build(form.dims, len(form.channels), len(form.scored) + _exclusive(form))
        return windows.note(module, windows.Facts(network.divisor(form.dims), _exclusive(form)))

    def draw(self, cases: Cases, form: CaseForm, training: Training, rng: np.random.Generator) -> Example:
        """A patch of a random case; with probability `training.foreground` around a voxel of a random region.

        A stack of slices gives a patch of one slice. Without `training.patch`: the whole grid.

        Raises:
            UsageError: no case; the patch has another number of axes; no patch, and the grids differ.
            CaseError: the case has no reference.
        """
        if not len(cases):
            raise UsageError("FR-U42", "no case to draw a training example from")
        case = cases[int(rng.integers(len(cases)))]
        _require_reference(case)
        index, grid = sampling.index_of(case), case.grid
        voxel = None
        if rng.random() < training.foreground:
            voxel = sampling.foreground_voxel(index, tuple(form.scored.values()), case.grid, rng)
        box, slice_ = index.box, None
        if _stacked(case, form):
            slice_ = voxel[0] if voxel else int(rng.integers(box[0].start, box[0].stop))
            grid, box, voxel = grid[1:], box[1:], voxel[1:] if voxel else None
        patch = _patch(training, cases, case, form)
        start = sampling.patch_start(voxel, box, patch, grid, rng)
        if slice_ is None:
            image, labels = sampling.patch_of(case, start, patch), sampling.labels_of(case, start, patch)
        else:
            place, size = (slice_, *start), (1, *patch)
            image, labels = sampling.patch_of(case, place, size)[:, 0], sampling.labels_of(case, place, size)[0]
        image, labels = augment(image, labels, training.augment, rng)
        return Example(image, one_hot(labels, form))

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        from fedrounds_common import losses, windows

        return losses.loss(
            self.criterion,
            windows.padded(network, batch.image),
            batch.target,
            exclusive=windows.facts_of(network).exclusive,
            smooth=self.smooth,
            gamma=self.focal,
        )

    def predict(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Prediction:
        """Slide windows over the content box, or the grid; outside of it is background.

        Without a patch: the whole grid at once, as in training.
        Probabilities: one entry a region; or background and then one a label.

        Raises:
            UsageError: FR-U44 `evaluation.window` has another number of axes than the study.
        """
        import torch

        from fedrounds_common import windows

        first = len(case.grid) - form.dims  # 1 for a stack: its slices are not windowed
        box, window = _box_and_window(case, form, training, evaluation)
        inside_box = sampling.patch_of(case, [span.start for span in box], [span.stop - span.start for span in box])
        image = torch.from_numpy(np.array(inside_box, order="C"))
        image = image.movedim(1, 0) if first else image[None]  # slices are a batch, a volume one image
        with windows.judging(network, training.amp) as function:
            inside = windows.slide(function, image, window, evaluation.overlap, windows.at_once(window)).cpu()
        inside = inside.movedim(0, 1) if first else inside[0]
        probabilities = np.zeros((len(inside), *case.grid), np.float32)
        if _exclusive(form):
            probabilities[0] = 1
        probabilities[(slice(None), *box)] = inside.numpy()
        labels = np.zeros(case.grid, np.uint8)
        labels[box] = self.decide(inside.numpy(), case, form).labels  # outside it is decided already
        return Prediction(probabilities, labels)

    def decide(self, outputs: F32, case: Case, form: CaseForm) -> Prediction:
        """Label values from probabilities (K, *grid), such as the mean of several networks'.

        A softmax's largest. Of regions: the label, or background, whose memberships are the most
        probable together, so that ET outside WT is settled by both; labels that no region tells
        apart become the first of them, and labels of no region are never predicted.
        """
        if _exclusive(form):
            values = np.array([0, *(value for (value,) in form.scored.values())], np.uint8)
            return Prediction(outputs, values[outputs.argmax(axis=0)])
        # evidence above that of background takes a region that is more probable than not: the others are few, and slow
        likely = (outputs > LIKELY).any(axis=0)
        p = np.clip(outputs[:, likely], SURE, 1 - SURE)
        odds = np.log(p) - np.log1p(-p)
        # log P(label) = Σ over its regions of log p/(1−p), plus a sum that all labels share
        best, found = np.zeros(p.shape[1:], np.float32), np.zeros(p.shape[1:], np.uint8)
        for value, members in _signatures(form):
            evidence = odds[members].sum(axis=0)
            better = evidence > best
            best[better], found[better] = evidence[better], value
        labels = np.zeros(outputs.shape[1:], np.uint8)
        labels[likely] = found
        return Prediction(outputs, labels)

    def score(self, prediction: Prediction, case: Case, form: CaseForm, evaluation: Evaluation) -> CaseScore:
        """Compare the predicted labels with the reference, region by region; "mean" is the regions' mean.

        Raises:
            CaseError: the case has no reference.
        """
        reference = _reference(case)
        values: dict[str, dict[str, float]] = {}
        state: dict[str, str] = {}
        for region, members in form.scored.items():
            values[region], state[region] = rules.judge(
                overlap.mask_of(prediction.labels, members),
                overlap.mask_of(reference, members),
                case.spacing_mm,
                stacked=_stacked(case, form),
                empty=evaluation.empty,
            )
        values[summary.MEAN] = rules.mean_over_regions(values)
        return CaseScore(case.ref.name, case.ref.patient, values, state)

    def tally(self, scores: Sequence[CaseScore], form: CaseForm, evaluation: Evaluation, seed: int) -> Tally:
        return summary.tally(scores, tuple(form.scored), evaluation.resamples, seed)

    def table(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> tuple[Metric, ...]:
        return summary.table(tally, tuple(form.scored))

    def replicates(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> Mapping[str, F64]:
        return summary.replicates(tally, tuple(form.scored), rules.METRICS.index(evaluation.primary))

    def explain(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Why:
        """Where the mask is undecided, in bits; and, of a network with dropout, where its passes differ."""
        from fedrounds_common.explaining import uncertainty
        from fedrounds_common.rng import derive, seeded

        def outputs() -> F32:
            return self.predict(network, case, form, training, evaluation).outputs

        def undecided() -> F32:
            return uncertainty.entropy(outputs(), exclusive=_exclusive(form))

        def passes_differ() -> F32:
            with uncertainty.dropping(network), seeded(derive(0, "dropout", case.ref.name)):
                return uncertainty.disagreement([outputs() for _ in range(uncertainty.PASSES)])

        more = {"passes differ": passes_differ} if uncertainty.dropouts(network) else {}
        return Why("where the mask is undecided", case, {"undecided": undecided, **more})

    def files(self, prediction: Prediction, case: Case, form: CaseForm) -> Mapping[str, Written]:
        """The mask, and the probabilities of each region or label: a softmax's background, the rest, is left out."""
        names = list(form.scored)
        if len(prediction.outputs) not in (len(names), len(names) + 1):
            raise DataError("FR-D71", f"{len(prediction.outputs)} outputs", wanted=f"one each of {', '.join(names)}")
        maps = dict(zip(names, prediction.outputs[-len(names) :], strict=True))
        return {"masks": LabelImage(prediction.labels), "probabilities": ScalarImages(maps)}

    def lacks(self, case: Case, form: CaseForm) -> str:
        return "" if case.labelled else "a mask"

    def guessed(self, cases: Cases, form: CaseForm, evaluation: Evaluation) -> Mapping[str, Sequence[CaseScore]]:
        """Thresholds, clusters, the mirror image and the other cases' mean, on each channel; by Dice alone."""
        from fedrounds_common import untrained

        return untrained.as_scores(untrained.judge(cases, form), form, evaluation.empty)

    def best_guess(
        self, guessed: Mapping[str, Sequence[CaseScore]], form: CaseForm, evaluation: Evaluation
    ) -> tuple[Sequence[CaseScore], Mapping[str, str]]:
        """Each region by its own best rule."""
        from fedrounds_common import untrained

        return untrained.best_of(guessed, tuple(form.scored))

    def picture(self, case: Case, prediction: Prediction, form: CaseForm) -> Picture:
        from fedrounds_common import pictures

        return pictures.compare(case, prediction.labels, form)


def one_hot(labels: U8, form: CaseForm) -> F32:
    """labels (*grid) → (K, *grid) of 0 and 1: a region each, or background and then a label each."""
    groups = list(form.scored.values())
    table = np.zeros((len(groups), 256), np.float32)
    for row, members in zip(table, groups, strict=True):
        row[list(members)] = 1
    if _exclusive(form):
        table = np.concatenate([1 - table.sum(axis=0, keepdims=True), table])
    return np.stack([np.take(row, labels) for row in table])


def _exclusive(form: CaseForm) -> bool:
    return not form.regions


def _stacked(case: Case, form: CaseForm) -> bool:
    return form.dims == 2 and len(case.grid) == 3


def _require_reference(case: Case) -> None:
    if not case.labelled:
        raise CaseError("FR-D40", "the case has no reference", wanted="a label map", case=case.ref.name)


def _reference(case: Case) -> U8:
    _require_reference(case)
    labels = case.labels
    assert labels is not None
    return labels


def _patch(training: Training, cases: Cases, case: Case, form: CaseForm) -> tuple[int, ...]:
    grid = case.grid[-form.dims :]
    if training.patch is None:
        if cases[0].grid[-form.dims :] != grid:
            raise UsageError(
                "FR-U43",
                f"cases of different grids ({cases[0].grid} and {case.grid}) and no training.patch",
                wanted="one size for all examples",
                do=f"set training.patch, {form.dims} numbers",
            )
        return grid
    if len(training.patch) != form.dims:
        raise UsageError(
            "FR-U44", f"training.patch = {list(training.patch)}", wanted=f"{form.dims} numbers, one a dimension"
        )
    return training.patch


def _box_and_window(
    case: Case, form: CaseForm, training: Training, evaluation: Evaluation
) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    """Where a case is predicted, at least one window large as far as its grid goes, and what is predicted at once."""
    first = len(case.grid) - form.dims
    found = (
        sampling.index_of(case).box
        if evaluation.within == "content"
        else tuple(map(slice, (0,) * len(case.grid), case.grid))
    )
    content = tuple(span.stop - span.start for span in found[first:])
    if evaluation.window == "content":
        window = content
    elif evaluation.window == "patch":
        window = training.patch or case.grid[first:]
    else:
        window = evaluation.window
    if len(window) != form.dims:
        raise UsageError(
            "FR-U44", f"evaluation.window = {list(window)}", wanted=f"{form.dims} numbers, one a dimension"
        )
    return (*found[:first], *sampling.grown(found[first:], window, case.grid[first:])), window


def _signatures(form: CaseForm) -> list[tuple[int, list[int]]]:
    """Each label value with the indices of the regions it belongs to; the first of those that look alike."""
    found: dict[tuple[int, ...], int] = {}
    for value in form.labels.values():
        members = tuple(index for index, values in enumerate(form.scored.values()) if value in values)
        if members:
            found.setdefault(members, value)
    return [(value, list(members)) for members, value in found.items()]
