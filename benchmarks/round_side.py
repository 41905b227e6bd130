"""One round or more of a large model with trivial training: `ours`, or `flower`; one line of JSON.

Ours is the whole engine, with the unmodified client: a torch step at each site, guard, update store, ledger, history,
checkpoint. Flower's clients add a number to NumPy arrays and import no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

PLUGINS = Path(__file__).with_name("plugins")
STUDY = """
format = 1
name = "round"
seed = 1
[cases]
channels = ["image"]
labels = {{ cube = 1 }}
intensity = "none"
[model]
name = "ballast"
megabytes = {megabytes}
[training]
rounds = {rounds}
local_steps = 1
batch = 2
learning_rate = 0.001
moments = "fresh"
augment = []
[evaluation]
local_validation = 0.0
[simulation]
workers = {workers}
pictures = 0
report = false
[simulation.reader]
name = "made_volumes"
number = {sites}
cases_a_site = 2
grid = 4
"""


@final
@dataclass(frozen=True)
class Given:
    who: str
    sites: int
    megabytes: float
    rounds: int
    workers: int


def given() -> Given:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", choices=("ours", "flower"))
    parser.add_argument("--sites", type=int, default=71)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    return Given(**vars(parser.parse_args()))


def disk_mib(folder: Path) -> float:
    """What lies below a folder now."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def ours(said: Given) -> dict[str, Any]:
    from fedrounds.environment import quiet

    quiet()
    from fedrounds import Run, simulate
    from fedrounds_server import history

    here = Path.cwd()
    file = here / "round.toml"
    file.write_text(
        STUDY.format(megabytes=said.megabytes, rounds=said.rounds, workers=said.workers, sites=said.sites), "utf-8"
    )
    started = time.perf_counter()
    run = simulate(file, plugins=[PLUGINS], runs=here / "runs")
    seconds = time.perf_counter() - started
    assert isinstance(run, Run)
    lines = history.read(run.folder.history)
    rounds = [line for line in lines if line.kind == history.ROUND]
    updates = sum(site.state == "ok" for line in rounds for site in line.sites)
    return {
        "seconds": seconds, "rounds_s": sum(line.seconds for line in rounds), "updates": updates,
        "disk_mib": disk_mib(run.folder.path), "exit": run.exit,
    }  # fmt: skip


def flower(said: Given) -> dict[str, Any]:
    import logging

    import numpy as np
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    client, server, found = ClientApp(), ServerApp(), dict[str, Any]()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        weights = {name: Array(array.numpy() + np.float32(1)) for name, array in message.content["arrays"].items()}
        metrics = MetricRecord({"train_loss": 0.5, "num-examples": 2})
        return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=said.sites, min_available_nodes=said.sites
        )
        whole = int(said.megabytes * 1e6 / 4)
        sizes = [whole // 40] * 39
        arrays = {
            f"ballast_{n:02d}": Array(np.full(size, 0.01, np.float32))
            for n, size in enumerate((*sizes, whole - sum(sizes)))
        }
        started = time.perf_counter()
        result = strategy.start(grid, ArrayRecord(arrays), num_rounds=said.rounds, train_config=ConfigRecord())
        found["rounds_s"] = time.perf_counter() - started
        last = result.arrays["ballast_00"].numpy()
        # every client adds 1 each round
        assert abs(float(last[0]) - 0.01 - said.rounds) < 1e-4, last[0]

    started = time.perf_counter()
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"include_dashboard": False}}
    run_simulation(server, client, num_supernodes=said.sites, backend_config=resources)
    return {"seconds": time.perf_counter() - started, **found, "updates": said.sites * said.rounds}


if __name__ == "__main__":
    what = given()
    print(json.dumps(ours(what) if what.who == "ours" else flower(what)))
    sys.exit(0)
