"""The mean of the sites' differences without the largest and the smallest, weight by weight (Yin et al. 2018, arXiv:1803.01498)."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from fedrounds_common.averaging import moved
from fedrounds_common.case import F64
from fedrounds_common.columns import by_columns
from fedrounds_common.strategy import Consensus, Strategy, Updates


@final
@dataclass(frozen=True)
class TrimmedMean(Strategy):
    """The consensus moves by the mean of what is left when `share` of the sites' values are dropped at either end.

    So many sites, rounded down, can send anything and hardly move a weight. Every site counts alike, however many
    cases it has; without an attacker that costs where hospitals differ.
    """

    reads: ClassVar[Literal["sum", "each"]] = "each"

    share: Annotated[float, Field(ge=0, lt=0.5)] = 0.1

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        return Consensus(moved(consensus.arrays, by_columns(updates, self._trimmed)))

    def _trimmed(self, values: F64) -> F64:
        drop = floor(self.share * len(values) + 1e-9)  # 0.29 of 100 is 28.999… in binary
        values.sort(axis=0)  # also: sums do not depend on the order of the sites
        return np.asarray(values[drop : len(values) - drop].mean(axis=0))
