"""Ed25519 keys (RFC 8032): who says something is known by the key, not by the line it came through.

A site signs every answer with a key of its own, the coordinator every request; invitations, enrolments
and permits are JSON tables with a `signature` entry. The private half is a file that only its owner reads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fedrounds_common.disk import write_private
from fedrounds_common.errors import NetworkError

PREFIX = "ed25519:"
SIGNATURE = "signature"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@final
@dataclass(frozen=True)
class PublicKey:
    """`raw`: the 32 bytes of RFC 8032."""

    raw: bytes

    @classmethod
    def of_text(cls, text: str) -> PublicKey:
        """Raises NetworkError FR-C91: the text is no key."""
        try:
            if not text.startswith(PREFIX):
                raise ValueError("another kind of key")
            raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
            Ed25519PublicKey.from_public_bytes(raw)
        except (ValueError, AttributeError) as error:
            raise NetworkError(
                "FR-C91", "a public key that cannot be read", wanted=f"{PREFIX} and 32 bytes in base64"
            ) from error
        return cls(raw)

    @property
    def text(self) -> str:
        return PREFIX + base64.b64encode(self.raw).decode()

    @property
    def fingerprint(self) -> str:
        """Ten groups of four hex digits (160 bits of the key's SHA-256): what two people read to each other."""
        digits = hashlib.sha256(self.raw).hexdigest()[:40]
        return "-".join(digits[start : start + 4] for start in range(0, 40, 4))

    def holds(self, data: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, over exactly these bytes."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True


@final
class SigningKey:
    """The private half. It has no text, and its file is refused where others may read it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @classmethod
    def create(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, file: Path) -> SigningKey:
        """Raises NetworkError: FR-C91 no such key, or FR-C92 a file that others than its owner may open."""
        try:
            with file.open("rb") as stream:
                # of the open file, not of the name: between two looks a name may come to mean another file
                mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
                if mode & _OTHERS:
                    raise NetworkError(
                        "FR-C92", f"mode {mode:04o}: others may open this private key", wanted="0600",
                        do=f"chmod 600 {file.name}, and ask whether it was copied meanwhile", where=str(file),
                    )  # fmt: skip
                key = load_pem_private_key(stream.read(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise NetworkError(
                "FR-C91", f"a private key that cannot be read ({type(error).__name__})", wanted="Ed25519 in PEM",
                where=str(file),
            ) from error  # fmt: skip
        if not isinstance(key, Ed25519PrivateKey):
            raise NetworkError("FR-C91", "a private key of another kind", wanted="Ed25519 in PEM", where=str(file))
        return cls(key)

    def save(self, file: Path) -> None:
        """Write it for its owner alone. Raises FileExistsError: a key is never written over."""
        write_private(file, self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    def __repr__(self) -> str:
        return f"SigningKey({self.public.fingerprint})"


def sign_json(key: SigningKey, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with its signature: over the canonical JSON of everything but the signature itself."""
    return {**table, SIGNATURE: base64.b64encode(key.sign(_canonical(table))).decode()}


def read_signed(table: Mapping[str, Any], key: PublicKey) -> dict[str, Any]:
    """What was signed, without the signature.

    Raises:
        NetworkError: FR-C90 the signature is missing, or not this key's over this very table.
    """
    try:
        signature = base64.b64decode(str(table[SIGNATURE]), validate=True)
        said = {name: value for name, value in table.items() if name != SIGNATURE}
        good = key.holds(_canonical(said), signature)
    except (KeyError, ValueError, TypeError, AttributeError):
        good, said = False, {}
    if not good:
        raise NetworkError(
            "FR-C90", "the signature does not fit", wanted=f"that of {key.fingerprint}",
            do="it was changed, or comes from somebody else: have it sent again",
        )  # fmt: skip
    return said


def _canonical(table: Mapping[str, Any]) -> bytes:
    said = {name: value for name, value in table.items() if name != SIGNATURE}
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
