"""The ledger: one line in `outbox.jsonl` for every payload that left this site, written before it leaves."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from fedrounds_common.disk import add_line
from fedrounds_common.leaving import Leaving, scalars_of, signed_bytes, to_wire
from fedrounds_common.letter import Letter
from fedrounds_common.signing import SigningKey
from fedrounds_common.spans import timed

FORMAT = 1


def enter(file: Path, message: Leaving, purpose: str) -> tuple[str, bytes]:
    """Write down what is about to leave, and return it as it will travel: header and buffer."""
    return enter_signed(file, message, purpose, None)[:2]


def enter_signed(file: Path, message: Leaving, purpose: str, key: SigningKey | None) -> Letter:
    """As `enter`, signed with the site's key: what is written down is what the signature is over."""
    header, buffer = to_wire(message)
    signature = key.sign(signed_bytes(header, buffer)) if key is not None else b""
    enter_packed(file, message, purpose, (header, buffer, signature))
    return header, buffer, signature


@timed("serialise")
def enter_packed(file: Path, message: Leaving, purpose: str, letter: Letter) -> None:
    """Write down what leaves as it is: `message` packed and signed before."""
    header, buffer, signature = letter
    line = {
        "format": FORMAT,
        "kind": message.kind,
        "purpose": purpose,
        "bytes": len(header.encode()) + len(buffer),
        "sha256": payload_digest(header, buffer),
        "says": scalars_of(message),
    }
    if signature:
        line["signature"] = base64.b64encode(signature).decode()
    add_line(file, line)


def payload_digest(header: str, buffer: bytes) -> str:
    """SHA-256 of a payload, by which the records of both ends are compared."""
    found = hashlib.sha256(header.encode())
    found.update(buffer)  # not joined first: that would be one more copy of a model
    return found.hexdigest()


def entries(file: Path) -> list[dict[str, Any]]:
    """Every line, in order; one that a crash cut short was written before its payload left, and is passed over."""
    if not file.exists():
        return []
    found = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"kind", "purpose", "bytes", "sha256", "says"} <= set(line):
            found.append(line)
    return found
