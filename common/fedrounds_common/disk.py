"""Writing so that a reader sees the old file or the new one, even after a crash. Every part of ours writes here."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 8192


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


def write_private(file: Path, data: bytes) -> None:
    """Write a file that only its owner may open, from its first byte on. Raises FileExistsError: it is there."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


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


def remove_file(file: Path) -> None:
    """Take a file away; none there is no error."""
    file.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Take a folder away with all that is in it; none there is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def cut_short(file: Path) -> int:
    """Take away a last line without its end, as a crash leaves it; returns how many bytes it had."""
    if not file.exists():
        return 0
    size = file.stat().st_size
    whole = _after_last_newline(file, size)
    if whole < size:
        os.truncate(file, whole)
    return size - whole


def last_line(file: Path) -> bytes:
    """The last whole line without its end, read from the file's end; empty if there is none."""
    if not file.exists() or not (end := _after_last_newline(file, file.stat().st_size)):
        return b""
    start = _after_last_newline(file, end - 1)
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(end - 1 - start)


def _after_last_newline(file: Path, end: int) -> int:
    """Where the line begins that `end` is in: just after the newline before it, or 0."""
    with file.open("rb") as stream:
        while end > 0:
            start = max(0, end - BLOCK)
            stream.seek(start)
            found = stream.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Within, no other process of ours that asks the same is in here: for files that grow line by line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which lets go of the lock
