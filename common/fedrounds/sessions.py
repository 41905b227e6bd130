"""How long a run took in all: it may be interrupted and gone on with, and each time is a session.

`sessions.json` has one entry a session, written when it begins, so that none is forgotten that was killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedrounds_common.disk import write_json
from fedrounds_server.folder import RunFolder, read_json

NAME = "sessions.json"


@contextmanager
def session(folder: RunFolder) -> Iterator[None]:
    """Around one session of a run: afterwards `status.json` tells of all of them.

    `sessions`: how many; `seconds`: their sum; `started`: of the first (seconds since 1970).
    """
    done = [_with_seconds(entry, folder) for entry in _read(folder)]
    now: dict[str, Any] = {"started": time.time()}
    _write(folder, [*done, now])
    try:
        yield
    finally:
        now["seconds"] = time.time() - now["started"]
        every = [*done, now]
        _write(folder, every)
        if folder.status.exists():
            total = {"sessions": len(every), "seconds": sum(entry["seconds"] for entry in every)}
            write_json(folder.status, {**read_json(folder.status), **total, "started": every[0]["started"]})


def _with_seconds(entry: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """A session that was killed lasted at least until the last round that it finished."""
    if "seconds" in entry:
        return entry
    last = folder.history.stat().st_mtime if folder.history.exists() else 0.0
    return {**entry, "seconds": max(0.0, last - entry["started"]), "killed": True}


def _read(folder: RunFolder) -> list[dict[str, Any]]:
    """What is written; of a file that cannot be used, nothing: times are no reason to refuse to go on."""
    try:
        entries = json.loads((folder.path / NAME).read_text(encoding="utf-8"))["sessions"]
        return [entry for entry in entries if isinstance(entry["started"], float)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _write(folder: RunFolder, entries: list[dict[str, Any]]) -> None:
    write_json(folder.path / NAME, {"format": 1, "sessions": entries})
