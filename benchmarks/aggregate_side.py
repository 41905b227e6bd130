"""One side of AGG: N updates from arrays at the sites to the consensus at the coordinator; one line of JSON.

    ours     message packed, read again, put into the update store, and averaged by FedAvg
    flower   an ArrayRecord of each update, and Flower's own `aggregate_arrayrecords` over all of them

Each update is made in place before it is sent, and the clock stands still for it. What both have before the first
(imports, the arrays at one site, the consensus that they are differences from) is no part of the peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

PARAMETERS = 29_135_703  # of the network that FeTS trained
Weights = dict[str, np.ndarray]


def shapes(parameters: int) -> dict[str, int]:
    """Forty tensors, most of the weights in a few: channels double from level to level of a U-Net."""
    shares = [2.0 ** (number // 4) for number in range(38)]
    sizes = [max(1, int(parameters * share / sum(shares) * 0.999)) for share in shares]
    sizes += [max(1, (parameters - sum(sizes)) // 3)]
    sizes += [max(1, parameters - sum(sizes))]
    return {f"layer{number:02d}.weight": size for number, size in enumerate(sizes)}


def cases_of(site: int) -> int:
    return 1 + 7 * site % 40


@final
@dataclass
class Clock:
    """Seconds and CPU seconds while it runs."""

    seconds: float = 0.0
    cpu: float = 0.0

    def timed(self, work: Callable[[], Any]) -> Any:
        started, used = time.perf_counter(), cpu()
        found = work()
        self.seconds += time.perf_counter() - started
        self.cpu += cpu() - used
        return found


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_kib(entry: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry))


def filled(arrays: Weights, base: Weights, site: int) -> None:
    """What a site sends: the same numbers, scaled by who it is."""
    for name, array in arrays.items():
        np.multiply(base[name], np.float32(1 + site / 64), out=array)


def ours(sites: int, base: Weights, budget_mib: float, guarded: bool) -> tuple[Clock, Any]:
    from fedrounds_common.allocator import keep_freed_memory
    from fedrounds_common.codecs.float32 import Float32
    from fedrounds_common.leaving import Ask, Update, from_wire, to_wire
    from fedrounds_common.strategies.fedavg import FedAvg
    from fedrounds_common.strategy import Consensus, SiteUpdate
    from fedrounds_common.wire import parts_of, record_of
    from fedrounds_server.guard import Guard
    from fedrounds_server.updates import UpdateStore

    keep_freed_memory()  # as the ServerApp does when it is loaded
    strategy, names = FedAvg(), [f"site{number:04d}" for number in range(sites)]
    start = {name: np.full(array.shape, 0, np.float32) for name, array in base.items()}
    ask = Ask("train", "run", 1, "nonce", "", "digest", arrays=start)
    guard = Guard(dict.fromkeys(names, 10**6), 1e9, Float32())
    if guarded:  # trusts nothing of a model whose weights are all 0
        ask = Ask("train", "run", 1, "nonce", "", "digest", arrays=base)
    arrays = {name: array.copy() for name, array in base.items()}
    clock = Clock()

    def one(store: UpdateStore, name: str, cases: int) -> None:
        update = Update(name, "run", 1, "nonce", "digest", cases, 1, 0.1, 0.1, "float32", arrays)
        said = from_wire(*parts_of(record_of(*to_wire(update))))
        assert isinstance(said, Update)
        store.put(guard.admit(said, ask, name) if guarded else SiteUpdate(name, said.arrays, said.cases))

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        store = UpdateStore(Path(folder) / "updates", int(budget_mib * 2**20), strategy.folds())
        store.awaits(names)
        peak = Peak()
        for number, name in enumerate(names):
            filled(arrays, base, number)
            clock.timed(lambda name=name, number=number: one(store, name, cases_of(number)))
        found = clock.timed(lambda: strategy.aggregate(Consensus(start), store).arrays)
        above = peak.above_mib()
        store.clear()
    return clock, (found, above)


def flower(sites: int, base: Weights) -> tuple[Clock, Any]:
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    arrays = {name: array.copy() for name, array in base.items()}
    clock, records = Clock(), []
    peak = Peak()

    def one(cases: int) -> RecordDict:
        record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        return RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": cases})})

    for number in range(sites):
        filled(arrays, base, number)
        records.append(clock.timed(lambda number=number: one(cases_of(number))))
    mean = clock.timed(lambda: aggregate_arrayrecords(records, "num-examples"))
    above = peak.above_mib()
    return clock, ({name: array.numpy() for name, array in mean.items()}, above)


class Peak:
    """The most memory that is held from here on, above what is held now (VmHWM, which starts anew)."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = memory_kib("VmRSS:")

    def above_mib(self) -> float:
        return (memory_kib("VmHWM:") - self.before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=("ours", "flower"))
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--parameters", type=int, default=PARAMETERS)
    parser.add_argument("--budget-mib", type=float, default=512)
    parser.add_argument("--guard", action="store_true")
    given = parser.parse_args()
    rng = np.random.default_rng(1)
    base = {name: rng.normal(0, 1e-3, size).astype(np.float32) for name, size in shapes(given.parameters).items()}
    if given.who == "ours":
        clock, (mean, above) = ours(given.sites, base, given.budget_mib, given.guard)
    else:
        clock, (mean, above) = flower(given.sites, base)
    model = given.parameters * 4 / 2**20
    flat = np.concatenate([mean[name].ravel() for name in sorted(mean)])
    print(json.dumps({
        "seconds": clock.seconds, "cpu_s": clock.cpu, "cpu_ms_an_update": 1e3 * clock.cpu / given.sites,
        "above_mib": above, "above_models": above / model,
        "probe": [float(np.linalg.norm(flat.astype(np.float64))), *map(float, flat[:: max(len(flat) // 16, 1)])],
    }))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
