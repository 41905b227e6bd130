"""SCALE: what one site more costs in a round of 10, 71, 300 or 1,000 sites, and the most memory that it takes.

    python benchmarks/scale.py [--pairs N] [--sites 10,71,300,1000] [--ten-thousand]

A model of 0.1 MB and a site that adds one to each weight; guard, update store, ledgers, history and checkpoints on.
Each size is run with few rounds and with more, and the difference is divided by sites and rounds: what is paid once a
run (imports, reading cases, the first hello) is no part of what is shown. Every size is held against the smallest, pair
by pair.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pairs import Row, Wanted, arguments, measures_of, run_side, write
from sides import ours, start_file
from workload import Work

SHOWN = ("wall_ms_a_site", "cpu_ms_a_site", "peak_mib")
TEN_THOUSAND = 10_000
# of a run with few rounds and one with more: enough of them that a round of ten sites can be told from none
ROUNDS = {TEN_THOUSAND: (1, 2), 1000: (1, 3), 300: (1, 5), 71: (1, 11), 0: (1, 41)}


def rounds_of(sites: int) -> tuple[int, int]:
    return next(rounds for least, rounds in sorted(ROUNDS.items(), reverse=True) if sites >= least)


def cost(work: Work, few: int, many: int) -> dict[str, float]:
    """Of one site in one round."""
    short, long = (run_side(ours(replace(work, rounds=rounds))) for rounds in (few, many))
    answers = (many - few) * work.sites

    def of_one(name: str) -> float:
        return (float(long[name]) - float(short[name])) / answers

    return {
        "wall_ms_a_site": 1e3 * of_one("seconds"), "cpu_ms_a_site": 1e3 * of_one("cpu"),
        "peak_mib": float(long["peak_mib"]), "seconds": float(long["seconds"]),
    }  # fmt: skip


def rows(work: Work, sizes: list[int], pairs: int, rounds: tuple[int, int] | None = None) -> list[Row]:
    found: dict[int, list[Mapping[str, Any]]] = {size: [] for size in sizes}
    for number in range(-1, pairs):  # −1 is the warm-up
        for size in sizes if number % 2 == 0 else reversed(sizes):
            values = cost(replace(work, sites=size), *(rounds or rounds_of(size)))
            print(f"{size} sites: {', '.join(f'{name} {value:.4g}' for name, value in values.items())}", flush=True)
            if number >= 0:
                found[size].append(values)
    wanted = (Wanted("wall_ms_a_site", most=1.1), Wanted("cpu_ms_a_site", most=1.1))
    first = sizes[0]
    return [
        Row(
            "SCALE", f"{size} sites", f"{first} sites", measures_of(found[size], found[first]),
            wanted if size != first else (), {f"{size} sites": found[size]}, {f"{size} sites": ours(work).off},
        )
        for size in sizes
    ]  # fmt: skip


def main() -> None:
    given = arguments(
        __doc__, sites=("10,71,300,1000", "how many, several with commas"), steps=(1, "of each site and round"),
        ten_thousand=(False, "10,000 sites too"), rounds=(0, "of the longer run; 0: by size"),
    )  # fmt: skip
    sizes = [int(size) for size in given.sites.split(",")] + [TEN_THOUSAND] * given.ten_thousand
    work = Work("plus_one", steps=given.steps, cases=1, batch=1, grid=4, learning_rate=1.0)
    with tempfile.TemporaryDirectory() as folder:
        work = replace(work, start=str(start_file(work, Path(folder))))
        found = rows(work, sizes, given.pairs, (1, given.rounds) if given.rounds else None)
    write("scale", found, {"model MB": 0.1, "steps": given.steps, "workers": 0}, given.output, SHOWN)


if __name__ == "__main__":
    main()
