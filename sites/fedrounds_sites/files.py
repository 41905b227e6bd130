"""Open and write files so that a wrong or hostile folder can neither hang a read nor leave half a file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from fedrounds_common.errors import CaseError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(file: Path, *, case: str = "", follow_links: bool = False) -> BinaryIO:
    """Open a plain file for reading; never waits for a pipe's writer.

    Raises:
        CaseError: FR-D13 it is a link, folder, pipe or device; FR-D12 it cannot be opened.
    """
    # without O_NONBLOCK the open of a named pipe sleeps until somebody writes to it
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(file, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_regular(file, "a symbolic link", case) from None
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise _not_regular(file, "not a plain file", case) from None
        raise CaseError(
            "FR-D12",
            f"cannot be opened ({os.strerror(error.errno or 0)})",
            case=case,
            wanted="a file this account may read",
            do="check that it is there and its permissions",
            where=str(file),
        ) from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise _not_regular(file, next((name for test, name in _KINDS if test(mode)), "not a plain file"), case)
    return os.fdopen(handle, "rb")


def _not_regular(file: Path, found: str, case: str) -> CaseError:
    return CaseError(
        "FR-D13",
        f"is {found}",
        case=case,
        wanted="a plain file",
        do="put the file itself there" + (", or set follow_links = true" if "link" in found else ""),
        where=str(file),
    )
