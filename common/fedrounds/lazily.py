"""On disk later: a simulation plays thousands of sites whose files need not each be waited for.

A real site has its own disk and syncs every file before it goes on. In a simulation all sites' files lie beside the
coordinator's, and nothing goes on from them before the round's checkpoint is there: so one sync of the whole file
system before that takes the place of ten thousand. A process that is killed loses nothing either way, for what it wrote
is the system's by then; after a power cut the newest checkpoint finds the sites' files that it was made with.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from fedrounds_common import disk
from fedrounds_common.disk import Data, Steps


@contextmanager
def sites_lazily(run: Path, syncs: bool) -> Iterator[None]:
    """Within, what this process writes below the run's `sites` is not synced file by file.

    Args:
        syncs: this process writes the checkpoints, and has all processes' files on disk before each, and at the end.
    """
    with disk.through(Lazily(disk.steps_now(), run / "sites", run / "checkpoints" if syncs else None)):
        yield
    if syncs:
        sync_all(run)


@final
class Lazily:
    """Steps that leave out the syncs below one folder, and make up for them before a name appears in another."""

    def __init__(self, steps: Steps, lazy: Path, before: Path | None) -> None:
        self._steps, self._before = steps, before
        self._lazy, self._below = str(lazy), f"{lazy}{os.sep}"
        self._handles: set[int] = set()

    def _is_lazy(self, path: Path) -> bool:
        text = str(path)
        return text.startswith(self._below) or text == self._lazy

    def open(self, file: Path, flags: int, mode: int) -> int:
        handle = self._steps.open(file, flags, mode)
        if self._is_lazy(file):
            self._handles.add(handle)
        return handle

    def write(self, handle: int, data: Data) -> None:
        self._steps.write(handle, data)

    def sync(self, handle: int) -> None:
        if handle not in self._handles:
            self._steps.sync(handle)

    def close(self, handle: int) -> None:
        self._handles.discard(handle)  # before its number is somebody else's
        self._steps.close(handle)

    def rename(self, file: Path, target: Path) -> None:
        if self._before is not None and target.parent == self._before:
            sync_all(target.parent)
        self._steps.rename(file, target)

    def unlink(self, file: Path) -> None:
        self._steps.unlink(file)

    def truncate(self, file: Path, size: int) -> None:
        self._steps.truncate(file, size)

    def make_folder(self, folder: Path, mode: int) -> None:
        self._steps.make_folder(folder, mode)

    def remove_folder(self, folder: Path) -> None:
        self._steps.remove_folder(folder)

    def sync_folder(self, folder: Path) -> None:
        if not self._is_lazy(folder):
            self._steps.sync_folder(folder)


def sync_all(folder: Path) -> None:
    """Have everything on disk that any process has written to the file system of this folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if getattr(ctypes.CDLL(None, use_errno=True), "syncfs", lambda _: -1)(handle):
            os.sync()
    finally:
        os.close(handle)
