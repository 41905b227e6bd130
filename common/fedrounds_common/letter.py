"""A message as it travels: header, buffer and signature; end to end where it goes through a pipe or onto a disk."""

from __future__ import annotations

import struct

Letter = tuple[str, bytes, bytes]  # header, buffer, signature (empty where nobody signs)
SIZES = struct.Struct(">QQQ")


def pack_letter(letter: Letter) -> bytes:
    return b"".join(letter_parts(letter))


def letter_parts(letter: Letter) -> tuple[bytes, ...]:
    """What `pack_letter` joins, for whoever writes it piece by piece: a buffer may be as large as a model."""
    parts = (letter[0].encode(), *letter[1:])
    return (SIZES.pack(*(len(part) for part in parts)), *parts)


def unpack_letter(data: bytes) -> Letter:
    """The inverse. Raises ValueError: it is cut short, or something else."""
    sizes = SIZES.unpack_from(data) if len(data) >= SIZES.size else (0, 0, 0)
    if not sizes[0] or len(data) != SIZES.size + sum(sizes):
        raise ValueError(f"{len(data)} bytes that are no letter")
    start, end = SIZES.size + sizes[0], SIZES.size + sizes[0] + sizes[1]
    return data[SIZES.size : start].decode(), data[start:end], data[end:]
