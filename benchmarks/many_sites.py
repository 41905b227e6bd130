"""K1000: a thousand sites a round, a model of 0.1 MB, and a client that adds one to each weight: clients per second.

    python benchmarks/many_sites.py [--pairs N] [--sites S] [--rounds R] [--without-installing]

Ours with guard, update store, history, checkpoints and every site's ledger on, two workers; Flower's simulation with
two workers of one CPU each; pfl in one process, which knows no workers without MPI. The first round is left out, for
in it the workers import torch; `wall` is the whole program. Our client and pfl's take a step of SGD along a
gradient of −1, Flower's adds one without a gradient: we do more for the same.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from pairs import Wanted, arguments, compare, write
from sides import ours, same_model, start_file, theirs
from workload import Work

SHOWN = ("clients_per_s", "wall", "cpu", "peak_mib")


def main() -> None:
    given = arguments(
        __doc__, sites=(1000, "sites, all of them in every round"), rounds=(3, "rounds"),
        without_installing=(False, "take a peer that is there, and install none"),
    )  # fmt: skip
    work = Work("plus_one", given.sites, given.rounds, 1, 1, 1, 4, 1.0)
    install = not given.without_installing
    with tempfile.TemporaryDirectory() as folder:
        work = replace(work, start=str(start_file(work, Path(folder))))
        wanted = [Wanted("clients_per_s", least=5.0)]
        rows = [
            compare("K1000", ours(work, 2), theirs("flwr", work, 2, install), given.pairs, wanted, same_model),
            compare(
                "K1000", ours(work), theirs("pfl", work, install=install), given.pairs, (), same_model,
                "the row in which we expect to lose: pfl keeps no files, no guard and no boundary between sites",
            ),
        ]  # fmt: skip
    settings = {"sites": given.sites, "rounds": given.rounds, "model": "25,600 weights, 0.1 MB"}
    write("many_sites", rows, settings, given.output, SHOWN)


if __name__ == "__main__":
    main()
