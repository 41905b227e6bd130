"""A file of what happened, each line bound to the one before by its sum: changed, removed or added lines show.

The sums prove order, not authorship: who can write the whole file can write another whole file. So the last
line's sum is what is signed, printed or told to somebody else, and compared later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedrounds_common.disk import add_line, cut_short, last_line, locked
from fedrounds_common.errors import RunFileError

START = "0" * 64


def append(file: Path, event: str, facts: Mapping[str, Any], now: datetime | None = None) -> dict[str, Any]:
    """Write one line: n (from 1), time (UTC), event, facts, `before` (sum of the line before) and its own `sum`.

    A last line that a crash cut short was never there: it is taken away, and a line says so.

    Raises:
        RunFileError: FR-F40 the last line is not as it was written; nothing is added to a broken chain.
    """
    with locked(file):
        cut, text = cut_short(file), last_line(file)
        last = _read(text) if text else None
        if text and (last is None or last["sum"] != _sum(last)):
            raise _broken(file, "the last line")
        if cut:
            last = _add(file, last, "cut short", {"bytes": cut}, now)
        return _add(file, last, event, facts, now)


def _add(
    file: Path, last: Mapping[str, Any] | None, event: str, facts: Mapping[str, Any], now: datetime | None
) -> dict[str, Any]:
    line = {
        "n": 1 if last is None else last["n"] + 1,
        "time": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        "event": event,
        "facts": dict(facts),
        "before": START if last is None else last["sum"],
    }
    line["sum"] = _sum(line)
    add_line(file, line)
    return line


def read(file: Path) -> tuple[dict[str, Any], ...]:
    """Every line, each checked against the one before.

    Raises:
        RunFileError: FR-F40 naming the first line that is not as it was written.
    """
    return tuple(_lines(file))


def verify(file: Path) -> tuple[int, str]:
    """How many lines there are and the sum of the last, which stands for all of them. Raises as `read`."""
    lines = read(file)
    return len(lines), lines[-1]["sum"] if lines else START


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if not file.exists():
        return
    before = START
    with file.open("rb") as stream:
        for number, text in enumerate(stream, 1):
            if not text.endswith(b"\n"):
                return  # a crash cut it short: it was never there
            line = _read(text)
            if line is None or line["n"] != number or line["before"] != before or line["sum"] != _sum(line):
                raise _broken(file, f"line {number}")
            before = line["sum"]
            yield line


def _broken(file: Path, what: str) -> RunFileError:
    return RunFileError(
        "FR-F40", f"{what} is not as it was written", wanted="a chain without a gap",
        do="keep the file, and find out who could write it", where=file.name,
    )  # fmt: skip


def _read(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    wanted = {"n", "time", "event", "facts", "before", "sum"}
    return line if isinstance(line, dict) and set(line) == wanted else None


def _sum(line: Mapping[str, Any]) -> str:
    said = {name: value for name, value in line.items() if name != "sum"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
