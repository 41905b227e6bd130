"""OVH: what a simulation costs beside the training itself: wall clock and CPU seconds over a bare PyTorch loop.

    python benchmarks/overhead.py [--pairs N] [--steps S] [--without-peers]

Eight sites, five rounds, a small 3D U-Net on volumes of 32³ in memory, everywhere the same steps, processes and
threads; the threads are those with which the bare loop is faster, one or two. `seconds` is from handing the study
over until its consensus is written, imports apart (`start.py` measures those), `wall` is the whole program.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from pairs import Row, Wanted, arguments, beside, compare, run_side, write
from sides import PEERS, bare, ours, same_model, same_work, start_file, theirs
from workload import Work

SHOWN = ("seconds", "wall", "cpu", "peak_mib")


def faster_threads(work: Work) -> int:
    """1 or 2, with which the bare loop takes less time: a slow denominator would flatter."""
    seconds = {n: run_side(bare(replace(work, threads=n, rounds=1)))["seconds"] for n in (1, 2)}
    print(f"bare loop, one round: {seconds[1]:.2f} s with one thread, {seconds[2]:.2f} s with two", file=sys.stderr)
    return min(seconds, key=lambda n: (seconds[n], n))


def rows(work: Work, pairs: int, peers: bool) -> list[Row]:
    check = same_model if work.cases == 1 else same_work  # with one case a site nothing is left to chance
    wanted = [Wanted("seconds", most=1.05), Wanted("cpu", most=1.05)]
    found = [
        compare("OVH", ours(work), bare(work), pairs, wanted, check),
        compare("OVH", ours(work, 2), bare(work, 2), pairs, [Wanted("seconds", most=1.05)], check),
    ]
    if not peers:
        return found
    found += [beside("OVH", theirs(name, work), bare(work), pairs, check) for name in PEERS]
    return [*found, beside("OVH", theirs("flwr", work, 2), bare(work, 2), pairs, check)]


def main() -> None:
    given = arguments(
        __doc__, steps=(25, "of each site and round"), rounds=(5, "rounds"), sites=(8, "sites"),
        cases=(4, "volumes of each site; 1: all sides come to the same model, which is checked"),
        threads=(0, "of every process; 0: one or two, with which the bare loop is faster"),
        without_peers=(False, "ours and the bare loop alone"),
    )  # fmt: skip
    work = Work("unet", given.sites, given.rounds, given.steps, given.cases)
    with tempfile.TemporaryDirectory() as folder:
        work = replace(work, start=str(start_file(work, Path(folder))))
        work = replace(work, threads=given.threads or faster_threads(work))
        found = rows(work, given.pairs, not given.without_peers)
    settings = {name: value for name, value in vars(work).items() if name not in ("start", "data", "until")}
    write("overhead", found, settings, given.output, SHOWN)


if __name__ == "__main__":
    main()
