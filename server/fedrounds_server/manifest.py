"""`manifest.json`: the SHA-256 of every file that is final when a run ends, so that a later change shows.

It shows accidents: a disk, a copy, a spreadsheet program. It is not signed, so whoever can rewrite
the folder can rewrite it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from fedrounds_common.disk import write_json
from fedrounds_common.errors import RunFileError
from fedrounds_server.folder import read_json

NAME = "manifest.json"
FORMAT = 1
# what goes on changing after the end: logs, what is drawn or judged later, caches
CHANGING = (
    NAME,
    "log",
    "logs/*",
    "sites/*/log",
    "sites/*/cache/*",
    "sites/*/pictures/show-*",
    "evaluation/*",
    "attacks/*",
)

Files = Mapping[str, Mapping[str, Any]]  # path below the run → {"sha256": ..., "bytes": ...}


def write_manifest(run: Path) -> Path:
    """Write down every final file of the run's folder as it is now; returns `manifest.json`."""
    file = run / NAME
    write_json(file, {"format": FORMAT, "files": dict(files_now(run))})
    return file


def read_manifest(run: Path) -> Files:
    """Raises RunFileError: there is none (the run did not end), or it cannot be read."""
    file = run / NAME
    if not file.is_file():
        raise RunFileError(
            "FR-F31", f"{NAME} is missing", wanted="a run that has ended: it is written last",
            do="go on with --resume if the run was interrupted", where=str(run),
        )  # fmt: skip
    says = read_json(file)
    files = says.get("files")
    if says.get("format") != FORMAT or not isinstance(files, dict):
        raise RunFileError("FR-F32", f"{NAME} has format {says.get('format')!r}", wanted=f"format {FORMAT}")
    if not all(isinstance(entry, dict) and {"sha256", "bytes"} <= set(entry) for entry in files.values()):
        raise RunFileError("FR-F32", f"{NAME} was changed", wanted="a digest and a size for every file")
    return files


def files_now(run: Path) -> dict[str, dict[str, Any]]:
    """The final files that are there, with what the manifest would say of each; sorted by path."""
    return {
        file.relative_to(run).as_posix(): {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        for file in _final(run)
    }


def _final(run: Path) -> Iterator[Path]:
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if file.is_file() and not hidden and not any(fnmatch(name, pattern) for pattern in CHANGING):
            yield file


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
