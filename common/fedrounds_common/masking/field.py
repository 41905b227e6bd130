"""Fixed point: a site's difference times its weight as whole numbers modulo 2^64, and the sum of all sites' back again.

A float entry becomes the nearest multiple of 2^−precision to weight · entry; an entry of an integer buffer of 2^−8, which
is exact where weights are whole. So rounding moves the weighted mean by at most sites · 2^−precision / (2 · sum of weights).
On the way the numbers are cut to as many bytes as the largest sum takes: arithmetic modulo 2^64 is arithmetic modulo 2^(8 ·
width) as well. The first entry is the weight itself, so that the sum holds the sum of weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.arrays import BLOCK, Arrays, packed
from fedrounds_common.case import F64
from fedrounds_common.errors import UpdateError
from fedrounds_common.flat import Flat, Layout, Run
from fedrounds_common.masking.masks import U64

WHOLE_BITS = 8  # of the step of integer buffers
FIRST = 1  # entries before the model's own: the weight


@final
@dataclass(frozen=True)
class Field:
    """`sites`, `weight`: the most of each; `limit`: the largest float entry of a difference; `precision`: of its step."""

    sites: int
    weight: float
    limit: float
    precision: int

    @property
    def bits(self) -> int:
        """That a sum takes with its sign, at most."""
        largest = self.sites * (math.ceil(self.weight * max(self.limit, 1.0) * 2.0**self.precision) + 1)
        return largest.bit_length() + 1

    @property
    def width(self) -> int:
        """Bytes of one number on the way. Above 8 there is no such field."""
        return -(-self.bits // 8)

    @property
    def step(self) -> float:
        return float(2.0**-self.precision)

    @property
    def most_whole(self) -> float:
        """The largest entry of an integer buffer."""
        return max(self.limit, 1.0) * float(2.0 ** (self.precision - WHOLE_BITS))

    # ------------------------------------------------------------ at a site

    def numbers(self, difference: Arrays, weight: float) -> U64:
        """The weight and every weighted entry, end to end.

        Raises:
            UpdateError: FR-R80 an entry or the weight is not finite, or larger than the field holds. Nothing is cut off.
        """
        if not 0 <= weight <= self.weight:
            raise UpdateError("FR-R80", f"a site that weighs {weight:g}", wanted=f"at most {self.weight:g}")
        flat = packed(difference)
        found = np.empty(FIRST + flat.layout.count, np.uint64)
        found[0] = round(weight * 2**self.precision)
        for run, start, count in _blocks(flat.layout):
            part = found[FIRST + run.first + start :][:count]
            part[:] = self._rounded(flat, run, start, count, weight)
        return found

    def _rounded(self, flat: Flat, run: Run, start: int, count: int, weight: float) -> U64:
        values = flat.read(run, start, count).astype(np.float64)
        limit, bits = (self.limit, self.precision) if run.is_float else (self.most_whole, WHOLE_BITS)
        largest = float(np.max(np.abs(values)))
        if not largest <= limit:  # nan is not
            raise UpdateError(
                "FR-R80", f"a difference of {largest:.4g} in one entry", wanted=f"at most {limit:g}",
                do="a larger wire.channel.limit, or smaller steps of training",
            )  # fmt: skip
        values *= weight * 2.0**bits
        whole: NDArray[np.int64] = np.rint(values).astype(np.int64)
        return whole.view(np.uint64)

    # ------------------------------------------------------------ on the way

    def packed(self, numbers: U64) -> NDArray[np.uint8]:
        """`width` bytes a number, the lowest first."""
        found = np.empty((numbers.size, self.width), np.uint8)
        for start in range(0, numbers.size, BLOCK):
            part = numbers[start : start + BLOCK].astype("<u8").view(np.uint8).reshape(-1, 8)
            found[start : start + BLOCK] = part[:, : self.width]
        return found.reshape(-1)

    def add_packed(self, total: U64, came: NDArray[Any]) -> None:
        """Add one site's numbers as they came.

        Raises:
            UpdateError: FR-R11 they are not as many, or no bytes.
        """
        if came.dtype != np.uint8 or came.shape != (total.size * self.width,):
            found = f"{came.dtype} {came.shape} in place of a masked update"
            raise UpdateError("FR-R11", found, wanted=f"{total.size * self.width} bytes")
        rows = came.reshape(-1, self.width)
        for start in range(0, total.size, BLOCK):
            part = rows[start : start + BLOCK]
            wide = np.zeros((len(part), 8), np.uint8)
            wide[:, : self.width] = part
            total[start : start + BLOCK] += wide.reshape(-1).view("<u8")

    # ------------------------------------------------------------ at the coordinator

    def signed(self, total: U64) -> NDArray[np.int64]:
        """A sum without masks, from −2^(bits−1) up: what is beyond the width is cut off, in place."""
        shift = 64 - 8 * self.width
        found = total.view(np.int64)
        found <<= shift
        found >>= shift
        return found

    def weights(self, total: NDArray[np.int64]) -> float:
        """The sum of the sites' weights."""
        return float(total[0]) * self.step

    def values(self, total: NDArray[np.int64], layout: Layout, name: str, start: int, count: int) -> F64:
        """So many entries of one array's weighted sum, from its entry `start` on."""
        place, first = layout.places[name], FIRST + layout.firsts[name] + start
        bits = self.precision if place.dtype.kind == "f" else WHOLE_BITS
        found: F64 = total[first : first + count].astype(np.float64)
        found *= float(2.0**-bits)
        return found


def _blocks(layout: Layout) -> Iterator[tuple[Run, int, int]]:
    for run in layout.runs:
        for start in range(0, run.count, BLOCK):
            yield run, start, min(BLOCK, run.count - start)
