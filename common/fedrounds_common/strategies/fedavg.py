"""Federated averaging (McMahan et al. 2017, arXiv:1602.05629)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from fedrounds_common.averaging import moved, weighted_mean
from fedrounds_common.strategy import Consensus, Strategy, Updates, Weights


@final
@dataclass(frozen=True)
class FedAvg(Strategy):
    """The consensus moves by the mean of the sites' differences, weighted by `weights`."""

    weights: Weights = "cases"

    def folds(self) -> Weights:
        return self.weights

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        return Consensus(moved(consensus.arrays, weighted_mean(updates, self.weights)))
