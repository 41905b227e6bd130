"""The sides that several benchmarks have in common: ours, the bare loop, and each peer in its own environment."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import workload
from pairs import Side
from peers import Peer, peer
from workload import Work

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
OURS = [REPO / name for name in ("common", "sites", "client", "server")]
PEERS = {"flwr": "Flower", "nvflare": "NVFlare", "pfl": "pfl"}
# they do the same sums in another order, and AdamW's first steps go by the sign of a gradient
CLOSE = 2e-3
FLOAT32 = 1e-4  # of a number itself: a sum of a thousand float32 is no nearer


def start_file(work: Work, folder: Path) -> Path:
    """The weights that every side starts from."""
    from fedrounds_common.rng import seeded

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"start-{work.name}.npz"
    with seeded(1):
        module = workload.network(replace(work, threads=1))
    np.savez(file, **workload.weights_of(module))
    return file


def path_of(*folders: Path) -> dict[str, str]:
    return {"PYTHONPATH": ":".join(map(str, folders))}


def bare(work: Work, processes: int = 1) -> Side:
    command = (sys.executable, str(HERE / "bare_loop.py"), "--processes", str(processes), *work.words())
    return Side(named("bare loop", processes, work), command, path_of(HERE, OURS[0]))


def ours(work: Work, workers: int = 0, engine: str = "inline", off: tuple[str, ...] | None = None) -> Side:
    from our_side import OFF

    words = ("--workers", str(workers), "--engine", engine)
    command = (sys.executable, str(HERE / "our_side.py"), *words, *work.words())
    name = "fedrounds" if engine == "inline" else f"fedrounds on {engine}"
    return Side(named(name, workers, work), command, path_of(HERE, *OURS), OFF if off is None else off)


def theirs(name: str, work: Work, workers: int = 1, install: bool = True) -> Side:
    """A peer: "flwr", "nvflare" or "pfl" (which has no workers without MPI)."""
    found = peer(name, install)
    program = {"flwr": "flower_side.py", "nvflare": "nvflare_side.py", "pfl": "pfl_side.py"}[name]
    words = () if name == "pfl" else ("--workers", str(workers))
    title = named(title_of(found), workers, work)
    if found.fault:
        return Side(title, fault=found.fault)
    # no dashboard is Flower's own advice, and not something that it does without
    return Side(title, (found.python, str(HERE / program), *words, *work.words()), path_of(HERE, OURS[0]))


def title_of(found: Peer) -> str:
    """By its own name, with its version where it is installed: "Flower 1.41.0"."""
    return f"{PEERS[found.name]} {dict(found.versions).get(found.name, '')}".rstrip()


def named(name: str, processes: int, work: Work) -> str:
    several = f", {processes} processes" if processes > 1 else ""
    return f"{name}{several}{f', {work.threads} threads' if work.threads > 1 else ''}"


def same_work(mine: Any, other: Any) -> None:
    """Both took the same steps, and from the same start came to the same model.

    Raises:
        AssertionError: they did not, so that a ratio of their times would mean nothing.
    """
    assert mine["steps"] == other["steps"], f"{mine['steps']} steps against {other['steps']}"
    assert all(map(math.isfinite, mine["probe"])), mine["probe"]


def same_model(mine: Any, other: Any) -> None:
    """As `same_work`, where every side draws the same batches: the models are the same, up to rounding."""
    same_work(mine, other)
    pairs = zip(mine["probe"], other["probe"], strict=True)
    far = max((abs(a - b) for a, b in pairs if not math.isclose(a, b, rel_tol=FLOAT32, abs_tol=CLOSE)), default=0.0)
    assert not far, f"the models differ by {far:.2g}"
