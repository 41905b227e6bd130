"""Find one place in a volume: the middle of whatever is labelled. A whole task in one file, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from fedrounds_common.case import F32, F64, U8, Case, Cases
from fedrounds_common.errors import CaseError
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.task import Batch, CaseScore, Example, Measure, Metric, Picture, Prediction, Tally, Task
from fedrounds_common.written import Values, Written

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrounds_common.network import Network

NOTHING = np.zeros(0, np.uint8)
WIDE = 2.0  # voxels: how far around the place the network is asked to light up


@final
@dataclass(frozen=True)
class Landmark(Task):
    """The network draws a map that is brightest at the place. `sharp`: how much the brightest voxels count."""

    measures: ClassVar[Mapping[str, Measure]] = {
        "distance_mm": Measure("Distance (mm)", lower_is_better=True, digits=1),
        "within": Measure("Within 4 mm", digits=3),
    }

    sharp: float = 8.0

    def faults(self, form: CaseForm, training: Training, evaluation: Evaluation) -> Sequence[tuple[str, str]]:
        return () if form.dims == 3 else [("cases.dims", "2: the place is looked for in volumes")]

    def network(self, network: Network, form: CaseForm) -> nn.Module:
        return network.build(form.dims, len(form.channels), 1)

    def draw(self, cases: Cases, form: CaseForm, training: Training, rng: np.random.Generator) -> Example:
        case = cases[int(rng.integers(len(cases)))]
        axes = np.indices(case.grid) - _place(case).reshape(3, 1, 1, 1)
        return Example(case.image, np.exp(-(axes**2).sum(axis=0) / (2 * WIDE**2))[None].astype(np.float32))

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        distance: Tensor = ((network(batch.image).sigmoid() - batch.target) ** 2).flatten(1).mean(1)
        return distance

    def predict(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Prediction:
        import torch

        with torch.no_grad():
            outputs = network(torch.tensor(case.image[None])).sigmoid()[0].numpy()
        return self.decide(outputs, case, form)

    def decide(self, outputs: F32, case: Case, form: CaseForm) -> Prediction:
        return Prediction(outputs, NOTHING)

    def score(self, prediction: Prediction, case: Case, form: CaseForm, evaluation: Evaluation) -> CaseScore:
        found = self._found(prediction.outputs)
        distance = float(np.linalg.norm((found - _place(case)) * np.array(case.spacing_mm)))
        values = {"distance_mm": distance, "within": float(distance <= 4)}
        return CaseScore(case.ref.name, case.ref.patient, {"place": values}, {"place": "scored"})

    def tally(self, scores: Sequence[CaseScore], form: CaseForm, evaluation: Evaluation, seed: int) -> Tally:
        values = [[score.values["place"][name] for name in self.measures] for score in scores]
        sums = np.array(values, np.float64).reshape(-1, 2).sum(axis=0)
        return {"cases": np.array([len(scores)], np.float64), "sums": sums}

    def table(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> tuple[Metric, ...]:
        n = round(tally["cases"][0])
        nan = float("nan")
        return tuple(
            Metric("place", name, float(total) / n if n else nan, nan, nan, n, 0, 0, 0)
            for name, total in zip(self.measures, tally["sums"], strict=True)
        )

    def picture(self, case: Case, prediction: Prediction, form: CaseForm) -> Picture:
        middle = round(float(_place(case)[2]))
        panels = {
            "image": _grey(case.image[0, :, :, middle]),
            "prediction": _grey(prediction.outputs[0, :, :, middle]),
        }
        return Picture(f"{case.ref.name}, plane {middle + 1} of {case.grid[2]}", panels)

    def files(self, prediction: Prediction, case: Case, form: CaseForm) -> Mapping[str, Written]:
        place = self._found(prediction.outputs) @ case.affine[:3, :3].T + case.affine[:3, 3]
        return {"places": Values(dict(zip(("x_mm", "y_mm", "z_mm"), map(float, place), strict=True)))}

    def lacks(self, case: Case, form: CaseForm) -> str:
        return "a label" if case.labels is None else ""

    def guesses(self, case: Case, form: CaseForm) -> Mapping[str, Prediction]:
        middle = np.zeros((1, *case.grid), np.float32)
        middle[(0, *(length // 2 for length in case.grid))] = 1
        bright = case.image[:1] - case.image[:1].min()
        return {"middle of the image": self.decide(middle, case, form), "brightest": self.decide(bright, case, form)}

    def _found(self, outputs: F32) -> F64:
        """The mean place, each voxel weighed by a power of its brightness: (3,), in voxels."""
        weights = outputs[0].astype(np.float64) ** self.sharp
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(weights.shape, 1 / weights.size)
        found: F64 = (np.indices(weights.shape) * weights).reshape(3, -1).sum(axis=1)
        return found


def _place(case: Case) -> F64:
    """(3,) in voxels."""
    if case.labels is None or not case.labels.any():
        raise CaseError("FR-D04", "nothing is labelled", case=case.ref.name, wanted="a label whose middle is the place")
    place: F64 = np.argwhere(case.labels).mean(axis=0)
    return place


def _grey(plane: F32) -> U8:
    low, high = float(plane.min()), float(plane.max())
    grey = ((plane - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
