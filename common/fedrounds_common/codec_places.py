"""Which values of many travel, and where they stand: the largest, and their places in as few bytes as will do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.arrays import Array, Arrays
from fedrounds_common.codec_parts import Packed, take
from fedrounds_common.errors import UpdateError

Places = NDArray[np.int64]
LONG = 255  # a gap's byte that says: so many, and the next byte goes on
GAPS, BITMAP = "gaps", "bitmap"


def largest(values: Array, count: int) -> Places:
    """The places of the `count` largest by magnitude, rising; of equal ones the first; zeros never travel."""
    sizes = np.abs(values)
    if count >= sizes.size:
        return np.flatnonzero(sizes)
    least = np.partition(sizes, sizes.size - count)[sizes.size - count]
    above = np.flatnonzero(sizes > least)
    level = np.flatnonzero(sizes == least)[: count - above.size] if least > 0 else above[:0]
    return np.sort(np.concatenate([above, level]))


def pack_places(places: Places, size: int) -> Packed:
    """The gaps between them, a byte each (longer ones more), or a bit for every place there is: whichever is shorter."""
    gaps = np.diff(places, prepend=-1) - 1
    ends = np.cumsum(gaps // LONG + 1) - 1
    packed = np.full(int(ends[-1]) + 1 if ends.size else 0, LONG, np.uint8)
    packed[ends] = gaps % LONG
    if packed.size <= -(-size // 8):
        return {GAPS: packed}
    bits = np.zeros(size, np.uint8)
    bits[places] = 1
    return {BITMAP: np.packbits(bits)}


def unpack_places(arrays: Arrays, count: int, size: int) -> Places:
    """Raises UpdateError FR-R11: these are not `count` places below `size`."""
    if BITMAP in arrays:
        bits = np.unpackbits(take(arrays, BITMAP, np.uint8, -(-size // 8)))
        places = np.flatnonzero(bits)
    else:
        places = _places_of(arrays, count, size)
    if places.size != count or (places.size and int(places[-1]) >= size):
        raise UpdateError("FR-R11", f"{places.size} places for {count} values", wanted=f"as many, below {size}")
    return places


def _places_of(arrays: Arrays, count: int, size: int) -> Places:
    came = arrays.get(GAPS)
    # as many bytes as there are values, and one more for each stretch of LONG that nothing of is sent
    if came is None or came.ndim != 1 or came.size > count + size // LONG:
        raise UpdateError("FR-R11", "the places are missing, or too many bytes", wanted="what the codec packs")
    gaps = take(arrays, GAPS, np.uint8, came.size)
    if gaps.size and gaps[-1] == LONG:
        raise UpdateError("FR-R11", "the last gap has no end", wanted="what the codec packs")
    ends = gaps != LONG
    found = np.cumsum(gaps, dtype=np.int64)[ends]
    return np.asarray(found + np.arange(found.size))


def most(sizes: Sequence[int], share: float, each: bool) -> int:
    """How many values may travel: at least one of each tensor, or of all together."""
    return sum(how_many(size, share) for size in sizes) if each else how_many(sum(sizes), share)


def how_many(size: int, share: float) -> int:
    return min(size, max(1, round(share * size)))
