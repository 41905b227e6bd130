"""LOAD: 3D cases a second from the cache, second epoch on, and the share of a training step that waits for data.

    python benchmarks/loading.py [--pairs N] [--cases N] [--patch N]

The same files, the same crop to the brain, the same z-scores, a random patch each: fedrounds' packed cases on disk against
MONAI's CacheDataset (as it comes, and without its copy of each case) and PersistentDataset, each in one process
and one thread, two patches a batch. Memory is what a process holds of its own (RssAnon) and the files that it keeps.

A step is a small 3D U-Net's on the same cases, two patches of 64³ with the usual augmentation and with all there is; `before`
draws its batch before the step, `beside` while the step before runs, on another core: the weights are the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pairs import OUTPUT, Result, Row, Side, Wanted, arguments, compare, write
from volumes import FULL, write_volumes

HERE = Path(__file__).resolve().parent
PEERS = {
    "cache": "MONAI CacheDataset",
    "cache-no-copy": "MONAI CacheDataset, copy_cache=False",
    "persistent": "MONAI PersistentDataset",
}
SHOWN = (
    "cases_per_s",
    "cases_per_cpu_s",
    "memory_mib",
    "files_mib",
    "anonymous_mib",
    "waiting_share",
    "step_ms",
    "cpu_ms_a_step",
)


def drawing(kind: str, folder: Path, patch: int, epochs: int) -> Side:
    name = "fedrounds" if kind == "ours" else PEERS[kind]
    command = (sys.executable, str(HERE / "loading_side.py"), kind, str(folder), str(patch), str(epochs))
    return Side(name, command)


def training(how: str, which: str, folder: Path, patch: int, steps: int) -> Side:
    command = (sys.executable, str(HERE / "waiting_side.py"), str(folder), str(patch), str(steps), which, how)
    return Side(how, command)


def same_voxels(ours: Result, theirs: Result) -> None:
    """Raises ValueError: the two did not keep the same images."""
    if ours["cases"] != theirs["cases"] or abs(ours["mean"] - theirs["mean"]) > 1e-3:
        raise ValueError(
            f"{ours['cases']} cases of mean {ours['mean']:.4f}, and {theirs['cases']} of {theirs['mean']:.4f}"
        )


def same_weights(ours: Result, theirs: Result) -> None:
    if ours["digest"] != theirs["digest"]:
        raise ValueError("drawing beside the step gave other weights")


def rows(folder: Path, given: argparse.Namespace) -> list[Row]:
    ours = drawing("ours", folder, given.patch, given.epochs)
    wanted: dict[str, Sequence[Wanted]] = {
        "cache": (Wanted("cases_per_s", least=4), Wanted("memory_mib", most=0.5)), "cache-no-copy": (), "persistent": (),
    }  # fmt: skip
    found = []
    for kind in given.peers.split():
        theirs = drawing(kind, folder, given.patch, given.epochs)
        found.append(compare("LOAD", ours, theirs, given.pairs, wanted[kind], same_voxels))
    bound = [Wanted("waiting_share", most=0.05, alone=True)]
    for which in given.augment.split():
        beside, before = (training(how, which, folder, given.small, given.steps) for how in ("beside", "before"))
        found.append(compare(f"a step, {which} augmentation", beside, before, given.pairs, bound, same_weights))
    return found


def main() -> None:
    given = arguments(
        __doc__, cases=(32, "volumes"), patch=(128, "side of a patch that is only drawn"),
        epochs=(4, "counted, after the first"), small=(64, "side of a patch that is trained on"), steps=(20, "of training"),
        scale=(1.0, "of the volumes' 240 x 240 x 155 voxels"), data=(str(OUTPUT / "volumes"), "folder of the volumes, made once"),
        peers=(" ".join(PEERS), "which of MONAI's"), augment=("usual all", "with which steps are taken"),
    )  # fmt: skip
    grid = [max(16, round(size * given.scale)) for size in FULL]
    folder = write_volumes(Path(given.data).resolve() / f"{given.cases}x{'x'.join(map(str, grid))}", given.cases, grid)
    found = rows(folder, given)
    settings = {
        "cases": given.cases,
        "grid": grid,
        "patch": given.patch,
        "epochs": given.epochs,
        "trained on": given.small,
    }
    write("loading", found, settings, given.output, SHOWN)


if __name__ == "__main__":
    main()
