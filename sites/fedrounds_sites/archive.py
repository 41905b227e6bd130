"""The files of a tar archive, held in memory: nothing of it is ever written to disk, and no name of it is trusted."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath

from fedrounds_common.errors import DataError
from fedrounds_sites.files import open_regular

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LIMIT_BYTES = 2**30  # unpacked: all of it is held in memory
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError)


def is_archive(file: Path) -> bool:
    return file.is_file() and file.name.lower().endswith(SUFFIXES)


def members(file: Path) -> Mapping[str, bytes]:
    """Name → content of every plain file in the archive; hidden ones are left out. Read once a process.

    Raises:
        DataError: FR-D45 it cannot be read; FR-D46 a name leads out of the archive; FR-D16 it unpacks to more than
            `LIMIT_BYTES`.
    """
    status = file.stat()
    return _members(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1)
def _members(file: Path, size: int, modified: int) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    with open_regular(file) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|*") as archive:
                for member in archive:
                    total += member.size  # what is passed over is unpacked too
                    _refuse(member.name, total, file)
                    content = archive.extractfile(member) if member.isreg() and not _hidden(member.name) else None
                    if content is not None:
                        found[PurePosixPath(member.name).as_posix()] = content.read()
        except _DAMAGED as error:
            said = f"cannot be read ({type(error).__name__}: {str(error)[:200]})"
            raise DataError("FR-D45", said, wanted="a whole tar archive", do="copy it again", where=str(file)) from None
    return found


def _refuse(name: str, total: int, file: Path) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        do = "do not unpack it: ask where it comes from"
        wanted = "names below the archive's own folder"
        raise DataError("FR-D46", f"holds a file called {name!r}", wanted=wanted, do=do, where=str(file))
    if total > LIMIT_BYTES:
        do = f"unpack it (tar -xf {file.name}), and name the folder"
        wanted = f"at most {LIMIT_BYTES // 2**20} MiB of an archive that is read as it is"
        raise DataError("FR-D16", f"unpacks to more than {total // 2**20} MiB", wanted=wanted, do=do, where=str(file))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part != "." for part in PurePosixPath(name).parts)
