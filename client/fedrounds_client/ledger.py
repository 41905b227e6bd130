"""The ledger: one line in `outbox.jsonl` for every payload that left this site, written before it leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedrounds_common.disk import add_line
from fedrounds_common.leaving import Leaving, scalars_of, to_wire

FORMAT = 1


def enter(file: Path, message: Leaving, purpose: str) -> tuple[str, bytes]:
    """Write down what is about to leave, and return it as it will travel: header and buffer."""
    header, buffer = to_wire(message)
    line = {
        "format": FORMAT,
        "kind": message.kind,
        "purpose": purpose,
        "bytes": len(header.encode()) + len(buffer),
        "sha256": hashlib.sha256(header.encode() + buffer).hexdigest(),
        "says": scalars_of(message),
    }
    add_line(file, line)
    return header, buffer
