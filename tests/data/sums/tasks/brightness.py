"""Segmentation whose network also carries how bright the voxels are at all sites together."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
import torch

from fedrounds_common.task import Task
from fedrounds_common.tasks.segmentation import Segmentation

KEPT = ("brightness", "spread")


@final
@dataclass(frozen=True)
class Brightness(Task):
    """The mean voxel before round 1; after the last round the standard deviation about that mean.

    `goes_wrong`: "shape" of the sums by the cases, "nan" in them, "settle" to another model.
    `validates`: what is summed over the cases that sites validate on. `looks_at`: so many training cases beside the
    judged ones.
    """

    measures: ClassVar = Segmentation.measures
    before: ClassVar[tuple[str, ...]] = ("brightness",)
    after: ClassVar[tuple[str, ...]] = ("spread",)

    goes_wrong: Literal["", "shape", "nan", "settle"] = ""
    validates: tuple[str, ...] = ()
    looks_at: int = 0
    inner: ClassVar[Segmentation] = Segmentation()

    @property
    def of_validation(self):
        return self.validates

    def network(self, network, form):
        module = self.inner.network(network, form)
        for name in KEPT:
            module.register_buffer(name, torch.zeros((), dtype=torch.float64))
        return module

    def beside(self, training, form, seed):
        return training[: self.looks_at]

    def draw(self, cases, form, training, rng):
        return self.inner.draw(cases, form, training, rng)

    def loss(self, network, batch, turn, rng):
        return self.inner.loss(network, batch, turn, rng)

    def predict(self, network, case, form, training, evaluation):
        return self.inner.predict(network, case, form, training, evaluation)

    def decide(self, outputs, case, form):
        return self.inner.decide(outputs, case, form)

    def score(self, prediction, case, form, evaluation):
        return self.inner.score(prediction, case, form, evaluation)

    def tally(self, scores, form, evaluation, seed):
        return self.inner.tally(scores, form, evaluation, seed)

    def table(self, tally, form, evaluation):
        return self.inner.table(tally, form, evaluation)

    def picture(self, case, prediction, form):
        return self.inner.picture(case, prediction, form)

    def guesses(self, case, form):
        return self.inner.guesses(case, form)

    def gather(self, purpose, network, cases, form, training):
        about = float(network.brightness) if purpose == "spread" else 0.0
        power = 2 if purpose == "spread" else 1
        total, voxels = np.zeros(1), np.zeros(1)
        for case in cases:
            total += ((case.image.astype(np.float64) - about) ** power).sum()
            voxels += case.image.size
        if cases and self.goes_wrong == "nan":
            total[:] = np.nan
        if self.goes_wrong == "shape":
            total = np.full(len(cases) + 1, total[0])
        return {"sum": total, "voxels": voxels}

    def settle(self, purpose, total, arrays, form):
        mean = total["sum"] / total["voxels"]
        value = (np.sqrt(mean) if purpose == "spread" else mean).reshape(())
        return {**arrays, ("other" if self.goes_wrong == "settle" else purpose): value}
