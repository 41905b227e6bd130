"""Can this machine run fedrounds? Each check is one line: what was found, and what to do if it is not right."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, final

from packaging.requirements import Requirement

from fedrounds.environment import AS_SET, SILENCE, THREADS
from fedrounds.places import constraints_file
from fedrounds_server.engines.ray import LEAST_SHARED_BYTES

Level = Literal["ok", "advice", "fault"]
GB = 1e9


@final
@dataclass(frozen=True)
class Finding:
    what: str
    level: Level
    found: str
    do: str = ""


def examine(runs: Path, as_set: Mapping[str, str | None] = AS_SET) -> tuple[Finding, ...]:
    """Every check. `runs` is the folder that runs are written to; it need not be there.

    `as_set`: the thread variables as the user had them.
    """
    return (
        _python(),
        *_libraries(),
        _no_torchvision(),
        *_threads(as_set),
        _telemetry(),
        _cores(),
        _memory(),
        _disk(runs),
        _ray(Path("/dev/shm")),
        _gpu(),
    )


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _libraries() -> Iterator[Finding]:
    """One line for all that are right, one for each that is not."""
    tried = tried_versions(constraints_file())
    right = 0
    for line in metadata.requires("fedrounds") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        finding = _library(wanted, tried)
        right += finding is None
        if finding is not None:
            yield finding
    yield Finding("libraries", "ok", f"{right} at the versions that were tried")


def _library(wanted: Requirement, tried: Mapping[str, str]) -> Finding | None:
    name = wanted.name
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "fault", "is not installed", f"pip install '{wanted}'")
    if not wanted.specifier.contains(found, prereleases=True):
        return Finding(name, "fault", f"{found}, where {wanted.specifier} is wanted", f"pip install '{wanted}'")
    exact = tried.get(name.lower().replace("_", "-"))
    # torch adds its build behind a plus sign: 2.13.0+cpu
    if exact is not None and found.partition("+")[0] != exact:
        return Finding(name, "advice", f"{found}; {exact} was tried", "install with -c constraints.txt")
    return None


def tried_versions(file: Path) -> dict[str, str]:
    """Name → version of a constraints file; empty if there is none."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)$", text, re.MULTILINE))


def _no_torchvision() -> Finding:
    try:
        found = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return Finding("torchvision", "ok", "not installed, as it should be")
    return Finding("torchvision", "fault", f"{found} is installed and may not fit torch", "pip uninstall torchvision")


def _threads(as_set: Mapping[str, str | None]) -> Iterator[Finding]:
    for name, value in THREADS.items():
        found = as_set.get(name)
        if found is None or found.upper() == value:
            yield Finding(name, "ok", f"{value}{' (set by fedrounds)' if found is None else ''}")
        else:
            yield Finding(
                name, "advice", f"{found}; other threads give other bits, and slow each other", f"unset {name}"
            )


def _telemetry() -> Finding:
    loud = [name for name, value in SILENCE.items() if os.environ.get(name) != value]
    if loud:
        return Finding("telemetry", "fault", f"{', '.join(loud)} not set", "start fedrounds by its own command")
    return Finding("telemetry", "ok", "off: nothing is sent home")


def _cores() -> Finding:
    return Finding("processor cores", "ok", f"{usable_cores()} usable")


def usable_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> Finding:
    free = free_memory_bytes()
    if free is None:
        return Finding("memory", "advice", "cannot be told here")
    found = f"{free / GB:.1f} GB free"
    if free < 1.5 * GB:
        return Finding("memory", "fault", found, "1.5 GB wanted at least: end other programs")
    return Finding(
        "memory", "advice" if free < 4 * GB else "ok", found, "2D and small 3D studies only" if free < 4 * GB else ""
    )


def free_memory_bytes() -> int | None:
    """What this process may still take: the system's, or its container's if that is less."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    available = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    if available is None:
        return None
    free = int(available[1]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text().strip()
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container limit of this kind
        return free


def _disk(runs: Path) -> Finding:
    place = next(folder for folder in (runs.resolve(), *runs.resolve().parents) if folder.is_dir())
    if not os.access(place, os.W_OK):
        return Finding("run folder", "fault", f"{place} cannot be written to", "name another with --runs")
    free = shutil.disk_usage(place).free
    found = f"{free / GB:.1f} GB free for {runs}"
    if free < 0.5 * GB:
        return Finding("run folder", "fault", found, "0.5 GB wanted at least")
    return Finding("run folder", "advice" if free < 5 * GB else "ok", found)


def _ray(place: Path) -> Finding:
    """Whether a Ray of its own could start here, which keeps what it passes on in shared memory."""
    try:
        found = f"Ray {metadata.version('ray')}"
    except metadata.PackageNotFoundError:
        return Finding(
            "engine ray", "advice", "Ray is not installed", 'pip install "flwr[simulation]"; inline needs none'
        )
    free = shutil.disk_usage(place).free if place.is_dir() else 0
    found = f"{found}, {free / GB:.2f} GB of shared memory free"
    if free < LEAST_SHARED_BYTES:  # Docker gives 64 MB unless asked
        return Finding(
            "engine ray", "advice", found, "start the container with --shm-size=1g; engine inline needs none"
        )
    return Finding("engine ray", "ok", found)


def _gpu() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "fault", f"cannot be imported: {error}", "install it anew")
    if not torch.cuda.is_available():
        return Finding("GPU", "ok", f"none; torch {torch.__version__} uses the processor")
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return Finding("GPU", "ok", f"{names} (torch {torch.__version__})")
