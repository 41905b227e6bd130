"""The median of the sites' differences, weight by weight (Yin et al. 2018, arXiv:1803.01498)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from fedrounds_common.averaging import moved
from fedrounds_common.case import F64
from fedrounds_common.columns import by_columns
from fedrounds_common.strategy import Consensus, Strategy, Updates


@final
@dataclass(frozen=True)
class Median(Strategy):
    """The consensus moves by the median of the sites' differences: fewer than half of them cannot move it far.

    Every site counts alike, however many cases it has; without an attacker that costs where hospitals differ.
    """

    reads: ClassVar[Literal["sum", "each"]] = "each"

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        return Consensus(moved(consensus.arrays, by_columns(updates, _median)))


def _median(values: F64) -> F64:
    middle, odd = divmod(len(values), 2)
    values.partition([middle] if odd else [middle - 1, middle], axis=0)
    return np.asarray(values[middle] if odd else (values[middle - 1] + values[middle]) / 2)
