"""The update store of one round: in memory up to a budget, then on disk; always read in site order.

Where the strategy says by what weights (`Strategy.folds`), and the round says who may still answer (`awaits`), an
update is added to the sum as soon as every site before it, by name, has answered or will not: it is then kept no
longer. One that comes out of turn waits, in memory or on disk. Whatever is left is added when the mean is asked for,
so folded on the way or all in the end the sum is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np

from fedrounds_common.arrays import Array, packed
from fedrounds_common.averaging import weight_of
from fedrounds_common.case import F64
from fedrounds_common.disk import Scratch, remove_folder
from fedrounds_common.errors import RoundError
from fedrounds_common.flat import Flat, Layout, Run
from fedrounds_common.strategy import SiteUpdate, Weights
from fedrounds_common.summed import WeightedSum, nobody_weighs

BUDGET_BYTES = 512 * 2**20


@final
@dataclass(frozen=True)
class Kept:
    """Where a file that outlives this process holds an update's arrays end to end, from byte `start` on."""

    file: Path
    start: int


@final
@dataclass(frozen=True)
class _OnDisk:
    """An update that is read in parts: from the scratch file, or from one that was there already."""

    layout: Layout
    place: Scratch | Path
    start: int

    def read(self, run: Run, start: int = 0, count: int | None = None) -> Array:
        count = run.count - start if count is None else count
        found: Array = np.empty(count, run.dtype)
        self._fill(found.view(np.uint8).data, run.start + start * run.dtype.itemsize)
        return found

    def whole(self) -> Flat:
        buffer = bytearray(self.layout.size)
        self._fill(memoryview(buffer), 0)
        return Flat(memoryview(buffer).toreadonly(), self.layout)

    def _fill(self, buffer: memoryview, start: int) -> None:
        if isinstance(self.place, Scratch):
            self.place.read_into(buffer, self.start + start)
            return
        # opened for each part: of a thousand hospitals' files not all may be open at once
        with self.place.open("rb", buffering=0) as stream:
            stream.seek(self.start + start)
            while buffer and (count := stream.readinto(buffer)):
                buffer = buffer[count:]


@final
@dataclass
class UpdateStore:
    """Implements `strategy.Updates`, `averaging.Summing` and `columns.InColumns`.

    `folds`: what the strategy says of itself; None keeps every update until it is read.
    """

    folder: Path
    budget_bytes: int = BUDGET_BYTES
    folds: Weights | None = None
    _cases: dict[str, int] = field(default_factory=dict)
    _held: dict[str, Flat | _OnDisk] = field(default_factory=dict)
    _used: int = 0
    _scratch: Scratch | None = None
    _slots: list[int] = field(default_factory=list)  # of the scratch file, free again
    _slots_made: int = 0
    _row: list[str] = field(default_factory=list)  # who may answer, by name; those before `_next` are settled
    _next: int = 0
    _gone: set[str] = field(default_factory=set)
    _sum: WeightedSum | None = None
    _rooms: list[Scratch] = field(default_factory=list)
    _layout: Layout | None = None

    # ------------------------------------------------------------ as updates come

    def awaits(self, sites: Collection[str]) -> None:
        """Say which sites' updates may still be put: from here on updates are folded as they come.

        Raises:
            ValueError: one of them should have been added before others that were.
        """
        row = sorted(sites)
        if self._next and row[: self._next] != self._row[: self._next]:
            raise ValueError("a site is awaited whose turn in the sum has passed")
        self._row = row

    def gone(self, site: str) -> None:
        """Nothing will come from this site any more."""
        self._gone.add(site)
        self._fold()

    def put(self, update: SiteUpdate, kept: Kept | None = None) -> None:
        """Take one site's update.

        Args:
            kept: where its arrays are on disk already: past the budget they are not written twice.

        Raises:
            ValueError: a second update of one site: the guard has let a double through; or its turn has passed.
        """
        if update.site in self._cases:
            raise ValueError(f"{update.site} has an update in this round already")
        if self._next and update.site <= self._row[self._next - 1]:
            raise ValueError(f"{update.site} has an update, and was not waited for")
        arrays = packed(update.arrays)
        self._layout = self._layout or arrays.layout
        self._cases[update.site] = update.cases
        self._held[update.site] = arrays
        self._used += arrays.layout.size
        self._fold()
        if update.site in self._held and self._used + self._for_the_sum > self.budget_bytes:
            self._held[update.site] = self._on_disk(arrays, kept)
            self._used -= arrays.layout.size

    def _on_disk(self, arrays: Flat, kept: Kept | None) -> _OnDisk:
        if kept is not None:
            return _OnDisk(arrays.layout, kept.file, kept.start)
        if self._scratch is None:
            self._scratch = Scratch(self.folder)
            self._rooms.append(self._scratch)
        if self._slots:
            start = self._slots.pop()
        else:
            start, self._slots_made = self._slots_made * arrays.layout.size, self._slots_made + 1
        self._scratch.write_at(arrays.buffer, start)
        return _OnDisk(arrays.layout, self._scratch, start)

    def _fold(self) -> None:
        """Add to the sum whatever has its turn."""
        ready = []
        while self.folds is not None and self._next < len(self._row):
            site = self._row[self._next]
            if site in self._held:
                ready.append(site)
            elif site not in self._gone:
                break
            self._next += 1
        if ready and self.folds is not None:
            self._add(ready, self.folds)

    def _add(self, sites: list[str], weights: Weights) -> None:
        """Add these to the sum, in this order, and keep them no longer."""
        self._sum = self._sum or self._new_sum()
        self._sum.add([(self._held[site], weight_of(self._cases[site], weights)) for site in sites])
        for site in sites:
            self._let_go(site)

    def _new_sum(self) -> WeightedSum:
        held = self.budget_bytes // 2 // 8  # the other half is for updates that wait
        if self.layout.count <= held:
            return WeightedSum(self.layout)
        self._rooms.append(Scratch(self.folder))
        return WeightedSum(self.layout, self._rooms[-1], held)

    @property
    def _for_the_sum(self) -> int:
        """What of the budget is the sum's, made or not yet made."""
        return min(8 * self.layout.count, self.budget_bytes // 2) if self.folds is not None else 0

    def _let_go(self, site: str) -> None:
        held = self._held.pop(site)
        if isinstance(held, Flat):
            self._used -= held.layout.size
        elif held.place is self._scratch:
            self._slots.append(held.start)

    @property
    def cases(self) -> dict[str, int]:
        """Site → the cases that its update stands for."""
        return dict(self._cases)

    def drop(self, site: str) -> None:
        """Leave a site's update out.

        Raises:
            ValueError: it was added to the sum already.
        """
        if site not in self._held:
            raise ValueError(f"{site} has no update that can still be left out")
        del self._cases[site]
        self._let_go(site)

    # ------------------------------------------------------------ as they are read

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[SiteUpdate]:
        """Each update, by site name.

        Raises:
            RoundError: FR-R21 some were added to the sum as they came, and are here no more.
        """
        self._refuse_if_folded("one by one")
        for site in sorted(self._cases):
            yield SiteUpdate(site, self._arrays(site), self._cases[site])

    def _arrays(self, site: str) -> Flat:
        held = self._held[site]
        return held if isinstance(held, Flat) else held.whole()

    @property
    def layout(self) -> Layout:
        """How each update lies in a buffer; all are alike."""
        assert self._layout is not None, "no update yet"
        return self._layout

    def mean(self, weights: Weights) -> Mapping[str, F64]:
        """The weighted mean; once the store is cleared it can be read no more.

        Raises:
            RoundError: FR-R20 nobody weighs anything; FR-R21 updates were folded by other weights.
        """
        if not self._cases:
            raise nobody_weighs(0)
        if weights == self.folds:
            self._add(sorted(self._held), weights)
            assert self._sum is not None
            return self._sum.mean(len(self._cases))
        self._refuse_if_folded(f"with weights {weights!r}")
        total = self._new_sum()
        total.add([(self._held[site], weight_of(self._cases[site], weights)) for site in sorted(self._held)])
        return total.mean(len(self._cases))

    def column(self, name: str, start: int, count: int) -> Array:
        """`count` entries of one array of every site, in site order: (sites, count).

        Raises:
            RoundError: FR-R21 some were added to the sum as they came.
        """
        self._refuse_if_folded("side by side")
        place = self.layout.places[name]
        run = Run(place.dtype, place.start, place.count, self.layout.firsts[name])
        found = np.empty((len(self._cases), count), place.dtype)
        for row, site in zip(found, sorted(self._cases), strict=True):
            row[:] = self._held[site].read(run, start, count)
        return found

    def _refuse_if_folded(self, how: str) -> None:
        if len(self._held) < len(self._cases):
            raise RoundError(
                "FR-R21", f"updates are read {how}", wanted=f"the mean by {self.folds!r} alone, as its folds says",
                do="have the strategy's folds return None",
            )  # fmt: skip

    # ------------------------------------------------------------ the end

    def clear(self) -> None:
        self.forget()
        remove_folder(self.folder)

    def forget(self) -> None:
        """Free the memory and the scratch files; what others keep on disk stays."""
        for room in self._rooms:
            room.close()
        self._scratch = self._sum = self._layout = None
        self._slots_made = self._next = self._used = 0
        for each in (self._cases, self._held, self._slots, self._row, self._gone, self._rooms):
            each.clear()
