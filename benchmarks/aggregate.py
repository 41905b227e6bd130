"""AGG: N updates of 116.5 MB from arrays at the sites to the consensus at the coordinator, against Flower's mean.

    python benchmarks/aggregate.py [--pairs N] [--parameters P] [--sites 10,20,71]

CPU seconds of both ends' serialising and of the averaging, and the most memory above what is there before the first
update. Ours with the update budget as it is (the sum in memory), and with one of 1.9 models, half of which is the
sum's: 0.95 of its 2 models (float64) are in memory, the rest and what waits on disk. Both must come to the same mean,
to 1e-6 of its size.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from aggregate_side import PARAMETERS
from pairs import Row, Side, Wanted, arguments, compare, write
from peers import peer
from sides import HERE, OURS, path_of, title_of

SHOWN = ("cpu_s", "cpu_ms_an_update", "seconds", "above_models", "above_mib")
HALF = [Wanted("cpu_s", most=0.5)]
FLAT = [*HALF, Wanted("above_models", most=2.0, alone=True)]


def side(who: str, python: str, sites: int, parameters: int, *words: str, name: str = "") -> Side:
    command = (
        python,
        str(HERE / "aggregate_side.py"),
        who,
        "--sites",
        str(sites),
        "--parameters",
        str(parameters),
        *words,
    )
    off = ("guard",) if who == "ours" and "--guard" not in words else ()
    return Side(name or who, command, path_of(HERE, *OURS), off)


def same_mean(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises AssertionError: the two sides' means differ by more than float32 rounds."""
    size = max(map(abs, other["probe"][1:]))
    far = max(abs(a - b) for a, b in zip(mine["probe"][1:], other["probe"][1:], strict=True))
    assert far <= 1e-6 * max(size, 1e-3), f"the means differ by {far:.3g}"
    assert math.isclose(mine["probe"][0], other["probe"][0], rel_tol=1e-6)


def rows(counts: list[int], parameters: int, pairs: int, install: bool = True) -> list[Row]:
    found, flower = [], peer("flwr", install)
    title = title_of(flower)
    for sites in counts:
        theirs = Side(title, fault=flower.fault)
        if not flower.fault:
            theirs = side("flower", flower.python, sites, parameters, name=title)
        little = ("--budget-mib", str(1.9 * parameters * 4 / 2**20))
        ways = [("fedrounds, budget of 512 MiB", (), HALF), ("fedrounds, budget of 1.9 models", little, FLAT)]
        ways += [("fedrounds, budget of 1.9 models, with guard", (*little, "--guard"), FLAT)]
        for name, words, wanted in ways:
            ours = side("ours", sys.executable, sites, parameters, *words, name=name)
            found.append(compare(f"AGG {sites}", ours, theirs, pairs, wanted, same_mean))
    return found


def main() -> None:
    given = arguments(
        __doc__, sites=("10,20,71", "how many updates, several with commas"), parameters=(PARAMETERS, "of the model"),
        without_installing=(False, "take a peer that is there, and install none"),
    )  # fmt: skip
    counts = [int(count) for count in given.sites.split(",")]
    found = rows(counts, given.parameters, given.pairs, not given.without_installing)
    settings = {"parameters": given.parameters, "MB": given.parameters * 4 / 1e6, "tensors": 40}
    write("aggregate", found, settings, given.output, SHOWN)


if __name__ == "__main__":
    main()
