"""Privacy: what bounds and blurs a site's update. One file here each; a study lists them as `[[privacy]]`.

The list is applied in order. No file stands here yet, so every `[[privacy]]` entry is a fault of the study.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final

from fedrounds_common.arrays import Arrays

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class Spent:
    """What a run has cost: epsilon at delta, for one `unit`, as this accountant counts."""

    epsilon: float
    delta: float
    unit: Literal["patient", "hospital"]
    accountant: str


class Privacy(ABC):
    """A frozen dataclass; its fields are the entry's table. Noise comes from the system's keys, never from the seed."""

    unit: ClassVar[Literal["patient", "hospital"]]

    def step(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Site, every step: per-example gradients (B, *shape), changed; the caller takes the mean over B."""
        return gradients

    def release(self, arrays: Arrays) -> Arrays:
        """Site, once a round: the difference as it may leave."""
        return arrays

    def finish(self, total: Arrays, sites: int) -> Arrays:
        """Coordinator, once a round: the sum over so many sites."""
        return total

    @abstractmethod
    def spent(self, sites_by_round: Sequence[int]) -> Spent:
        """What the rounds so far cost; one entry a round: how many sites took part."""
