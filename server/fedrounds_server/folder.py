"""The run folder: where each thing a run leaves lies, and how its small files are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from fedrounds_common.errors import RunFileError

FORMAT = 1


@final
@dataclass(frozen=True)
class RunFolder:
    path: Path

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
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def consensus(self) -> Path:
        return self.path / "consensus.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def scores(self) -> Path:
        """One CSV a scored model; `metrics.csv` is made of them."""
        return self.path / "scores"

    @property
    def rounds(self) -> Path:
        """What has come of rounds that are not over."""
        return self.path / "rounds"

    def round(self, round_: int) -> Path:
        return self.rounds / f"{round_:04d}"

    def updates(self, round_: int) -> Path:
        return self.round(round_) / "updates"


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
