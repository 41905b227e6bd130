"""Masks: as many numbers modulo 2^64 as a vector has, from a key of 32 bytes, by AES-256 in counter mode.

Each key is used for one vector in one round and never again, so the counter starts at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
BLOCK = 2**16  # numbers of one pass over all keys: half a MiB, which stays in a core's own cache
KEY_BYTES = 32
_ZEROS = bytes(8 * BLOCK)


def key_of(secret: bytes, purpose: str, session: bytes) -> bytes:
    """A key for one purpose in one round, by HKDF with SHA-256 (RFC 5869).

    Args:
        session: what names the round; another round's keys are other keys even from the same secret.
    """
    info = b"fedrounds secure sum 1\0" + purpose.encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=session, info=info).derive(secret)


def add_masks(vector: U64, keys: Sequence[tuple[bytes, int]]) -> None:
    """Add to `vector`, in place and modulo 2^64, the mask of each key, or take it away where its sign is −1."""
    streams = [(_stream(key), sign) for key, sign in keys]
    found = np.empty(8 * BLOCK + 15, np.uint8)  # the library wants room for one block of the cipher less a byte
    for start in range(0, vector.size, BLOCK):
        part = vector[start : start + BLOCK]
        for stream, sign in streams:
            stream.update_into(_ZEROS[: 8 * part.size], found.data)
            mask = found[: 8 * part.size].view("<u8")
            (np.add if sign > 0 else np.subtract)(part, mask, out=part)


def _stream(key: bytes) -> CipherContext:
    mode: Any = modes.CTR(bytes(16))
    return Cipher(algorithms.AES256(key), mode).encryptor()
