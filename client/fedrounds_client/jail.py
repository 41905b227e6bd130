"""Walls around the process that trains: no network, data that cannot be written, a limit on memory (Linux).

All of it is taken by the process itself before it imports anything large, and cannot be given back:
the capabilities that it took are dropped at the end. What the machine does not allow is said, not hidden.

Source: unshare(2), user_namespaces(7), mount(2) `MS_REMOUNT`, capget(2), setrlimit(2) `RLIMIT_DATA`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
# statvfs's names of the flags that a remount in a user namespace must keep; mount(2)'s numbers are the same
KEPT_FLAGS = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CAPABILITY_VERSION_3 = 0x20080522
# a root account reads other people's files by these; none of them undoes a wall
KEPT_CAPABILITIES = sum(1 << number for number in (0, 1, 2, 3))  # CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER


@final
@dataclass(frozen=True)
class Walls:
    """What is wanted. `memory_gb` 0: no limit. `read_only`: folders that may not be written to."""

    network: bool = True
    memory_gb: float = 0.0
    read_only: tuple[Path, ...] = ()


def bare_environment() -> dict[str, str]:
    """What a process behind the walls needs: no proxy, whose address may hold a password, and nothing of Flower's."""
    hidden = ("FLWR_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(hidden)}


def shut_in(walls: Walls) -> tuple[str, ...]:
    """Raise the walls around this process, which must have one thread only.

    Returns:
        What could not be had here, one line each; empty if everything stands.
    """
    missing: list[str] = []
    if sys.platform != "linux":
        return ("no walls on this system: only Linux has them",)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _enter_namespaces(libc, network=walls.network)
    except OSError as error:
        missing.append(f"network and data are not walled off: {error.strerror}")
    else:
        missing += _write_protect(libc, walls.read_only)
    if walls.memory_gb:
        limit = int(walls.memory_gb * 1e9)
        # not RLIMIT_AS: a GPU's driver reserves far more addresses than it ever uses
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold images
    _drop_capabilities(libc)
    return tuple(missing)


def _enter_namespaces(libc: ctypes.CDLL, *, network: bool) -> None:
    """New mounts, and a network without any device; as root at once, else inside a user namespace of its own."""
    wanted = CLONE_NEWNS | (CLONE_NEWNET if network else 0)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(wanted) != 0:
        _checked(libc.unshare(wanted | CLONE_NEWUSER))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    # what is mounted from here on must not show outside
    _checked(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))


def _write_protect(libc: ctypes.CDLL, folders: Sequence[Path]) -> list[str]:
    missing = []
    for folder in folders:
        name = os.fsencode(folder.resolve())
        try:
            _checked(libc.mount(name, name, None, MS_BIND | MS_REC, None))
            kept = os.statvfs(name).f_flag & KEPT_FLAGS
            _checked(libc.mount(None, name, None, MS_REMOUNT | MS_BIND | MS_RDONLY | kept, None))
        except OSError as error:
            missing.append(f"{folder} can be written to by the process that trains: {error.strerror}")
    return missing


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Keep those only that open files; nothing started from here gains any."""
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(24)  # two of (effective, permitted, inheritable)
    if libc.capget(header, data) != 0:
        return
    effective, permitted, _, *_ = struct.unpack("=6I", data.raw)
    kept = (effective & KEPT_CAPABILITIES, permitted & KEPT_CAPABILITIES, 0, 0, 0, 0)
    libc.capset(header, ctypes.create_string_buffer(struct.pack("=6I", *kept)))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with(parent: int, by: int = signal.SIGKILL) -> None:
    """Have the system end this process when its parent ends. After `shut_in`: gaining rights takes it back."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(by), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before this could be said


def can_be_walled() -> str:
    """Why a child process cannot be shut in here; empty if it can. Tried in a child, which then ends."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, "; ".join(shut_in(Walls())).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read().decode()
    os.waitpid(child, 0)
    return said
