"""Writing so that a reader sees the old file or the new one, even after a crash. Every part of ours writes here.

A name is on disk only once its folder is: so every new file, folder and renamed file is followed by an fsync of
the folder that it stands in. What a process finds may be what another, killed in the middle, could not finish: it is
read back from memory and gone after a power cut. Who goes on from it has it on disk first (`settle`). Each primitive step goes through `Steps`, so that a test can make any of them fail
and can work out what a crash there leaves (`through`).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, final

from fedrounds_common.spans import timed

BLOCK = 8192
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND
Data = bytes | memoryview


class Steps(Protocol):
    """The steps that every write of ours is made of. Each raises OSError where the operating system refuses it."""

    def open(self, file: Path, flags: int, mode: int) -> int: ...

    def write(self, handle: int, data: Data) -> None: ...

    def sync(self, handle: int) -> None: ...

    def close(self, handle: int) -> None: ...

    def rename(self, file: Path, target: Path) -> None: ...

    def unlink(self, file: Path) -> None: ...

    def truncate(self, file: Path, size: int) -> None: ...

    def make_folder(self, folder: Path, mode: int) -> None: ...

    def remove_folder(self, folder: Path) -> None: ...

    def sync_folder(self, folder: Path) -> None: ...


@final
class SystemSteps:
    """The operating system's own."""

    def open(self, file: Path, flags: int, mode: int) -> int:
        return os.open(file, flags | os.O_CLOEXEC, mode)

    def write(self, handle: int, data: Data) -> None:
        left = memoryview(data).cast("B")
        while left:
            left = left[os.write(handle, left) :]

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def close(self, handle: int) -> None:
        os.close(handle)

    def rename(self, file: Path, target: Path) -> None:
        file.replace(target)

    def unlink(self, file: Path) -> None:
        file.unlink(missing_ok=True)

    def truncate(self, file: Path, size: int) -> None:
        os.truncate(file, size)

    def make_folder(self, folder: Path, mode: int) -> None:
        folder.mkdir(mode, exist_ok=True)

    def remove_folder(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_steps: Steps = SystemSteps()
_settled: set[Path] = set()  # folders whose names this process knows to be on disk


@contextmanager
def through(steps: Steps) -> Iterator[None]:
    """Within, every write of this process is made of these steps."""
    global _steps
    before, _steps = _steps, steps
    forget_settled()
    try:
        yield
    finally:
        _steps = before


def steps_now() -> Steps:
    """What writes are made of at present: for who wraps them in steps of his own."""
    return _steps


def forget_settled() -> None:
    """Know of no folder any more that it is on disk, as a process that has just started."""
    _settled.clear()


@timed("disk")
def write_whole(file: Path, *parts: Data, private: bool = False) -> None:
    """Write the parts end to end: a temporary file beside it, fsync, rename, fsync of the folder.

    Args:
        private: only this account may open the file, and the folders that are made for it.
    """
    _make_folders(file.parent, 0o700 if private else 0o777)
    # a name of its own: two processes that write the same file must not write into one half
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        _write_new(part, 0o600 if private else 0o666, parts)
        _steps.rename(part, file)
    except BaseException:
        _steps.unlink(part)
        raise
    _steps.sync_folder(file.parent)  # the rename itself is on disk only after its folder is


def write_private(file: Path, data: bytes) -> None:
    """Write a file that only its owner may open, from its first byte on. Raises FileExistsError: it is there."""
    _make_folders(file.parent, 0o700)
    _write_new(file, 0o600, (data,))
    _steps.sync_folder(file.parent)


def _write_new(file: Path, mode: int, parts: tuple[Data, ...]) -> None:
    handle = _steps.open(file, NEW, mode)
    try:
        for data in parts:
            _steps.write(handle, data)
        _steps.sync(handle)
    finally:
        _steps.close(handle)


def _make_folders(folder: Path, mode: int = 0o777) -> None:
    """Make the folders that are missing, each on disk in the one above it."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    if folder not in _settled:
        # whoever made it may have been stopped before its name was on disk; one above that is closed to us is not ours
        with suppress(PermissionError):
            _steps.sync_folder(folder.parent)
        _settled.add(folder)
    for new in reversed(missing):
        _settled.discard(new)
        _steps.make_folder(new, mode)
        _steps.sync_folder(new.parent)
        _settled.add(new)


@final
class Scratch:
    """Room on disk for what need not outlive this process: a file without a name, gone when it is closed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (closed by close, or with the process)

    def write_at(self, data: Data | bytearray, start: int) -> None:
        left = memoryview(data).cast("B")
        while left:
            written = os.pwrite(self._file.fileno(), left, start)
            left, start = left[written:], start + written

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill the buffer with what stands from there on; what was never written there is left as it is."""
        while buffer and (count := os.preadv(self._file.fileno(), [buffer], start)):
            buffer, start = buffer[count:], start + count

    def close(self) -> None:
        self._file.close()


@timed("disk")
def settle(file: Path) -> None:
    """Have on disk what is in this file by now, and its name."""
    handle = _steps.open(file, os.O_RDONLY, 0)
    try:
        _steps.sync(handle)
    finally:
        _steps.close(handle)
    _make_folders(file.parent)
    _steps.sync_folder(file.parent)


def write_text(file: Path, text: str) -> None:
    write_whole(file, text.encode())


def write_json(file: Path, value: object) -> None:
    write_text(file, json.dumps(value, sort_keys=True, indent=1) + "\n")


@timed("disk")
def add_line(file: Path, value: object) -> None:
    """Append one JSON line and have it on disk before going on."""
    _make_folders(file.parent)
    line = json.dumps(value, sort_keys=True).encode() + b"\n"
    handle = _steps.open(file, APPEND, 0o666)
    try:
        size = os.fstat(handle).st_size
        # a crash cut the last line short: it must not take this one along
        cut = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        if size == 0:
            _steps.sync_folder(file.parent)  # the file may be new; before a byte is in it by which it looks old
        _steps.write(handle, b"\n" + line if cut else line)
        _steps.sync(handle)
    finally:
        _steps.close(handle)


@timed("disk")
def add_text(file: Path, text: str) -> None:
    """Append lines to a log, which a crash may cut short."""
    _make_folders(file.parent)
    handle = _steps.open(file, APPEND, 0o666)
    try:
        # an old file's name may hold bytes that are no text
        _steps.write(handle, (text.rstrip() + "\n").encode(errors="backslashreplace"))
    finally:
        _steps.close(handle)


def remove_file(file: Path) -> None:
    """Take a file away; none there is no error."""
    _steps.unlink(file)


@timed("disk")
def remove_folder(folder: Path) -> None:
    """Take a folder away with all that is in it, for good: after a power cut it does not come back. None there is
    no error."""
    if folder.exists():
        _steps.remove_folder(folder)
        with suppress(PermissionError):
            _steps.sync_folder(folder.parent)


def cut_short(file: Path) -> int:
    """Take away a last line without its end, as a crash leaves it; returns how many bytes it had."""
    if not file.exists():
        return 0
    size = file.stat().st_size
    whole = _after_last_newline(file, size)
    if whole < size:
        _steps.truncate(file, whole)
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
