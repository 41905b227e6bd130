"""Memory does not grow with the number of hospitals: the most that a process ever held, of 4 updates and of 40."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MEGABYTES = 20
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from fedrounds_common.arrays import packed
from fedrounds_common.shelves import STRATEGIES
from fedrounds_common.strategy import SiteUpdate
from fedrounds_server.updates import UpdateStore

folder, sites, name, budget, order = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
strategy = STRATEGIES.load({"name": name})
model = {f"w{n}": np.zeros(MEGABYTES * 250_000 // 5, np.float32) for n in range(5)}
begun = strategy.begin({name: array + 1 for name, array in model.items()})
store, names = UpdateStore(folder, budget, strategy.folds()), [f"s{n:03d}" for n in range(sites)]
store.awaits(names)
for number, site in enumerate(names if order == "in order" else names[::-1]):
    store.put(SiteUpdate(site, packed({name: array + number for name, array in model.items()}), 1))
after = strategy.aggregate(begun, store)
# all sites count alike, and the numbers 0 … n − 1 lie around (n − 1) / 2 alike for a mean and a median
assert float(after.arrays["w4"][7]) == 1 + (sites - 1) / 2, after.arrays["w4"][7]
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")))
"""


def peak_mib(folder: Path, sites: int, *words: str) -> float:
    program = PROGRAM.replace("MEGABYTES", str(MEGABYTES))
    command = [sys.executable, "-c", program, str(folder / str(sites)), str(sites), *words]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how much a process ever held")
@pytest.mark.parametrize(
    ("strategy", "budget_mib", "order"),
    [
        ("fedavg", 512, "in order"),  # each is in the sum when the next comes
        ("fedavg", 0, "in order"),  # and the sum lies on disk
        ("fedavg", 100, "the last first"),  # all wait for the first: what does not fit waits on disk
        ("median", 0, "in order"),  # all are kept, and read side by side
    ],
)
def test_forty_updates_take_no_more_memory_than_four(
    strategy: str, budget_mib: int, order: str, tmp_path: Path
) -> None:
    words = (strategy, str(budget_mib * 2**20), order)
    few, many = peak_mib(tmp_path, 4, *words), peak_mib(tmp_path, 40, *words)
    # where the last comes first, three of 20 MB wait in memory beside the room for the sum, of four as of forty
    assert many - few < MEGABYTES * 1e6 / 2**20, f"{few:.0f} MiB for 4 updates, {many:.0f} for 40"
