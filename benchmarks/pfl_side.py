"""The side of pfl-research: the work of `workload.py` under its federated averaging, in one process; one line of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import workload
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from workload import Work


class Site(Dataset):
    """The batches of one site in one round: the same as everybody's, drawn when they are asked for."""

    def __init__(self, work: Work, site: int) -> None:
        super().__init__(raw_data=[], user_id=str(site))
        self.work, self.site, self.round = work, site, 0

    def __len__(self) -> int:
        return self.work.steps

    def iter(self, batch_size: int | None) -> Iterator[Any]:
        self.round += 1  # each site takes part in every round
        rng = np.random.default_rng([self.round, self.site, 1])
        for _ in range(self.work.steps):
            yield workload.draw(self.work, self.site, rng)


class Judge(TrainingProcessCallback):
    """Ends the training when the score is reached; and notes when each round ended."""

    def __init__(self, work: Work) -> None:
        self.work, self.dice, self.ends = work, 0.0, list[float]()

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.ends.append(time.perf_counter())
        if self.work.until:
            self.dice = workload.dice(self.work, model.pytorch_model)
        return bool(self.work.until) and self.dice >= self.work.until, Metrics()


def model_of(work: Work) -> PyTorchModel:
    module = workload.network(work)
    workload.put(module, workload.start(work))

    adds_one = work.name == "plus_one"  # it trains by steps only: one of SGD with a rate of 1 along a gradient of -1

    def loss(images: Any, targets: Any) -> Any:
        module.train()
        if adds_one:
            return -sum(weights.sum() for weights in module.parameters())
        return workload.loss(work, module, images, targets)

    def local(parameters: Any, lr: float) -> Any:
        return torch.optim.SGD(parameters, lr) if adds_one else torch.optim.AdamW(parameters, lr, weight_decay=0.01)

    module.loss, module.metrics = loss, lambda *_: {}
    # the consensus is the mean of the sites' weights: a step of 1 along the mean difference
    central = torch.optim.SGD(module.parameters(), 1.0)
    return PyTorchModel(module, local, central)


def main() -> None:
    work = workload.work_of()
    started = time.perf_counter()
    sites = [Site(work, site) for site in range(work.sites)]
    order = iter(lambda: None, 0)
    turn = (number % work.sites for number, _ in enumerate(order))
    users = FederatedDataset(lambda user: sites[user], lambda: next(turn))
    model, judge = model_of(work), Judge(work)
    training = NNTrainHyperParams(
        local_batch_size=work.batch, local_num_epochs=1, local_learning_rate=work.learning_rate
    )
    parameters = NNAlgorithmParams(
        central_num_iterations=work.rounds, evaluation_frequency=work.rounds + 1, train_cohort_size=work.sites,
        val_cohort_size=0,
    )  # fmt: skip
    FederatedAveraging().run(
        algorithm_params=parameters,
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=model,
        model_train_params=training,
        model_eval_params=NNEvalHyperParams(local_batch_size=work.batch),
        callbacks=[judge],
    )
    seconds, rounds = time.perf_counter() - started, len(judge.ends)
    print(json.dumps({
        "seconds": seconds, "steps": rounds * work.sites * work.steps, "rounds": rounds, "dice": judge.dice,
        "clients_per_s": work.sites * (rounds - 1) / (judge.ends[-1] - judge.ends[0]) if rounds > 1 else 0.0,
        "probe": workload.probe(workload.weights_of(model.pytorch_model)),
    }))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
