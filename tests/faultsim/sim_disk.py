"""Disks that can lose what POSIX lets a crash lose, under the one port that every write of ours goes through.

The files are real ones in memory (/dev/shm), so every reader reads as ever. Beside them stands what would be left
after a power cut: bytes that no fsync of their file covered may be missing, short or zeros, and names that no fsync
of their folder covered may be gone, or the old ones may be back. A process that is only killed loses nothing.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

from fedrounds_common.disk import Data, Steps, SystemSteps, forget_settled

Happens = Literal["", "before", "after", "torn", "full", "broken"]
Loss = Literal["killed", "power", "least"]  # nothing; by draw; everything that was not synced


class Crash(BaseException):
    """The machine or the process is gone: nothing of the program runs on, not even its `except Exception`."""


@final
@dataclass(eq=False)
class Inode:
    """`synced`: its bytes as of the last fsync, or None where they are what the file holds now."""

    synced: bytes | None = None


GONE = Inode()


@final
@dataclass
class FaultyDisk:
    """One machine's disk. `draw` says what happens at each step; after a crash nothing more is written until `restart`."""

    root: Path
    draw: Callable[[str, Path], Happens] = lambda step, file: ""
    steps: int = 0
    down: bool = False
    _then: Happens = ""
    _system: SystemSteps = field(default_factory=SystemSteps)
    _now: dict[Path, Inode | None] = field(default_factory=dict)  # as the program sees it; None is a folder
    _kept: dict[Path, Inode | None] = field(default_factory=dict)  # as of the last fsync of each folder
    _pending: dict[Path, list[tuple[Path | None, Path | None, Inode | None]]] = field(default_factory=dict)
    _handles: dict[int, tuple[Path, Inode]] = field(default_factory=dict)

    # ------------------------------------------------------------ steps

    def open(self, file: Path, flags: int, mode: int) -> int:
        new = not file.exists()
        self._step("open", file)
        handle = self._system.open(file, flags, mode)
        inode = self._inode(file, new)
        if new:
            self._named(None, file, inode)
            inode.synced = b""
        self._handles[handle] = file, inode
        self._done()
        return handle

    def write(self, handle: int, data: Data) -> None:
        file, inode = self._handles[handle]
        happens = self._happens("write", file)
        self._dirty(file, inode)
        if happens in ("torn", "full"):
            self._system.write(handle, memoryview(data).cast("B")[: len(data) // 2])
            if happens == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            self._fall()
        self._system.write(handle, data)
        self._done()

    def sync(self, handle: int) -> None:
        file, inode = self._handles[handle]
        if self._happens("fsync", file) in ("full", "broken"):
            raise OSError(errno.EIO, "Input/output error")
        inode.synced = None
        self._done()

    def close(self, handle: int) -> None:
        self._handles.pop(handle, None)
        self._system.close(handle)

    def rename(self, file: Path, target: Path) -> None:
        self._step("rename", target)
        inode = self._inode(file, False)
        if target.exists():
            self._keep_bytes(target, self._inode(target, False))
        self._system.rename(file, target)
        self._named(file, target, inode)
        self._done()

    def unlink(self, file: Path) -> None:
        self._step("unlink", file)
        if file.exists():
            self._gone(file)
            self._system.unlink(file)
        self._done()

    def truncate(self, file: Path, size: int) -> None:
        self._step("truncate", file)
        self._dirty(file, self._inode(file, False))
        self._system.truncate(file, size)
        self._done()

    def make_folder(self, folder: Path, mode: int) -> None:
        self._step("mkdir", folder)
        if not folder.exists():
            self._system.make_folder(folder, mode)
            self._named(None, folder, None)
        self._done()

    def remove_folder(self, folder: Path) -> None:
        if not folder.exists():
            return
        for file in sorted(folder.rglob("*"), reverse=True):
            self._step("unlink", file)
            self._gone(file)
            file.rmdir() if file.is_dir() else file.unlink()
            self._done()
        self._step("rmdir", folder)
        self._gone(folder)
        folder.rmdir()
        self._done()

    def sync_folder(self, folder: Path) -> None:
        if self._happens("fsync folder", folder) in ("full", "broken"):
            raise OSError(errno.EIO, "Input/output error")
        self._settle(folder)
        self._done()

    # ------------------------------------------------------------ what happens at a step

    def _happens(self, step: str, file: Path) -> Happens:
        if self.down:
            raise Crash
        self.steps += 1
        self._then = ""
        happens = self.draw(step, file)
        if happens == "before" or (happens == "torn" and step != "write"):
            self._fall()
        self._then = happens
        return happens

    def _step(self, step: str, file: Path) -> None:
        if self._happens(step, file) in ("full", "broken") and step in ("open", "rename", "mkdir"):
            raise OSError(errno.ENOSPC, "No space left on device")

    def _done(self) -> None:
        if self._then == "after":
            self._fall()

    def _fall(self) -> None:
        self.down = True
        raise Crash

    # ------------------------------------------------------------ what is on disk for good

    def _inode(self, file: Path, new: bool) -> Inode:
        if new:
            return Inode()
        inode = self._now.get(file)
        if inode is None:  # from before: it is on disk
            inode = self._now[file] = self._kept[file] = Inode()
        return inode

    def _dirty(self, file: Path, inode: Inode) -> None:
        if inode.synced is None:
            inode.synced = file.read_bytes()

    def _keep_bytes(self, file: Path, inode: Inode | None) -> None:
        """Before the name goes: it may come back."""
        if inode is not None and inode.synced is None:
            inode.synced = file.read_bytes()

    def _named(self, old: Path | None, new: Path, inode: Inode | None) -> None:
        if old is not None:
            self._now.pop(old, None)
        self._now[new] = inode
        self._pending.setdefault(new.parent, []).append((old, new, inode))

    def _gone(self, file: Path) -> None:
        if file not in self._now:
            self._now[file] = self._kept[file] = None if file.is_dir() else Inode()
        inode = self._now.pop(file)
        self._keep_bytes(file, inode)
        self._pending.setdefault(file.parent, []).append((file, None, None))

    def _settle(self, folder: Path, count: int | None = None) -> None:
        for old, new, inode in self._pending.pop(folder, [])[:count]:
            if old is not None and self._kept.pop(old, GONE) is None:
                for file in [file for file in self._kept if old in file.parents]:
                    del self._kept[file]  # a folder that is gone for good takes along what was in it
                for inner in [inner for inner in self._pending if inner == old or old in inner.parents]:
                    del self._pending[inner]
            if new is not None:
                self._kept[new] = inode

    # ------------------------------------------------------------ a crash

    def restart(self, loss: Loss, rng: random.Random) -> None:
        """Leave on the real files what a crash leaves, and let writing begin again."""
        self.down = False
        self._handles.clear()
        forget_settled()
        if loss != "killed":
            touched = {*self._now, *self._kept}
            before = dict(self._now)
            for folder in sorted(self._pending):
                pending = len(self._pending.get(folder, ()))
                self._settle(folder, 0 if loss == "least" else rng.choice([0, rng.randint(0, pending), pending]))
            contents = {file: self._left(file, before, loss, rng) for file in sorted(self._standing())}
            self._lay_out(touched, contents)
        self._now.clear()
        self._kept.clear()
        self._pending.clear()

    def _standing(self) -> Iterator[Path]:
        for file in self._kept:
            # what is in a folder whose own name is lost is lost too
            if all(folder in self._kept or folder not in self._now for folder in file.parents):
                yield file

    def _left(self, file: Path, before: dict[Path, Inode | None], loss: Loss, rng: random.Random) -> bytes | None:
        """The bytes of a file that stands; None is a folder."""
        inode = self._kept[file]
        if inode is None:
            return None
        place = next((name for name, other in before.items() if other is inode), None)
        now = place.read_bytes() if place is not None else inode.synced
        if inode.synced is None:
            return now or b""
        if loss == "least" or now is None:
            return inode.synced
        return rng.choice([inode.synced, now, _torn(inode.synced, now, rng), _zeros(inode.synced, now)])

    def _lay_out(self, touched: set[Path], contents: dict[Path, bytes | None]) -> None:
        for file in sorted(touched - set(contents), reverse=True):
            if file.is_dir():
                for inner in sorted(file.rglob("*"), reverse=True):
                    inner.rmdir() if inner.is_dir() else inner.unlink()
                file.rmdir()
            elif file.exists():
                file.unlink()
        for file, data in contents.items():
            if data is None:
                file.mkdir(parents=True, exist_ok=True)
            elif not file.exists() or file.read_bytes() != data:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)


def _torn(synced: bytes, now: bytes, rng: random.Random) -> bytes:
    """Part of what was written since."""
    if now.startswith(synced):
        return now[: rng.randint(len(synced), len(now))]
    return now[: rng.randint(0, len(now))]


def _zeros(synced: bytes, now: bytes) -> bytes:
    """The length is on disk and the bytes are not."""
    return synced[: len(now)] + bytes(max(0, len(now) - len(synced)))


@final
@dataclass
class Disks:
    """Every machine's disk behind one port, by where a file lies; what lies on none is the system's own."""

    machines: tuple[FaultyDisk, ...]
    _system: SystemSteps = field(default_factory=SystemSteps)
    _handles: dict[int, Steps] = field(default_factory=dict)
    _roots: dict[str, FaultyDisk] = field(default_factory=dict)

    def _of(self, file: Path) -> Steps:
        text = os.fspath(file)
        for machine in self.machines:
            if text.startswith(os.fspath(machine.root)):
                return machine
        return self._system

    def open(self, file: Path, flags: int, mode: int) -> int:
        machine = self._of(file)
        handle = machine.open(file, flags, mode)
        self._handles[handle] = machine
        return handle

    def write(self, handle: int, data: Data) -> None:
        self._handles[handle].write(handle, data)

    def sync(self, handle: int) -> None:
        self._handles[handle].sync(handle)

    def close(self, handle: int) -> None:
        self._handles.pop(handle).close(handle)

    def rename(self, file: Path, target: Path) -> None:
        self._of(file).rename(file, target)

    def unlink(self, file: Path) -> None:
        self._of(file).unlink(file)

    def truncate(self, file: Path, size: int) -> None:
        self._of(file).truncate(file, size)

    def make_folder(self, folder: Path, mode: int) -> None:
        self._of(folder).make_folder(folder, mode)

    def remove_folder(self, folder: Path) -> None:
        self._of(folder).remove_folder(folder)

    def sync_folder(self, folder: Path) -> None:
        self._of(folder).sync_folder(folder)
