"""Half the bytes: each value in float16, each tensor times its own power of two; what is lost stays for next time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from fedrounds_common.arrays import Arrays, is_float
from fedrounds_common.codec import Codec
from fedrounds_common.codec_parts import (
    count_keys,
    left_over,
    only,
    ordered,
    pack_counts,
    pack_halves,
    unpack_counts,
    unpack_halves,
    with_residual,
)

KEY = "halves"


@final
@dataclass(frozen=True)
class Float16(Codec):
    """A value loses at most 2^-11 of itself. Downwards the consensus itself travels, to whoever holds whatever."""

    def encode(self, arrays: Arrays, residual: Arrays, seed: int) -> tuple[Arrays, Arrays]:
        total = with_residual(arrays, residual)
        travelling = {**pack_halves(total, list(total), KEY), **pack_counts(arrays)}
        return travelling, left_over(total, self.decode(travelling, arrays))

    def decode(self, arrays: Arrays, like: Arrays) -> Arrays:
        only(arrays, [KEY, f"{KEY}.exponents", *count_keys(like)])
        floats = [name for name, array in like.items() if is_float(array)]
        return ordered({**unpack_halves(arrays, like, floats, KEY), **unpack_counts(arrays, like)}, like)
