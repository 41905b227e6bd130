"""A strategy some of whose sites send what must never be averaged."""

from dataclasses import dataclass
from typing import final

import numpy as np

from fedrounds_common.averaging import moved, weighted_mean
from fedrounds_common.strategy import Consensus, Strategy


@final
@dataclass(frozen=True)
class Spoiled(Strategy):
    """FedAvg, but sites with `cases` training cases send what `how` says."""

    how: str = "nan"
    cases: int = 0

    def send(self, trained, consensus, kept):
        leaving, kept = super().send(trained, consensus, kept)
        if trained.cases == self.cases:
            name = next(iter(leaving))
            leaving = {**leaving, name: np.full_like(leaving[name], np.nan if self.how == "nan" else 1e9)}
        return leaving, kept

    def aggregate(self, consensus, updates):
        return Consensus(moved(consensus.arrays, weighted_mean(updates)))
