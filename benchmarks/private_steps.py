"""DP: what a noisy step costs over one without noise, and beside Opacus' hooks; both make the same clipped sum.

    python benchmarks/private_steps.py [--pairs N] [--steps S] [--only TEXT]

On one core. A patient at a time is nothing more at batch 1; a 3D batch of 4 loses what torch gains on batches; on
small pictures most of a batch's gain is lost, and Opacus is expected to be quicker there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from pairs import Row, Side, Wanted, arguments, compare, write
from sides import HERE, OURS, path_of

SHOWN = ("cpu_s_a_step", "added_mib")
# name, words, the most that a step of ours may cost of one without noise, and of Opacus'
WORK = (
    ("2D CNN 28², batch 32", ("--network", "tiny_cnn", "--dims", "2", "--size", "28", "--batch", "32"), None, None),
    ("3D U-Net 32³, batch 1", ("--batch", "1"), 1.2, 1.0),
    ("3D U-Net 32³, batch 4", ("--batch", "4"), 2.5, 1.0),
)


def side(who: str, name: str, words: tuple[str, ...], steps: int) -> Side:
    command = (sys.executable, str(HERE / "private_side.py"), who, *words, "--steps", str(steps))
    return Side(name, command, path_of(HERE, *OURS))


def same_sum(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises AssertionError: ours and Opacus' clipped sums differ by more than 1e-5 of their size, in some tensor."""
    assert len(mine["probe"]) == len(other["probe"])
    whole = math.sqrt(math.fsum(value**2 for value in other["probe"]))
    far = max(abs(a - b) for a, b in zip(mine["probe"], other["probe"], strict=True))
    assert far <= 1e-5 * whole, f"the sums differ by {far:.3g} of {whole:.3g}"


def rows(pairs: int, steps: int, only: str = "") -> list[Row]:
    found = []
    for name, words, over_plain, over_opacus in WORK:
        if only not in name:
            continue
        ours = side("ours", "a patient at a time", words, steps)
        for who, title, most, check in (
            ("plain", "without noise", over_plain, None), ("opacus", "Opacus' hooks", over_opacus, same_sum),
        ):  # fmt: skip
            wanted = [] if most is None else [Wanted("cpu_s_a_step", most=most)]
            found.append(compare(name, ours, side(who, title, words, steps), pairs, wanted, check))
    return found


def main() -> None:
    given = arguments(
        __doc__, steps=(10, "timed, after one that is not"), only=("", "only work whose name holds this, e.g. 3D")
    )
    write("private_steps", rows(given.pairs, given.steps, given.only), {"steps": given.steps}, given.output, SHOWN)


if __name__ == "__main__":
    main()
