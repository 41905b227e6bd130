"""`consensus.safetensors`: the model a run made, written so that equal weights give equal files, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrounds_common.arrays import Array, Arrays, manifest
from fedrounds_common.disk import write_whole
from fedrounds_common.errors import RunFileError
from fedrounds_common.study.canonical import agreed_tables
from fedrounds_common.study.study import Study
from fedrounds_server.checkpoint import arrays_file, load_arrays

FORMAT = 1


def write_model(
    file: Path, arrays: Arrays, study: Study, digest: str, rounds: int, made_of: Mapping[str, Any] | None = None
) -> None:
    """No time, host or run number goes in: two runs of one study give one digest.

    Args:
        made_of: of a model trained outside the federation, what it was trained from.
    """
    tables = agreed_tables(study)
    says = {
        "format": FORMAT,
        "study": digest,
        "rounds": rounds,
        "task": tables["task"],
        "model": tables["model"],
        "cases": tables["cases"],
        "order": list(arrays),
        **({} if made_of is None else {"made_of": dict(made_of)}),
    }
    write_whole(file, *arrays_file(arrays, says))


def read_model(file: Path, like: Arrays) -> dict[str, Array]:
    """The weights in that file, for a network whose state dict is `like`.

    Raises:
        RunFileError: damaged, or of another network (the first tensor that differs is named).
    """
    arrays, says = load_arrays(file)
    found, wanted = sorted(manifest(arrays)), sorted(manifest(like))
    if found != wanted:
        odd = next((entry for entry in found if entry not in wanted), None) or next(e for e in wanted if e not in found)
        raise RunFileError(
            "FR-F14",
            f"{file.name} is of another network ({says.get('model')}): {odd[0]} {odd[2]} has no match",
            wanted=f"the {len(wanted)} tensors of this study's network",
            do="use the study this model was trained with",
        )
    return {name: arrays[name] for name in like}
