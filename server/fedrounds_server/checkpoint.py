"""Checkpoints: everything the coordinator needs to go on after a round, in one file, whole or not there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from safetensors import SafetensorError, safe_open

from fedrounds_common.arrays import Array, Arrays, digest
from fedrounds_common.disk import Data, remove_file, settle, write_whole
from fedrounds_common.errors import RunFileError
from fedrounds_common.strategy import Consensus
from fedrounds_common.tail import Tail
from fedrounds_common.tensorfile import file_parts

FORMAT = 1
KEPT = 3
KEY, SUM = "fedrounds", "sum"


@final
@dataclass(frozen=True)
class Checkpoint:
    """`round`: the last that is done, 0 before the first. `settled`: how many of the task's purposes are done.

    `noising`: of a study that hides hospitals, the clip of the next round.
    """

    round: int
    study: str
    consensus: Consensus
    states: Mapping[str, str] = field(default_factory=dict)  # site → its worst state so far
    settled: int = 0
    tail: Tail = field(default_factory=Tail)  # of the rounds so far whose weights are averaged
    noising: Mapping[str, float] = field(default_factory=dict)


def _file(folder: Path, round_: int) -> Path:
    return folder / f"round-{round_:04d}.safetensors"


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    parts = {
        "arrays": checkpoint.consensus.arrays,
        "shared": checkpoint.consensus.shared,
        "kept": checkpoint.consensus.kept,
        "tail": checkpoint.tail.sums,
    }
    flat = {f"{part}|{name}": array for part, arrays in parts.items() for name, array in arrays.items()}
    says = {
        "format": FORMAT,
        "round": checkpoint.round,
        "study": checkpoint.study,
        "states": dict(checkpoint.states),
        "settled": checkpoint.settled,
        "averaged": checkpoint.tail.models,
        **({"noising": dict(checkpoint.noising)} if checkpoint.noising else {}),
        "order": {part: list(arrays) for part, arrays in parts.items()},
    }
    write_whole(_file(folder, checkpoint.round), *arrays_file(flat, says))
    for old in _rounds(folder)[:-KEPT]:
        if old != checkpoint.round:  # those after it are damaged, where a run is begun anew
            remove_file(_file(folder, old))


def newest_checkpoint(folder: Path, study: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and one line about each newer one that is not.

    Raises:
        RunFileError: it belongs to another study.
    """
    damaged: list[str] = []
    for round_ in reversed(_rounds(folder)):
        try:
            checkpoint = _read(_file(folder, round_))
        except RunFileError as error:
            damaged.append(str(error))
            continue
        if checkpoint.study != study:
            raise RunFileError(
                "FR-F12", f"the checkpoint is of study {checkpoint.study[:12]}", wanted=f"{study[:12]}",
                do="resume with the study the run was started with",
            )  # fmt: skip
        settle(_file(folder, round_))  # the next round must not outlive it
        return checkpoint, damaged
    return None, damaged


def _read(file: Path) -> Checkpoint:
    flat, says = load_arrays(file)
    order: dict[str, list[str]] = says["order"]
    parts = {part: {name: flat[f"{part}|{name}"] for name in names} for part, names in order.items()}
    tail = Tail(parts.pop("tail", {}), says.get("averaged", 0))
    return Checkpoint(
        says["round"], says["study"], Consensus(**parts), says["states"], says.get("settled", 0), tail,
        says.get("noising", {}),
    )  # fmt: skip


def arrays_file(arrays: Arrays, says: Mapping[str, Any]) -> list[Data]:
    """Safetensors with one metadata key, in parts that are written one after the other: the arrays as they lie.

    What the file says of itself holds a sum over that and every array, by which damage is seen.
    """
    return file_parts(arrays, {KEY: json.dumps({**says, SUM: _sum(arrays, says)}, sort_keys=True)})


def save_arrays(arrays: Arrays, says: Mapping[str, Any]) -> bytes:
    """The same as one piece."""
    return b"".join(arrays_file(arrays, says))


def _sum(arrays: Arrays, says: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{digest(arrays)} {json.dumps(says, sort_keys=True)}".encode()).hexdigest()


def load_arrays(file: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and what the file says of itself.

    Raises:
        RunFileError: missing, not safetensors, cut short, changed since it was written, or not ours.
    """
    try:
        with safe_open(file, framework="numpy") as stream:
            says = json.loads((stream.metadata() or {})[KEY])
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  (not a dict)
    except FileNotFoundError as error:
        raise RunFileError("FR-F01", f"{file.name} is missing", do="has the run finished?") from error
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise RunFileError(
            "FR-F11", f"{file.name} is damaged or not ours ({type(error).__name__})", wanted="safetensors of fedrounds"
        ) from error
    if isinstance(says, dict) and says.get("format") != FORMAT:
        raise RunFileError("FR-F13", f"{file.name} has format {says.get('format')}", wanted=f"format {FORMAT}")
    if not isinstance(says, dict) or says.pop(SUM, "") != _sum(arrays, says):
        raise RunFileError("FR-F11", f"{file.name} is damaged or not ours (its sum)", wanted="it as it was written")
    return arrays, says


def _rounds(folder: Path) -> list[int]:
    return sorted(int(file.stem.split("-")[1]) for file in folder.glob("round-*.safetensors"))
