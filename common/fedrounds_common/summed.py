"""Σ weight · update over sites, in float64: a block at a time, so that no temporary is as large as a model.

The sum itself takes two models' room (float64), in memory or in a file without a name. Where it lies, whether updates
are added one by one as they come or all together in the end, and in blocks of what size, changes no bit: each entry is
((w₁x₁ + w₂x₂) + w₃x₃) …, in the order in which the updates are given, which is that of the sites' names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, final

import numpy as np

from fedrounds_common.arrays import BLOCK, Array
from fedrounds_common.case import F64
from fedrounds_common.disk import Scratch
from fedrounds_common.errors import RoundError
from fedrounds_common.flat import Layout, Run


class Source(Protocol):
    """An update that can be read in parts, wherever it lies; `flat.Flat` is one."""

    def read(self, run: Run, start: int = 0, count: int | None = None) -> Array:
        """`count` entries of a run; they may be gone when the next are read."""


@final
class WeightedSum:
    """The running sum of updates of one layout. `room`: a file for what is beyond the first `held` entries, which are
    in memory; None: all are.
    """

    def __init__(self, layout: Layout, room: Scratch | None = None, held: int = 0) -> None:
        self.layout = layout
        self.weight = 0.0
        self._started = False
        self._values = _Values(layout.count, room, held)

    def add(self, updates: Sequence[tuple[Source, float]]) -> None:
        """Add updates times their weights, in this order; each entry of the sum is read and written once for all."""
        if not updates:
            return
        product = np.empty(min(BLOCK, self.layout.count))
        for run in self.layout.runs:
            for start, count in _pieces(run.first, run.count):
                total, part = self._values.read(run.first + start, count), product[:count]
                fresh = not self._started
                for source, weight in updates:
                    values = source.read(run, start, count)
                    np.copyto(total if fresh else part, values)
                    if fresh:
                        total *= weight
                    else:
                        np.multiply(part, weight, out=part)
                        total += part
                    fresh = False
                self._values.write(run.first + start, total)
        self._started = True
        for _, weight in updates:
            self.weight += weight

    def mean(self, sites: int) -> Mapping[str, F64]:
        """The sum over the weights' sum, a tensor at a time as it is asked for.

        Raises:
            RoundError: FR-R20 none of `sites` weighs more than 0.
        """
        if self.weight <= 0:
            raise nobody_weighs(sites)
        return Mean(self.layout, self._values, self.weight)


def nobody_weighs(sites: int) -> RoundError:
    return RoundError("FR-R20", f"all {sites} sites weigh 0", do="did every site report 0 cases?")


@final
class Mean(Mapping[str, F64]):
    """The mean by name. Each tensor is worked out when it is asked for: two of them are two of its size in memory."""

    def __init__(self, layout: Layout, values: _Values, weight: float) -> None:
        self._layout, self._values, self._weight = layout, values, weight

    def __getitem__(self, name: str) -> F64:
        place = self._layout.places[name]
        return self.part(name, 0, place.count).reshape(place.shape)

    def part(self, name: str, start: int, count: int) -> F64:
        """So many entries of one tensor, from entry `start` on."""
        found, first = np.empty(count), self._layout.firsts[name] + start
        for at, entries in _pieces(first, count):
            np.divide(self._values.read(first + at, entries), self._weight, out=found[at : at + entries])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.places)

    def __len__(self) -> int:
        return len(self._layout.places)


def _pieces(first: int, count: int) -> Iterator[tuple[int, int]]:
    """`count` entries from `first` on, cut where a block ends: where each piece starts, from `first`, and its entries."""
    start = 0
    while start < count:
        part = min(count - start, BLOCK - (first + start) % BLOCK)
        yield start, part
        start += part


@final
class _Values:
    """Float64 numbers that are read a piece of a block at a time, changed in place, and written back."""

    def __init__(self, count: int, room: Scratch | None, held: int) -> None:
        self._room, self._held = room, count if room is None else held // BLOCK * BLOCK
        # not one array: of large ones NumPy asks for huge pages, and the kernel may have to move half of its memory first
        self._blocks = [np.empty(min(BLOCK, self._held - start)) for start in range(0, self._held, BLOCK)]
        self._block = np.zeros(0 if room is None else BLOCK)

    def read(self, start: int, count: int) -> F64:
        if start < self._held:
            block, start = divmod(start, BLOCK)
            return self._blocks[block][start : start + count]
        assert self._room is not None
        found = self._block[:count]
        self._room.read_into(found.view(np.uint8).data, (start - self._held) * found.itemsize)
        return found

    def write(self, start: int, block: F64) -> None:
        if start >= self._held:  # else it was changed where it lies
            assert self._room is not None
            self._room.write_at(block.view(np.uint8).data, (start - self._held) * block.itemsize)
