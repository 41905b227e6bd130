"""Which app bundles may be run here: ours, which hold studies and nothing executable.

Flower sends a bundle with every run and installs it as it came. Here it is opened in memory first, and
everything that is not on the list below refuses the whole of it: code never travels to a hospital.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from fedrounds_common.errors import RefusedError

# by whole name, so that `..`, a leading slash, a backslash and every kind of program are out
ALLOWED = re.compile(
    r"pyproject\.toml|LICENSE|NOTICE|README\.md|studies/[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\.toml|\.info/CONTENT"
)
COMPONENTS = {"serverapp": "fedrounds_server.app:app", "clientapp": "fedrounds_client.app:app"}
PACKED, UNPACKED, FILES = 2_000_000, 8_000_000, 200  # bytes, bytes, entries


def check_bundle(content: bytes, named: str) -> None:
    """Raise RefusedError FR-E47 unless every part of a bundle is one that may be here.

    Args:
        content: the bundle as it came.
        named: the SHA-256 that the run gives for it.
    """
    digest = hashlib.sha256(content).hexdigest()
    faults = _faults(content) if digest == named else iter([f"the run names another bundle, {named[:16]}"])
    for fault in faults:
        raise RefusedError(
            "FR-E47", f"an app bundle that may not run here: {fault}", wanted="studies, and nothing executable",
            do="ask the coordinator what was sent", where=f"sha256 {digest}",
        )  # fmt: skip


def _faults(content: bytes) -> Iterator[str]:
    if len(content) > PACKED:
        yield f"{len(content)} bytes; at most {PACKED} are read"
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            wrong = list(_wrong_entries(entries))
            yield from wrong
            if not wrong:
                yield from _wrong_project(archive.read("pyproject.toml"))
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        yield f"it cannot be read ({type(error).__name__})"


def _wrong_entries(entries: list[zipfile.ZipInfo]) -> Iterator[str]:
    if len(entries) > FILES or sum(entry.file_size for entry in entries) > UNPACKED:
        yield f"{len(entries)} files of {sum(entry.file_size for entry in entries)} bytes; too many"
    if len({entry.filename for entry in entries}) != len(entries):
        yield "one name twice"
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if ALLOWED.fullmatch(entry.filename) is None:
            yield f"it holds {entry.filename[:80]!r}"
        elif kind not in (0, stat.S_IFREG):
            yield f"{entry.filename} is no plain file"
        elif entry.flag_bits & 1:
            yield f"{entry.filename} is encrypted"


def _wrong_project(text: bytes) -> Iterator[str]:
    project: Mapping[str, Any] = tomllib.loads(text.decode())
    app = project.get("tool", {}).get("flwr", {}).get("app", {})
    components = app.get("components", {}) if isinstance(app, dict) else {}
    if components != COMPONENTS:
        yield f"its entry points are {components!r:.120}"
    dependencies = project.get("project", {}).get("dependencies", [])
    extra = [line for line in dependencies if not _is_here(str(line))]
    if extra:
        yield f"it wants {', '.join(map(str, extra))[:120]} installed"


def _is_here(line: str) -> bool:
    """Whether a dependency is met by what this site's own staff installed."""
    try:
        wanted = Requirement(line)
        return wanted.url is None and wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False
