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
    """The running sum of updates of one layout. `room`: a file to keep it in; None: in memory."""

    def __init__(self, layout: Layout, room: Scratch | None = None) -> None:
        self.layout = layout
        self.weight = 0.0
        self._started = False
        self._values: _Values = _InMemory(layout.count) if room is None else _InFile(room)

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
        found = np.empty(place.count)
        first = self._layout.firsts[name]
        for start, count in _pieces(first, place.count):
            total = self._values.read(first + start, count)
            np.divide(total, self._weight, out=found[start : start + count])
        return found.reshape(place.shape)

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


class _Values(Protocol):
    """Float64 numbers that are read a piece of a block at a time, changed in place, and written back."""

    def read(self, start: int, count: int) -> F64: ...

    def write(self, start: int, block: F64) -> None: ...


@final
class _InMemory:
    def __init__(self, count: int) -> None:
        # not one array: of large ones NumPy asks for huge pages, and the kernel may have to move half of its memory first
        self._blocks = [np.empty(min(BLOCK, count - start)) for start in range(0, count, BLOCK)]

    def read(self, start: int, count: int) -> F64:
        block, start = divmod(start, BLOCK)
        return self._blocks[block][start : start + count]

    def write(self, start: int, block: F64) -> None:
        """It was changed where it lies."""


@final
class _InFile:
    def __init__(self, room: Scratch) -> None:
        self._room = room
        self._block = np.zeros(BLOCK)

    def read(self, start: int, count: int) -> F64:
        block = self._block[:count]
        self._room.read_into(block.view(np.uint8).data, start * block.itemsize)
        return block

    def write(self, start: int, block: F64) -> None:
        self._room.write_at(block.view(np.uint8).data, start * block.itemsize)
