"""The least that can be learned: each step adds the learning rate to every weight. What is left is the framework."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedrounds_common.task import CaseScore, Example, Measure, Metric, Picture, Prediction, Task


@final
@dataclass(frozen=True)
class PlusOne(Task):
    """Its loss is minus the sum of the weights, so that plain SGD adds its rate to each."""

    measures: ClassVar = {"mean": Measure("Mean")}

    def network(self, network, form):
        return network.build(form.dims, len(form.channels), 1)

    def draw(self, cases, form, training, rng):
        return Example(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))

    def loss(self, network, batch, turn, rng):
        return -sum(weights.sum() for weights in network.parameters()).expand(len(batch.image))

    def predict(self, network, case, form, training, evaluation):
        return self.decide(
            np.array([weights.mean().item() for weights in network.parameters()], np.float32), case, form
        )

    def decide(self, outputs, case, form):
        return Prediction(outputs, np.zeros(0, np.uint8))

    def score(self, prediction, case, form, evaluation):
        return CaseScore(
            case.ref.name, case.ref.patient, {"mean": {"mean": float(prediction.outputs.mean())}}, {"mean": "scored"}
        )

    def tally(self, scores, form, evaluation, seed):
        values = [score.values["mean"]["mean"] for score in scores]
        return {"mean": np.array([sum(values), len(values)], np.float64)}

    def table(self, tally, form, evaluation):
        total, count = tally["mean"]
        nan = float("nan")
        return (Metric("mean", "mean", total / count if count else nan, nan, nan, int(count), 0, 0, 0),)

    def picture(self, case, prediction, form):
        return Picture(case.ref.name, {})
