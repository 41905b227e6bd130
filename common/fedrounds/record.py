"""`record.json`: what was run, with what, on what, so that it can be run again and compared."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedrounds.simulation import Prepared
from fedrounds_common.disk import write_json
from fedrounds_common.errors import RunFileError
from fedrounds_server.checkpoint import load_arrays
from fedrounds_server.folder import RunFolder, read_json
from fedrounds_server.record import EVERYWHERE, record_of

PACKAGES = (*EVERYWHERE, "nibabel", "pydicom")


def write_record(folder: RunFolder, prepared: Prepared, code: Mapping[str, Any]) -> None:
    simulation = prepared.simulation
    reader = simulation.build_reader(prepared.plugins)
    write_json(
        folder.record,
        {
            **record_of(folder.path.name, _started(folder.record), prepared.study, prepared.parts.task, PACKAGES),
            "data": reader.kind,
            "data_version": reader.version,
            "unit": reader.split_by,
            "engine": {"name": simulation.engine, "workers": simulation.workers},
            "baselines": list(simulation.baselines),
            "effort": EFFORT,
            "outside_code": dict(code),
        },
    )


def note_start(folder: RunFolder, initial: Path) -> None:
    """Say in the record where the weights of round 1 came from, if that file says so of itself."""
    made_of = load_arrays(initial)[1].get("made_of")
    if made_of is not None:
        write_json(folder.record, {**read_json(folder.record), "initial": made_of})


def _started(file: Path) -> str:
    """When the run first began: a resumed one keeps it."""
    try:
        return str(read_json(file)["started"])
    except (RunFileError, KeyError):
        return datetime.now(UTC).isoformat(timespec="seconds")


EFFORT = (
    "pooled and local-only-long take as many optimiser steps of the same batch as all sites together, local-only the "
    "site's own share; same optimiser, learning rate (one trial each) and schedule; the last step's weights are judged"
)
