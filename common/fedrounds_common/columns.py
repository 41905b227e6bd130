"""Every site's value of each weight side by side, for strategies that cannot work from a sum (median, trimmed mean).

Of 71 updates of a large network a few thousand weights at a time are in memory, wherever the updates lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, final, runtime_checkable

import numpy as np

from fedrounds_common.arrays import Array, Arrays, manifest
from fedrounds_common.case import F64
from fedrounds_common.errors import RoundError
from fedrounds_common.flat import Layout, layout_of
from fedrounds_common.strategy import Updates

NUMBERS = 2**20  # in memory at a time, of all sites together: 8 MiB
Reduce = Callable[[F64], F64]  # (sites, entries) → (entries,)


@runtime_checkable
class InColumns(Protocol):
    """Updates that can be read across: `column` gives (sites, count) entries of one array, in the sites' order."""

    @property
    def layout(self) -> Layout: ...

    def __len__(self) -> int: ...

    def column(self, name: str, start: int, count: int) -> Array: ...


def by_columns(updates: Updates, reduce: Reduce) -> Mapping[str, F64]:
    """What a function makes of every site's values of each weight, whatever the number of sites.

    Args:
        reduce: (sites, entries) float64, sites by name, to (entries,). It may write into what it is given.

    Returns:
        float64 arrays of the updates' names and shapes, each worked out when it is asked for.

    Raises:
        RoundError: FR-R22 there are no updates.
    """
    across: InColumns = updates if isinstance(updates, InColumns) else _Listed(updates)
    if not len(across):
        raise RoundError("FR-R22", "no updates", wanted="one at least", do="did every site fail?")
    return _Reduced(across, reduce)


@final
class _Reduced(Mapping[str, F64]):
    def __init__(self, updates: InColumns, reduce: Reduce) -> None:
        self._updates, self._reduce = updates, reduce

    def __getitem__(self, name: str) -> F64:
        place = self._updates.layout.places[name]
        found = np.empty(place.count)
        most = max(NUMBERS // len(self._updates), 1)
        for start in range(0, place.count, most):
            count = min(most, place.count - start)
            values = self._updates.column(name, start, count).astype(np.float64)
            found[start : start + count] = self._reduce(values)
        return found.reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._updates.layout.places)

    def __len__(self) -> int:
        return len(self._updates.layout.places)


@final
class _Listed:
    """Updates that are no store's: all of them are held."""

    def __init__(self, updates: Updates) -> None:
        self._arrays: list[Arrays] = [update.arrays for update in updates]

    @property
    def layout(self) -> Layout:
        return layout_of(tuple(manifest(self._arrays[0])))

    def __len__(self) -> int:
        return len(self._arrays)

    def column(self, name: str, start: int, count: int) -> Array:
        return np.stack([np.ravel(arrays[name])[start : start + count] for arrays in self._arrays])
