"""The mean of a model's weights over the last stretch of its training, instead of where it happened to stop.

With a high learning rate weights wander around a better place than any they stop at, and their mean lies nearer to it.

Source: Polyak and Juditsky 1992; Izmailov et al. 2018 (arXiv:1803.05407).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from fedrounds_common.arrays import Array, Arrays, is_float
from fedrounds_common.case import F64


@final
@dataclass(frozen=True)
class Tail:
    """The float weights of so many models, summed in float64."""

    sums: Mapping[str, F64] = field(default_factory=dict)
    models: int = 0

    def plus(self, arrays: Arrays) -> Tail:
        """With one model more; `self` stays as it is."""
        floats = {name: array for name, array in arrays.items() if is_float(array)}
        sums = {name: self.sums[name] + array if self.models else np.array(array, np.float64)
                for name, array in floats.items()}  # fmt: skip
        return Tail(sums, self.models + 1)

    def mean(self, last: Arrays) -> dict[str, Array]:
        """The mean, in the dtypes of `last`; buffers that count are those of `last`."""
        return {
            name: (self.sums[name] / self.models).astype(array.dtype) if name in self.sums else array
            for name, array in last.items()
        }


def counted(rounds: int, share: float) -> range:
    """Those of rounds 1 … `rounds` whose weights are averaged: the last `share` of them, at least one; none if 0, or of no rounds."""
    return range(rounds + 1 - max(1, round(share * rounds)) if share and rounds else rounds + 1, rounds + 1)


def marks(rounds: int, share: float, steps: int) -> frozenset[int]:
    """After which of `steps` steps without rounds the weights are averaged: the same stretch, as often."""
    return frozenset(math.ceil(steps * round_ / rounds) for round_ in counted(rounds, share))
