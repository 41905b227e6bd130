"""Flower's side of a benchmark: the work of `workload.py` under its own FedAvg in its own simulation; one line of JSON.

As its pages recommend: one CPU a client, no dashboard. `--workers`: how many clients run at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from typing import Any

import workload
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from workload import Weights, Work


def weights_of(record: ArrayRecord) -> Weights:
    return {name: array.numpy() for name, array in record.items()}


def record_of(weights: Weights) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in weights.items()})


def client_app(work: Work) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site = int(context.node_config["partition-id"])
        module = workload.network(work)
        workload.put(module, weights_of(message.content["arrays"]))
        round_ = int(message.content["config"]["server-round"])
        loss = workload.train(work, module, site, round_)
        metrics = MetricRecord({"train_loss": loss, "num-examples": work.cases})
        return Message(
            RecordDict({"arrays": record_of(workload.weights_of(module)), "metrics": metrics}), reply_to=message
        )

    return app


class Reached(Exception):
    """The score that was asked for."""


def server_app(work: Work, found: dict[str, Any]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        everybody = {"fraction_evaluate": 0.0, "min_train_nodes": work.sites, "min_available_nodes": work.sites}
        strategy = FedAvg(fraction_train=1.0, **everybody)
        module, ends = workload.network(work), []

        def evaluate(round_: int, arrays: ArrayRecord) -> MetricRecord | None:
            ends.append(time.perf_counter())
            found.update(rounds=round_, last=arrays)
            if work.until and round_:
                workload.put(module, weights_of(arrays))
                found["dice"] = workload.dice(work, module)
                if found["dice"] >= work.until:
                    raise Reached
            return None

        started = time.perf_counter()
        try:
            result = strategy.start(
                grid, record_of(workload.start(work)), num_rounds=work.rounds, train_config=ConfigRecord(),
                evaluate_fn=evaluate,
            )  # fmt: skip
            found["loss"] = float(dict(result.train_metrics_clientapp[work.rounds])["train_loss"])
        except Reached:
            pass
        found["rounds_s"] = time.perf_counter() - started
        # without the first round, in which the workers import torch
        found["clients_per_s"] = work.sites * (len(ends) - 2) / (ends[-1] - ends[1]) if len(ends) > 2 else 0.0

    return app


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1)
    given, rest = parser.parse_known_args()
    work = workload.work_of(rest)
    found: dict[str, Any] = {"loss": 0.0, "dice": 0.0}
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": given.workers, "include_dashboard": False},
    }
    started = time.perf_counter()
    run_simulation(server_app(work, found), client_app(work), work.sites, backend_config=backend)
    seconds = time.perf_counter() - started
    last = weights_of(found.pop("last"))
    steps = found["rounds"] * work.sites * work.steps
    print(json.dumps({"seconds": seconds, "steps": steps, **found, "probe": workload.probe(last)}))


if __name__ == "__main__":
    sys.exit(main())
