"""Registration, 2D and 3D: by what displacement one image comes to lie on another, learned without being told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from fedrounds_common import sampling
from fedrounds_common.augment import SPATIAL, augment
from fedrounds_common.case import F32, F64, U8, Case, Cases
from fedrounds_common.errors import CaseError, UsageError
from fedrounds_common.metrics import overlap, rules, summary
from fedrounds_common.network import Makes
from fedrounds_common.registration import pairs, world
from fedrounds_common.study.tables import CaseForm, Count, Evaluation, Training
from fedrounds_common.task import Batch, CaseScore, Example, Measure, Metric, Picture, Prediction, Tally, Task, Why
from fedrounds_common.written import LabelImage, ScalarImages, VectorImage, Written

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrounds_common.network import Network

FIELD, LANDMARKS = "field", "landmarks"  # rows beside the labels
OF_LABELS, OF_FIELD, OF_LANDMARKS = ("dice", "hd95"), ("epe", "folded", "sdlogj", "inverse"), ("tre",)


@final
@dataclass(frozen=True)
class Registration(Task):
    """The map is the flow of a velocity that the network gives, so it does not fold and has an inverse.

    `pairs`: "within" takes any two cases of one site, never of two sites; "channels" takes each case for a pair, the
    first half of its channels fixed and the other half moving. `most_pairs`: judged at a site, twice as many as it
    has cases if there are so many. `similarity`: what the moved image is held against the fixed one by ("lncc",
    "mse", or between two kinds of image "mi", "mind"), `window` voxels a side (lncc), `bins` of the histogram (mi).
    `smooth` weighs the velocity's roughness, "gradient" or "bending" (which lets affine maps go free); `labels`
    weighs 1 − Dice of the labels brought over, where there are any. `symmetric`: of a pair turned round the inverse.
    `squarings`: 2^so many steps make the flow.
    """

    takes: ClassVar[tuple[Makes, ...]] = ("fields",)
    measures: ClassVar[Mapping[str, Measure]] = {
        "dice": Measure("Dice", brief=True),
        "hd95": Measure("HD95 (mm)", lower_is_better=True, digits=1),
        "tre": Measure("TRE (mm)", lower_is_better=True, brief=True),
        "epe": Measure("End-point error (mm)", lower_is_better=True, brief=True),
        "folded": Measure("Folded voxels (%)", lower_is_better=True, digits=3, brief=True),
        "sdlogj": Measure("SDlogJ", lower_is_better=True, digits=3),
        "inverse": Measure("Inverse consistency (mm)", lower_is_better=True, digits=3),
    }

    pairs: Literal["within", "channels"] = "within"
    most_pairs: Count = 24
    similarity: Literal["lncc", "mse", "mi", "mind"] = "lncc"
    window: Annotated[int, Field(ge=3, le=31)] = 7
    bins: Annotated[int, Field(ge=8, le=256)] = 32
    smooth: Annotated[float, Field(ge=0)] = 1.0
    smoothness: Literal["gradient", "bending"] = "gradient"
    labels: Annotated[float, Field(ge=0)] = 0.0
    symmetric: bool = True
    squarings: Annotated[int, Field(ge=1, le=10)] = 6

    def faults(self, form: CaseForm, training: Training, evaluation: Evaluation) -> Sequence[tuple[str, str]]:
        found = []
        if self.pairs == "channels" and len(form.channels) % 2:
            found.append(
                ("cases.channels", f"{len(form.channels)}: an even number is wanted, fixed and then as many moving")
            )
        if self.window % 2 == 0:
            found.append(("task.window", f"{self.window}: an odd number is wanted, so that it has a middle"))
        key = "regions" if form.regions else "labels"
        found += [
            (f"cases.{key}.{name}", "another name is wanted: a row of the results is called so")
            for name in (FIELD, LANDMARKS)
            if name in form.scored
        ]
        return found

    @property
    def of_one_patient(self) -> bool:
        return self.pairs == "channels"

    def network(self, network: Network, form: CaseForm) -> nn.Module:
        from fedrounds_common import windows

        inputs = len(form.channels) * (2 if self.pairs == "within" else 1)
        return windows.note(
            network.build(form.dims, inputs, form.dims), windows.Facts(network.divisor(form.dims), exclusive=False)
        )

    def draw(self, cases: Cases, form: CaseForm, training: Training, rng: np.random.Generator) -> Example:
        """A pair, cut or filled up to `training.patch`; without one: the whole grid, which must then be one size.

        Its target: a map of 0 and 1 for each label of the fixed image, and again of the moving one; none, (0,), where
        the task does not learn from labels.

        Raises:
            UsageError: FR-U90 fewer than two cases to make a pair of; FR-U43, FR-U44 as of other tasks' patches.
            CaseError: FR-D90 not a pair; FR-D40 no labels, and the task learns from them.
        """
        case = _whole(self._drawn(cases, rng), form)
        patch = _patch(training, cases, case, form)
        start = sampling.patch_start(None, sampling.content_box(case.image), patch, case.grid, rng)
        image = pairs.cut(case.image, start, patch, smooth=True)
        masks = pairs.cut(_masks(case, form), start, patch, smooth=False) if self.labels else image[:0]
        nothing, spatial = np.zeros(patch, np.uint8), SPATIAL & {*training.augment}
        both, _ = augment(np.concatenate([image, masks]), nothing, spatial, rng, masks=len(masks))
        image, masks = both[: len(image)], both[len(image) :]
        image, _ = augment(image, nothing, {*training.augment} - SPATIAL, rng)
        return Example(image, masks if self.labels else np.zeros(0, np.float32))

    def _drawn(self, cases: Cases, rng: np.random.Generator) -> Case:
        if self.pairs == "channels":
            if not len(cases):
                raise UsageError("FR-U42", "no case to draw a training example from")
            return cases[int(rng.integers(len(cases)))]
        if len(cases) < 2:
            raise UsageError(
                "FR-U90", f"{len(cases)} case to make a pair of", wanted="at least two at each site that trains",
                do="leave the site out, or give it more cases",
            )  # fmt: skip
        fixed, moving = rng.choice(len(cases), 2, replace=False)
        return pairs.pair(cases[int(fixed)], cases[int(moving)])

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        """How unlike the fixed image and the moved one are, the same the other way round, and what else is weighed."""
        from fedrounds_common import losses
        from fedrounds_common.registration import fields, similarity
        from fedrounds_common.registration import motion as moves

        moved = moves.motion(network, batch.image, self.squarings, symmetric=self.symmetric)
        fixed, moving = moves.halves(batch.image.float())
        unlike = [
            similarity.unlikeness(self.similarity, still, fields.warp(other, way), self.window, self.bins, rng)
            for still, other, way in ((fixed, moving, moved.there), (moving, fixed, moved.back))
        ]
        value = (unlike[0] + unlike[1]) / 2 + self.smooth * fields.roughness(moved.velocity, self.smoothness)
        if not self.labels:
            return value
        here, there = moves.halves(batch.target)
        alike = losses.soft_dice(fields.warp(there, moved.there, outside="zeros"), here, smooth=1.0)
        return value + self.labels * (1 - alike.mean(1))

    def judged(self, cases: Cases, form: CaseForm, seed: int) -> Cases:
        if self.pairs == "channels":
            return cases
        return pairs.Pairs(cases, pairs.chosen(len(cases), self.most_pairs, seed))

    def predict(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Prediction:
        """The whole pair at once. Outputs (2 A, *grid), in mm along the world's axes: the displacement from the fixed
        image to the moving one, and what the network says of the pair turned round.

        Raises:
            CaseError: FR-D90 not a pair.
        """
        import torch

        from fedrounds_common.registration import motion as moves

        image = torch.from_numpy(np.array(_whole(case, form).image, order="C"))[None]
        with moves.judging(network, training.amp) as device:
            ways = moves.both_ways(network, image.to(device), self.squarings, symmetric=self.symmetric)
        there, back = (world.to_mm(way[0].cpu().numpy(), case.affine) for way in ways)
        return self.decide(np.concatenate([there, back]), case, form)

    def decide(self, outputs: F32, case: Case, form: CaseForm) -> Prediction:
        """The moving image and its labels, brought to where the displacement (the outputs' first half) says."""
        from fedrounds_common.registration import scoring

        there = world.to_voxels(outputs[: len(case.grid)], case.affine)
        moving = None if case.target is None else case.target.moving
        labels = np.zeros(0, np.uint8) if moving is None else scoring.moved_labels(moving, there)
        return Prediction(outputs, labels, scoring.moved_image(case.image[len(case.image) // 2 :], there))

    def score(self, prediction: Prediction, case: Case, form: CaseForm, evaluation: Evaluation) -> CaseScore:
        """Labels where both images have them, landmarks and the true field where they are known; nan where not."""
        from fedrounds_common.registration import scoring

        there, back = np.split(prediction.outputs, 2)
        values, state = scoring.by_labels(prediction.labels, case, form, evaluation.empty)
        values[FIELD] = {"epe": scoring.end_point_error_mm(there, case), **scoring.by_itself(there, back, case)}
        values[LANDMARKS] = {"tre": scoring.landmark_error_mm(there, case)}
        whole = scoring.filled(values, tuple(self.measures))
        whole[summary.MEAN] = rules.mean_over_regions(whole, tuple(self.measures))
        return CaseScore(case.ref.name, case.ref.patient, whole, {**state, FIELD: "scored", LANDMARKS: "scored"})

    def tally(self, scores: Sequence[CaseScore], form: CaseForm, evaluation: Evaluation, seed: int) -> Tally:
        return summary.tally(scores, _rows(form), evaluation.resamples, seed, tuple(self.measures))

    def table(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> tuple[Metric, ...]:
        """A row for what can be said of a label, of the landmarks and of the field; "mean" has all that any pair has."""
        found = summary.table(tally, _rows(form), tuple(self.measures))
        return tuple(row for row in found if row.metric in _speaks(row.region, self))

    def replicates(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> Mapping[str, F64]:
        found = summary.replicates(tally, _rows(form), tuple(self.measures).index(evaluation.primary))
        return {region: values for region, values in found.items() if evaluation.primary in _speaks(region, self)}

    def picture(self, case: Case, prediction: Prediction, form: CaseForm) -> Picture:
        from fedrounds_common.registration import drawing

        return drawing.compare(case, prediction, form)

    def explain(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Why:
        """Where the displacement is unsure, in mm: how far the answers to known shifts are off; 0 in the background."""
        from fedrounds_common.explaining import shifting
        from fedrounds_common.pictures import BACKGROUND

        def displacement(image: F32) -> F32:
            made = self.predict(network, case.with_image(image, case.target), form, training, evaluation)
            return made.outputs[: len(case.grid)]

        whole = _whole(case, form)
        fixed = case.with_image(whole.image[: len(whole.image) // 2], case.target)
        shown = pairs.shown(fixed.image)
        if 1 - shown.mean() < BACKGROUND:
            shown[:] = True  # the corner's value is some tissue's too

        def unsure() -> F32:
            return np.where(shown, shifting.disagreement_mm(displacement, whole.image, case.affine), np.float32(0))

        return Why("where the displacement is unsure", fixed, {"known shifts": unsure})

    def files(self, prediction: Prediction, case: Case, form: CaseForm) -> Mapping[str, Written]:
        """The moving image brought to the fixed one, its labels where it has any; the displacement, and its inverse."""
        from fedrounds_common.registration import scoring

        there = prediction.outputs[: len(case.grid)]
        back = world.to_mm(scoring.inverted(world.to_voxels(there, case.affine)), case.affine)
        image = case.image[:0] if prediction.image is None else prediction.image
        names = form.channels if self.pairs == "within" else form.channels[len(form.channels) // 2 :]
        made: dict[str, Written] = {"warped": ScalarImages(dict(zip(names, image, strict=True)), "intensities")}
        if prediction.labels.size:
            made["masks"] = LabelImage(prediction.labels)
        return {**made, "fields": VectorImage(there), "inverse": VectorImage(back)}

    def guesses(self, case: Case, form: CaseForm) -> Mapping[str, Prediction]:
        """Nothing moves; or what lies off the background is laid with its centre onto the other's."""
        still = np.zeros((2 * len(case.grid), *case.grid), np.float32)
        shift = world.to_mm(_between_centres(case), case.affine)
        return {
            "identity": self.decide(still, case, form),
            "centres": self.decide(np.concatenate([shift, -shift]), case, form),
        }


def _rows(form: CaseForm) -> tuple[str, ...]:
    return (*form.scored, FIELD, LANDMARKS)


def _speaks(region: str, task: Registration) -> tuple[str, ...]:
    """The measures that can be said of this row."""
    return {FIELD: OF_FIELD, LANDMARKS: OF_LANDMARKS, summary.MEAN: tuple(task.measures)}.get(region, OF_LABELS)


def _whole(case: Case, form: CaseForm) -> Case:
    channels = len(case.image)
    if channels % 2 or len(case.grid) != form.dims:
        raise CaseError(
            "FR-D90",
            f"{channels} channels on a grid of {len(case.grid)} axes",
            wanted=f"a pair: as many moving channels as fixed ones, of {form.dims} axes",
            case=case.ref.name,
            do="name the channels of both in [cases] channels; slices of a stack are registered as a volume",
        )
    return case


def _masks(case: Case, form: CaseForm) -> F32:
    """(2 K, *grid): 1 where a region of the fixed image is, then of the moving one."""
    moving = None if case.target is None else case.target.moving
    if case.labels is None or moving is None:
        raise CaseError("FR-D40", "the pair has no labels", wanted="a label map of both images", case=case.ref.name)
    known: tuple[U8, U8] = (case.labels, moving)
    return np.stack(
        [overlap.mask_of(labels, members).astype(np.float32) for labels in known for members in form.scored.values()]
    )


def _between_centres(case: Case) -> F32:
    """(A, *grid): the constant vector, in voxels, from the centre of the fixed image's content to the moving one's."""
    corner = case.image[(slice(None), *(slice(0, 1),) * len(case.grid))]
    weights = np.abs(case.image - corner).reshape(2, -1, *case.grid).sum(axis=1)
    axes = np.indices(case.grid, np.float32)
    middle = np.array(
        [(axes * weight).reshape(len(case.grid), -1).sum(1) / max(weight.sum(), 1e-6) for weight in weights]
    )
    shift = (middle[1] - middle[0]).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(shift.reshape(-1, *(1,) * len(case.grid)), axes.shape))


def _patch(training: Training, cases: Cases, case: Case, form: CaseForm) -> tuple[int, ...]:
    if training.patch is None:
        if cases[0].grid != case.grid:
            raise UsageError(
                "FR-U43",
                f"cases of different grids ({cases[0].grid} and {case.grid}) and no training.patch",
                wanted="one size for all examples",
                do=f"set training.patch, {form.dims} numbers",
            )
        return case.grid
    if len(training.patch) != form.dims:
        raise UsageError(
            "FR-U44", f"training.patch = {list(training.patch)}", wanted=f"{form.dims} numbers, one a dimension"
        )
    return training.patch
