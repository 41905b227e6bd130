"""Federated averaging with momentum at the coordinator (Hsu et al. 2019, arXiv:1909.06335).

With AdamW at the sites, its moments kept between rounds, and Nesterov momentum here, this is the
DiLoCo recipe (Douillard et al. 2023, arXiv:2311.08105).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
from pydantic import Field

from fedrounds_common.arrays import Arrays, is_float
from fedrounds_common.averaging import Weights, moved, weighted_mean
from fedrounds_common.strategy import Consensus, Strategy, Updates


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

    def begin(self, arrays: Arrays) -> Consensus:
        still = {name: np.zeros_like(array) for name, array in arrays.items() if is_float(array)}
        return Consensus(arrays, kept=still)

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        mean = weighted_mean(updates, self.weights)
        velocity = {name: self.momentum * v.astype(np.float64) + mean[name] for name, v in consensus.kept.items()}
        step = dict(mean)
        for name, v in velocity.items():
            step[name] = self.rate * (self.momentum * v + mean[name] if self.nesterov else v)
        kept = {name: v.astype(consensus.kept[name].dtype) for name, v in velocity.items()}
        return Consensus(moved(consensus.arrays, step), kept=kept)
