"""ROUND: 71 sites times 100 MB through the whole engine with trivial training, against Flower's own simulation.

    python benchmarks/round71.py [--pairs N] [--sites S] [--megabytes M] [--rounds R]

Ours with guard, update store, history, checkpoint and each site's ledger on, in one process and with two workers;
Flower with its FedAvg, one CPU a client and no dashboard. `seconds` is the whole simulation without imports, `wall`
the whole program; `disk_mib` is what lies in the run's folder when it has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pairs import Row, Side, Wanted, arguments, compare, write
from peers import peer
from sides import HERE, OURS, path_of, title_of

SHOWN = ("seconds", "rounds_s", "wall", "cpu", "peak_mib", "disk_mib")
# off, because the other side does not do it
OFF = ("evaluation", "pictures", "report")


def side(who: str, python: str, words: tuple[str, ...], workers: int, name: str) -> Side:
    command = (python, str(HERE / "round_side.py"), who, *words, "--workers", str(workers))
    return Side(name, command, path_of(HERE, *OURS), OFF if who == "ours" else ())


def same_updates(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises AssertionError: one side averaged fewer updates."""
    assert mine["updates"] == other["updates"], f"{mine['updates']} updates against {other['updates']}"


def rows(words: tuple[str, ...], pairs: int, install: bool = True) -> list[Row]:
    flower = peer("flwr", install)
    title = title_of(flower)
    theirs = Side(title, fault=flower.fault)
    if not flower.fault:
        theirs = side("flower", flower.python, words, 0, title)
    # 1.5 GB; in one process it must hold, beside two workers each holds a model of its own
    alone = [Wanted("wall", most=1.0), Wanted("peak_mib", most=1.5e9 / 2**20, alone=True)]
    note = "on: guard, update store, ledgers, history, checkpoint"
    found = []
    for workers, wanted in ((0, alone), (2, [Wanted("wall", most=1.0)])):
        name = f"fedrounds, {workers} workers" if workers else "fedrounds"
        ours = side("ours", sys.executable, words, workers, name)
        found.append(compare("ROUND", ours, theirs, pairs, wanted, same_updates, note))
    return found


def main() -> None:
    given = arguments(
        __doc__, sites=(71, "sites"), megabytes=(100.0, "of the model"), rounds=(1, "rounds"),
        without_installing=(False, "take a peer that is there, and install none"),
    )  # fmt: skip
    sizes = {"sites": given.sites, "megabytes": given.megabytes, "rounds": given.rounds}
    words = tuple(word for name, value in sizes.items() for word in (f"--{name}", str(value)))
    write("round71", rows(words, given.pairs, not given.without_installing), sizes, given.output, SHOWN)


if __name__ == "__main__":
    main()
