"""`make faultsim SEEDS=10000`, or `python tests/faultsim/run.py --seed 17` to see one again, event by event."""

from __future__ import annotations

import os

# before anything imports torch or flwr
os.environ |= {"OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace

from sim_federation import MEMORY, Result, forget_templates, play


def one(seed: int) -> Result:
    result = play(seed)
    return result if result.violation else replace(result, trace=[])


def many(first: int, count: int, processes: int) -> int:
    """Play so many seeds and print what was seen; the exit status is 1 if an invariant was violated."""
    began, drawn, bad, steps, starts, work = time.monotonic(), Counter[str](), [], 0, 0, 0.0
    with tempfile.TemporaryDirectory(prefix="faultsim-", dir=MEMORY) as place:
        os.environ["FAULTSIM_MEMORY"] = place  # what the processes leave goes with it
        pool = multiprocessing.get_context("spawn").Pool(processes)
        for result in pool.imap_unordered(one, range(first, first + count), chunksize=20):
            drawn.update(result.drawn)
            steps, starts, work = steps + result.steps, starts + result.starts, work + result.seconds
            if result.violation:
                bad.append(result.seed)
                print(f"seed {result.seed}: {result.violation}", flush=True)
        pool.close()
        pool.join()
    took = time.monotonic() - began
    print(
        f"{count} seeds in {took:.0f} s, {count / took:.1f} a second in {processes} processes; {work:.0f} s of one core"
    )
    print(f"{starts - count} restarts of the coordinator, {steps} steps of its disk, {sum(drawn.values())} faults:")
    for kind, number in sorted(drawn.items(), key=lambda item: -item[1]):
        print(f"  {number:8d} {kind}")
    print(f"{len(bad)} violations" + (f", the first at --seed {min(bad)}" if bad else ""))
    return 1 if bad else 0


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--seeds", type=int, default=10_000)
    given.add_argument("--first", type=int, default=0)
    given.add_argument("--processes", type=int, default=2)
    given.add_argument("--seed", type=int, help="play this one and print every event")
    asked = given.parse_args()
    if asked.seed is None:
        return many(asked.first, asked.seeds, asked.processes)
    result = play(asked.seed)
    forget_templates()
    print("\n".join(result.trace))
    print(f"seed {asked.seed}: {result.violation or 'nothing violated'}; consensus {result.digest[:16]}")
    return 1 if result.violation else 0


if __name__ == "__main__":
    sys.exit(main())
