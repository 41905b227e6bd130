"""Federated averaging as a plain PyTorch loop: what a simulation would cost if there were no framework.

`python benchmarks/bare_loop.py [--processes N] [the work: see workload.py]`, and one line of JSON. Data are in
memory; with several processes each trains its share of the sites, and weights travel as NumPy arrays.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time

import numpy as np
import workload
from workload import Weights, Work


def trained(work: Work, weights: Weights, sites: list[int], round_: int) -> tuple[Weights, float, int]:
    """The sum of these sites' weights after their steps, the sum of their losses, and of how many."""
    module = workload.network(work)
    total: Weights = {}
    losses = 0.0
    for site in sites:
        workload.put(module, weights)
        losses += workload.train(work, module, site, round_)
        for name, array in workload.weights_of(module).items():
            total[name] = total[name] + array if name in total else array.astype(np.float64)
    return total, losses, len(sites)


def warmed(work: Work) -> None:
    """torch imports its compiler when the first optimiser is made: no part of the loop."""
    workload.optimiser(work, workload.network(work))


def mean(work: Work, parts: list[tuple[Weights, float, int]], like: Weights) -> tuple[Weights, float]:
    sums = {name: sum(part[0][name] for part in parts) for name in like}
    weights = {name: (sums[name] / work.sites).astype(like[name].dtype) for name in like}
    return weights, sum(part[1] for part in parts) / work.sites


def run(work: Work, processes: int) -> dict[str, object]:
    weights, found, dice = workload.start(work), 0.0, 0.0
    module = workload.network(work)
    shares = [list(range(first, work.sites, processes)) for first in range(processes)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) if processes > 1 else Alone() as pool:
        pool.starmap(warmed, [(work,)] * processes)
        started, rounds = time.perf_counter(), 0
        while rounds < work.rounds:
            rounds += 1
            parts = pool.starmap(trained, [(work, weights, share, rounds) for share in shares])
            weights, found = mean(work, parts, weights)
            if work.until:
                workload.put(module, weights)
                dice = workload.dice(work, module)
                if dice >= work.until:
                    break
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "steps": rounds * work.sites * work.steps, "rounds": rounds, "loss": found,
            "dice": dice, "probe": workload.probe(weights)}  # fmt: skip


class Alone:
    """A pool of this process."""

    starmap = staticmethod(lambda function, rows: [function(*row) for row in rows])

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    words = sys.argv[1:]
    count = int(words.pop(words.index("--processes") + 1)) if "--processes" in words else 1
    print(json.dumps(run(workload.work_of([word for word in words if word != "--processes"]), count)))
