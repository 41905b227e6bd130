"""The run folder: where each thing a run leaves lies, and how its small files are read."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from fedrounds_common.errors import RunFileError, UsageError

FORMAT = 1


@final
@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run; between hospitals its pid stands in it."""
        return self.path / ".lock"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def judging(self) -> Path:
        """What it took to send models to be judged."""
        return self.path / "judging.jsonl"

    @property
    def spent(self) -> Path:
        """The book of a study that hides hospitals: what each round has cost them."""
        return self.path / "spent.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def consensus(self) -> Path:
        return self.path / "consensus.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def down(self) -> Path:
        """What the last rounds sent to the sites, where the study sends differences from that."""
        return self.path / "down"

    @property
    def scores(self) -> Path:
        """One CSV a scored model; `metrics.csv` is made of them."""
        return self.path / "scores"

    @property
    def floor(self) -> Path:
        """Which of the rules that learn nothing is the floor, by region."""
        return self.path / "baselines" / "floor.json"

    @property
    def rounds(self) -> Path:
        """What has come of rounds that are not over."""
        return self.path / "rounds"

    def round(self, round_: int) -> Path:
        return self.rounds / f"{round_:04d}"

    def updates(self, round_: int) -> Path:
        return self.round(round_) / "updates"


@contextmanager
def worked_on(folder: RunFolder) -> Iterator[None]:
    """One ServerApp at a time in a run's folder; the lock goes with the process, however that ends.

    Raises:
        UsageError: FR-U24 another process is working on it.
    """
    with folder.lock.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                "FR-U24", f"{folder.path.name} is being worked on by another process", do="wait for it"
            ) from error
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def worker_pid(folder: RunFolder) -> int | None:
    """The process that works on a run, or None."""
    if not folder.lock.exists():
        return None
    with folder.lock.open("r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = stream.read().strip()
            return int(text) if text.isdigit() else 0
    return None


def read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFileError("FR-F01", f"{file.name} is missing", do="is this a run's folder?") from error
    except (OSError, ValueError) as error:
        raise RunFileError("FR-F02", f"{file.name} cannot be read: {error}", do="restore it, or run again") from error
    if not isinstance(value, dict):
        raise RunFileError("FR-F02", f"{file.name} holds a {type(value).__name__}", wanted="an object")
    return value
