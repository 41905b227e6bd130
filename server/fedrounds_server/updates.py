"""The update store of one round: in memory up to a budget, then on disk; always read in site order."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
from safetensors.numpy import load_file, save_file

from fedrounds_common.arrays import Arrays, size_bytes
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
    _used: int = 0

    def put(self, update: SiteUpdate) -> None:
        """Raises ValueError on a second update of one site: the guard has let a double through."""
        if update.site in self._cases:
            raise ValueError(f"{update.site} has an update in this round already")
        size = size_bytes(update.arrays)
        if self._used + size <= self.budget_bytes:
            self._held[update.site] = update.arrays
            self._used += size
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            arrays = {name: np.asarray(array, order="C") for name, array in update.arrays.items()}
            save_file(arrays, self._file(update.site))
        self._cases[update.site] = update.cases

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[SiteUpdate]:
        for site in sorted(self._cases):
            arrays = self._held.get(site)
            yield SiteUpdate(site, load_file(self._file(site)) if arrays is None else arrays, self._cases[site])

    def clear(self) -> None:
        self._cases.clear()
        self._held.clear()
        self._used = 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, site: str) -> Path:
        return self.folder / f"{site}.safetensors"
