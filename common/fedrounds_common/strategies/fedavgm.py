"""Federated averaging with momentum at the coordinator (Hsu et al. 2019, arXiv:1909.06335).

With AdamW at the sites, its moments kept between rounds, and Nesterov momentum here, this is the
DiLoCo recipe (Douillard et al. 2023, arXiv:2311.08105).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
from pydantic import Field

from fedrounds_common.arrays import Array, Arrays, is_float
from fedrounds_common.averaging import moved, weighted_mean
from fedrounds_common.case import F64
from fedrounds_common.strategy import Consensus, Strategy, Updates, Weights


@final
@dataclass(frozen=True)
class FedAvgM(Strategy):
    """v ← momentum · v + mean difference; the consensus moves by `rate` · v.

    `nesterov`: by `rate` · (momentum · v + mean difference) instead. Integer buffers take no momentum.
    """

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    rate: Annotated[float, Field(gt=0)] = 1.0
    nesterov: bool = False
    weights: Weights = "cases"

    def folds(self) -> Weights:
        return self.weights

    def begin(self, arrays: Arrays) -> Consensus:
        still = {name: np.zeros_like(array) for name, array in arrays.items() if is_float(array)}
        return Consensus(arrays, kept=still)

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        mean, velocity, after = weighted_mean(updates, self.weights), dict[str, Array](), dict[str, Array]()
        for name, array in consensus.arrays.items():  # one at a time: in float64 all of them are two models more
            step: F64 = mean[name]
            if name in consensus.kept:
                v = self.momentum * consensus.kept[name].astype(np.float64) + step
                step = self.rate * (self.momentum * v + step if self.nesterov else v)
                velocity[name] = v.astype(consensus.kept[name].dtype)
            after |= moved({name: array}, {name: step})
        return Consensus(after, kept=velocity)
