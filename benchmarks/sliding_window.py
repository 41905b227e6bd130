"""SWI: predicting a whole volume of 4 x 240 x 240 x 155 in its content box, against MONAI on the full grid.

    python benchmarks/sliding_window.py [--pairs N] [--patch N] [--scale S]

The same trained network (instance norm), windows of 128³ that overlap by a quarter, Gaussian weights, one thread. Ours finds
the content box within the time that is measured, and decides on labels too. `dice` is of our labels against MONAI's
on the full grid; on the same box the probabilities are MONAI's to 1e-5, which a test holds. "content" predicts the
box in one go instead of by windows. MONAI gets the number of windows a call, one or four, with which it is faster.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pairs import OUTPUT, Result, Row, Side, Wanted, arguments, compare, run_side, write
from volumes import FULL, write_volumes

SIDE = Path(__file__).resolve().with_name("sliding_side.py")
NAMES = {"patch": "fedrounds", "content": "fedrounds, content at once", "monai": "MONAI on the full grid"}
SHOWN = ("seconds", "cpu_s", "dice", "peak_mib")


def side(kind: str, folder: Path, patch: int, number: int) -> Side:
    return Side(NAMES.get(kind, kind), (sys.executable, str(SIDE), kind, str(folder), str(patch), str(number)))


def same_reference(ours: Result, theirs: Result) -> None:
    """Raises ValueError: MONAI's answer is not the one that ours is held against."""
    if theirs["dice"] < 0.9999:
        raise ValueError(f"MONAI's answer agrees with its own kept one by Dice {theirs['dice']:.4f} only")


def faster_batch(folder: Path, patch: int) -> int:
    found = {batch: run_side(side("monai", folder, patch, batch))["cpu_s"] for batch in (1, 4)}
    print(f"MONAI: {found[1]:.1f} CPU s with one window a call, {found[4]:.1f} with four", file=sys.stderr)
    return min(found, key=lambda batch: (found[batch], batch))


def rows(folder: Path, pairs: int, patch: int, batch: int) -> list[Row]:
    theirs = side("monai", folder, patch, batch)
    alike = Wanted("dice", least=0.99, alone=True)
    bounds = {"patch": [Wanted("seconds", most=1 / 2), alike], "content": [Wanted("seconds", most=1 / 3), alike]}
    return [
        compare("SWI", side(kind, folder, patch, batch), theirs, pairs, wanted, same_reference)
        for kind, wanted in bounds.items()
    ]


def main() -> None:
    given = arguments(
        __doc__, patch=(128, "side of a window"), steps=(120, "of training the network, once"),
        scale=(1.0, "of the volume's 240 x 240 x 155 voxels"), data=(str(OUTPUT / "volumes"), "folder of the volumes, made once"),
    )  # fmt: skip
    grid = [max(16, round(size * given.scale)) for size in FULL]
    folder = write_volumes(Path(given.data).resolve() / f"4x{'x'.join(map(str, grid))}", 4, grid)
    made, mark = {"patch": given.patch, "steps": given.steps}, folder / "network.json"
    if not mark.exists() or json.loads(mark.read_text("utf-8")) != made:
        (folder / "network.safetensors").unlink(missing_ok=True)  # training goes on from what lies there
        print(run_side(side("prepare", folder, given.patch, given.steps)), file=sys.stderr)
        mark.write_text(json.dumps(made), encoding="utf-8")
    batch = faster_batch(folder, given.patch)
    found = rows(folder, given.pairs, given.patch, batch)
    write(
        "sliding_window",
        found,
        {"grid": grid, "patch": given.patch, "MONAI's windows a call": batch},
        given.output,
        SHOWN,
    )


if __name__ == "__main__":
    main()
