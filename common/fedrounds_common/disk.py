"""Writing so that a reader sees the old file or the new one, even after a crash. Every part of ours writes here."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path


def write_whole(file: Path, *parts: bytes | memoryview) -> None:
    """Write the parts end to end: a temporary file beside it, fsync, rename, fsync of the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own: two processes that write the same file must not write into one half
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as stream:
            for data in parts:
                stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself is on disk only after its folder is
    finally:
        os.close(folder)


def write_text(file: Path, text: str) -> None:
    write_whole(file, text.encode())


def write_json(file: Path, value: object) -> None:
    write_text(file, json.dumps(value, sort_keys=True, indent=1) + "\n")


def add_line(file: Path, value: object) -> None:
    """Append one JSON line and have it on disk before going on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        if stream.tell() and os.pread(stream.fileno(), 1, stream.tell() - 1) != b"\n":
            stream.write(b"\n")  # a crash cut the last line short: it must not take this one along
        stream.write(json.dumps(value, sort_keys=True).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def add_text(file: Path, text: str) -> None:
    """Append lines to a log."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # an old file's name may hold bytes that are no text
    with file.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text.rstrip() + "\n")
