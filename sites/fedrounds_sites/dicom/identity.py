"""Who a DICOM file is of, as pseudonyms: the identifiers themselves are hashed where they are read."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

from fedrounds_common.errors import DataError
from fedrounds_sites.dicom.headers import guarded, has_image, read_elements

_WHO = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID", "Rows", "Columns")


@final
@dataclass(frozen=True)
class Identity:
    """Twelve hexadecimal digits each after a letter; "" where the file tells nothing."""

    patient: str
    study: str
    image: str


def read_identity(file: Path, key: bytes, *, follow_links: bool = False) -> Identity | None:
    """Pseudonyms of a file's patient, study and image; None if it holds no DICOM image.

    The same key and identifier give the same pseudonym. Without a key, whoever has a list of all
    patient numbers can find the one behind a pseudonym by trying them.

    Raises:
        CaseError: FR-D12, FR-D13, FR-D50 as `headers.read_header`.
    """
    try:
        status = os.stat(file, follow_symlinks=follow_links)
    except OSError:
        return _remembered(str(file), -1, -1, key, follow_links)  # which says why it cannot be opened
    return _remembered(str(file), status.st_size, status.st_mtime_ns, key, follow_links)


@lru_cache(maxsize=2**17)  # hospitals of one simulation share a folder, and each lists it
def _remembered(file: str, size: int, modified: int, key: bytes, follow_links: bool) -> Identity | None:
    path = Path(file)
    dataset = read_elements(path, "", _WHO, follow_links=follow_links)
    if dataset is None or not has_image(dataset, path, ""):
        return None

    def pseudonym(letter: str, element: str) -> str:
        value = str(dataset.get(element) or "").strip()
        return pseudonymous(letter, value, key) if value else ""

    return guarded(
        lambda: Identity(
            pseudonym("P", "PatientID"), pseudonym("S", "StudyInstanceUID"), pseudonym("I", "SOPInstanceUID")
        ),
        path,
        "",
    )


def pseudonymous(letter: str, value: str, key: bytes) -> str:
    """HMAC-SHA256, cut to 48 bits: the chance that any two of a million patients share one is 0.2 %."""
    digest = hmac.new(key or b"fedrounds", f"{letter}\0{value}".encode(), hashlib.sha256)
    return letter + digest.hexdigest()[:12]


def read_key(file: Path | None) -> bytes:
    """The secret of a site's pseudonyms.

    Raises:
        DataError: FR-D53 the file is not there or is empty.
    """
    if file is None:
        return b""
    try:
        key = file.read_bytes().strip()
    except OSError as error:
        raise _no_key(file, error.strerror or "cannot be read") from None
    if not key:
        raise _no_key(file, "is empty")
    return key


def _no_key(file: Path, found: str) -> DataError:
    do = "write one, e.g. with `openssl rand -hex 32`, and keep it at the site"
    return DataError("FR-D53", found, wanted="a file that holds the secret of the pseudonyms", do=do, where=str(file))
