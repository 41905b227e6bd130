"""Find the files of a reader: walk a folder, match names against patterns, group what belongs to one case."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import DataError

Channel = str  # as file names call it; "" where a pattern has no such group
NO_PATTERN = "no pattern fits their names"
FEW = 3  # names that are told of files passed over


@final
@dataclass(frozen=True)
class Files:
    """What was found of one case. More than one path an entry is a fault that `load` reports."""

    ref: CaseRef
    images: dict[Channel, list[Path]] = field(default_factory=dict)
    labels: list[Path] = field(default_factory=list)


def compiled(pattern: str, key: str) -> re.Pattern[str]:
    """Raises DataError FR-D03: not a regular expression, or without a group named `case`."""
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise _bad_pattern(key, pattern, str(error)) from None
    if "case" not in found.groupindex:
        raise _bad_pattern(key, pattern, "has no group (?P<case>...)")
    return found


def _bad_pattern(key: str, pattern: str, found: str) -> DataError:
    return DataError(
        "FR-D03",
        f"{pattern!r}: {found}",
        wanted="a regular expression with a group (?P<case>...), and channel, patient, site as there are",
        do="match the path below the root, e.g. images/(?P<case>[^/]+)\\.nii\\.gz",
        where=key,
    )


def walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Everything below `root`, sorted: (path below root with /, path). Hidden names are left out.

    Folders are named too, because one may stand where a file should; links are not followed.

    Raises:
        DataError: FR-D01 the root is missing or is no folder, or a folder in it may not be read.
    """
    if not root.is_dir():
        raise DataError(
            "FR-D01",
            "is not a folder" if root.exists() else "there is no such folder",
            wanted="the folder that holds the cases",
            do="check root in the reader's table",
            where=str(root),
        )
    for folder, below, files in os.walk(root, onerror=_unreadable):
        # macOS leaves a hidden ._case.nii.gz beside every case of an unpacked archive
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted([*below, *(name for name in files if not name.startswith("."))]):
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


def _unreadable(error: OSError) -> None:
    # passed over in silence, as os.walk would, its cases would be missing and nobody would know
    raise DataError(
        "FR-D01",
        f"cannot be listed ({os.strerror(error.errno or 0)})",
        wanted="folders that this account may read",
        do="check its permissions, or take it out of root",
        where=str(error.filename),
    )


@final
@dataclass(frozen=True)
class Listed:
    """`cases` by name, in order of names; `others`: paths below the root of the files that fit no pattern."""

    cases: Mapping[str, Files]
    others: tuple[str, ...]


def group(root: Path, images: re.Pattern[str], labels: re.Pattern[str]) -> Listed:
    """All cases below `root`.

    Groups of the patterns: `case`; `channel`; `patient` (else each case is its own); `site`, which
    then leads the names of case and patient, since two sites may number alike.

    Raises:
        DataError: FR-D01 as `walk`; FR-D02 nothing matches.
    """
    found: dict[str, Files] = {}
    others: list[str] = []
    seen = 0
    for name, path in walk(root):
        seen += 1
        if match := images.fullmatch(name):
            files = _files(found, match)
            files.images.setdefault(match.groupdict().get("channel") or "", []).append(path)
        elif match := labels.fullmatch(name):
            _files(found, match).labels.append(path)
        elif not path.is_dir():
            others.append(name)
    if not found:
        raise DataError(
            "FR-D02",
            f"none of {seen} files is a case" if seen else "the folder is empty",
            wanted=f"files named like {images.pattern}",
            do="check root, layout and images in the reader's table",
            where=str(root),
        )
    return Listed({name: _whole(found[name]) for name in sorted(found)}, tuple(others))


def _files(found: dict[str, Files], match: re.Match[str]) -> Files:
    ref = _ref(match.groupdict())
    files = found.setdefault(ref.name, Files(ref))
    # a pattern for masks may know less than the one for images: keep whichever names patient and site
    if (ref.patient, ref.site) != (files.ref.patient, files.ref.site) and files.ref.patient == files.ref.name:
        found[ref.name] = files = Files(ref, files.images, files.labels)
    return files


def _whole(files: Files) -> Files:
    for paths in (*files.images.values(), files.labels):
        paths.sort()
    return files


def _ref(groups: Mapping[str, str | None]) -> CaseRef:
    site, patient = groups.get("site"), groups.get("patient")
    lead = f"{plain(site)}_" if site else ""
    name = lead + plain(groups["case"] or "")
    return CaseRef(name, lead + plain(patient) if patient else name, plain(site) if site else None)


def counted(others: Sequence[str]) -> dict[str, int]:
    """Files that fit no pattern, as `Reader.passed_over` tells them."""
    return {NO_PATTERN: len(others)} if others else {}


def named(others: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The same, as `Reader.passed_over_names` does."""
    return {NO_PATTERN: tuple(others[:FEW])} if others else {}


def passed_over_lines(counts: Mapping[str, int], names: Mapping[str, Sequence[str]]) -> list[str]:
    """What a reader passed over, a line a reason: for the log and the screen of the machine that holds the files."""
    lines = []
    for why, count in counts.items():
        example = f", e.g. {', '.join(names[why])}" if names.get(why) else ""
        lines.append(f"{count} file{'s' if count != 1 else ''} passed over: {why}{example}")
    return lines


def plain(text: str) -> str:
    """A name that is safe in a file name, a table and a log: letters, digits, `_`, `.`, `-`, at most 100.

    A changed name ends in a digest of the whole, so that two different names stay different.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip(".-")[:100]
    if safe == text:
        return safe
    return f"{safe[:80]}_{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"


def stamp(paths: Sequence[Path]) -> str:
    """Changes when one of the files does: a digest of names, sizes and times, without reading them."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
            digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
        except OSError:
            digest.update(f"{path.name}\0missing\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
