"""DP: what a noisy step costs over one without noise, and beside Opacus' hooks; both make the same clipped sum.

    python benchmarks/private_steps.py [--pairs N] [--steps S] [--only TEXT] [--device cpu|cuda]

On one core. Ours takes several patients at once where the network allows it and that is quicker, or one beside its own
copy; the row says which way it took, and on what. Each step also draws its noise from the operating system's keys.
On a GPU seconds are the wall's, and the memory is the GPU's.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pairs import Row, Side, Wanted, arguments, compare, write
from sides import HERE, OURS, path_of

SHOWN = {"cpu": ("cpu_s_a_step", "added_mib"), "cuda": ("s_a_step", "added_mib")}
GPU = 1.2  # the most that a step of ours may cost there of one without noise
# name, words, the most that a step of ours may cost of one without noise, and of Opacus'
WORK = (
    ("2D CNN 28², batch 32", ("--network", "tiny_cnn", "--dims", "2", "--size", "28", "--batch", "32"), None, 1.0),
    ("3D U-Net 32³, batch 1", ("--batch", "1"), 1.2, 1.0),
    ("3D U-Net 32³, batch 4", ("--batch", "4"), 2.5, 1.0),
)


def side(who: str, name: str, words: tuple[str, ...], steps: int, device: str) -> Side:
    command = (sys.executable, str(HERE / "private_side.py"), who, *words, "--steps", str(steps), "--device", device)
    return Side(name, command, path_of(HERE, *OURS))


def same_sum(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises AssertionError: ours and Opacus' clipped sums differ by more than 1e-5 of their size, in some tensor."""
    assert len(mine["probe"]) == len(other["probe"])
    whole = math.sqrt(math.fsum(value**2 for value in other["probe"]))
    far = max(abs(a - b) for a, b in zip(mine["probe"], other["probe"], strict=True))
    assert far <= 1e-5 * whole, f"the sums differ by {far:.3g} of {whole:.3g}"


def rows(pairs: int, steps: int, only: str = "", device: str = "cpu") -> list[Row]:
    found, measure = [], SHOWN[device][0]
    for name, words, over_plain, over_opacus in WORK:
        if only not in name:
            continue
        ours = side("ours", "noisy", words, steps, device)
        for who, title, most, check in (
            ("plain", "without noise", GPU if device == "cuda" else over_plain, None),
            ("opacus", "Opacus' hooks", over_opacus, same_sum),
        ):
            wanted = [] if most is None else [Wanted(measure, most=most)]
            row = compare(name, ours, side(who, title, words, steps, device), pairs, wanted, check)
            found.append(replace(row, note=said_of(row)))
    return found


def said_of(row: Row) -> str:
    """On what ours ran, and which way it took patients in the last run."""
    last = row.runs[row.ours][-1]
    return f"{last['backend']}; patients {last['way']}"


def main() -> None:
    given = arguments(
        __doc__,
        steps=(10, "timed, after some that are not"),
        only=("", "only work whose name holds this, e.g. 3D"),
        device=("cpu", "or cuda"),
    )
    found = rows(given.pairs, given.steps, given.only, given.device)
    write("private_steps", found, {"steps": given.steps}, given.output, SHOWN[given.device])


if __name__ == "__main__":
    main()
