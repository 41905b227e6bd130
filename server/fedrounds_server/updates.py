"""The update store of one round: in memory up to a budget, then on disk; always read in site order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
from safetensors.numpy import load_file, save

from fedrounds_common.arrays import Arrays, size_bytes
from fedrounds_common.disk import remove_file, remove_folder, write_whole
from fedrounds_common.strategy import SiteUpdate

BUDGET_BYTES = 512 * 2**20


@final
@dataclass
class UpdateStore:
    """Implements `strategy.Updates`. One update is in memory at a time once the budget is spent.

    Order is what makes a consensus independent of who answered first: iteration is by site name.
    """

    folder: Path
    budget_bytes: int = BUDGET_BYTES
    _cases: dict[str, int] = field(default_factory=dict)
    _held: dict[str, Arrays] = field(default_factory=dict)
    _again: dict[str, Callable[[], Arrays]] = field(default_factory=dict)
    _used: int = 0

    def put(self, update: SiteUpdate, again: Callable[[], Arrays] | None = None) -> None:
        """Take one site's update.

        Args:
            again: reads its arrays once more, where they are on disk already: they are not written twice.

        Raises:
            ValueError: a second update of one site: the guard has let a double through.
        """
        if update.site in self._cases:
            raise ValueError(f"{update.site} has an update in this round already")
        size = size_bytes(update.arrays)
        if self._used + size <= self.budget_bytes:
            self._held[update.site] = update.arrays
            self._used += size
        elif again is not None:
            self._again[update.site] = again
        else:
            arrays = {name: np.asarray(array, order="C") for name, array in update.arrays.items()}
            write_whole(self._file(update.site), save(arrays))
        self._cases[update.site] = update.cases

    @property
    def cases(self) -> dict[str, int]:
        """Site → the cases that its update stands for."""
        return dict(self._cases)

    def drop(self, site: str) -> None:
        """Leave a site's update out."""
        del self._cases[site]
        self._used -= size_bytes(self._held.pop(site, {}))
        if self._again.pop(site, None) is None:
            remove_file(self._file(site))

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[SiteUpdate]:
        for site in sorted(self._cases):
            yield SiteUpdate(site, self._arrays(site), self._cases[site])

    def _arrays(self, site: str) -> Arrays:
        if site in self._held:
            return self._held[site]
        return self._again[site]() if site in self._again else load_file(self._file(site))

    def clear(self) -> None:
        self.forget()
        remove_folder(self.folder)

    def forget(self) -> None:
        """Free the memory; what is on disk stays."""
        self._cases.clear()
        self._held.clear()
        self._again.clear()
        self._used = 0

    def _file(self, site: str) -> Path:
        return self.folder / f"{site}.safetensors"
