"""FedProx: a pull back to the consensus at every local step (Li et al. 2020, arXiv:1812.06127)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from fedrounds_common.arrays import Arrays
from fedrounds_common.averaging import moved, weighted_mean
from fedrounds_common.strategy import Consensus, Strategy, Updates, Weights

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class FedProx(Strategy):
    """Adds `mu` · (w − w0) to each gradient: the gradient of (mu / 2) · ‖w − w0‖²."""

    mu: Annotated[float, Field(ge=0)] = 0.01
    weights: Weights = "cases"

    def folds(self) -> Weights:
        return self.weights

    def correct(
        self,
        gradients: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        consensus: Mapping[str, Tensor],
        kept: Arrays,
    ) -> None:
        for name, gradient in gradients.items():
            gradient.add_(weights[name] - consensus[name], alpha=self.mu)

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        return Consensus(moved(consensus.arrays, weighted_mean(updates, self.weights)))
