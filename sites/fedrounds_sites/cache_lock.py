"""Who uses a folder of prepared cases: any number of runs at once, or one that clears it.

Locks of the system's on the folder itself, which go with the process that holds them, however that ends. A disk that
knows no locks holds nobody back.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedrounds_common.errors import UsageError


@contextmanager
def in_use(folder: Path | None) -> Iterator[None]:
    """Within, nobody clears this folder through `unused`; None: there is none."""
    if folder is None:
        yield
        return
    with suppress(OSError):  # a disk that is full or not there is told of when a case is put there
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = _held(folder, fcntl.LOCK_SH)
    try:
        yield
    finally:
        _let_go(handle)


@contextmanager
def unused(folder: Path) -> Iterator[None]:
    """Within, no run begins to use this folder.

    Raises:
        UsageError: FR-U98 one uses it now.
    """
    try:
        handle = _held(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            "FR-U98", "a run uses this folder", wanted="one that nothing uses", do="wait for the run, or end it",
            where=str(folder),
        ) from None  # fmt: skip
    try:
        yield
    finally:
        _let_go(handle)


def _held(folder: Path, how: int) -> int | None:
    """A handle that holds a lock on the folder itself, until it is closed; None where there can be no lock.

    Raises:
        BlockingIOError: it was not to wait, and another one holds it.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, how)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle


def _let_go(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
