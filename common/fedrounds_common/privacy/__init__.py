"""Privacy: what bounds and blurs what a site tells. One file here each; a study lists them as `[[privacy]]`.

What of it is the same for all, noise, accounts and the look at a network, stands in `dp/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final

if TYPE_CHECKING:
    from fedrounds_common.study.tables import Training
    from fedrounds_common.task import Task


# What noise in the steps of training does not cover: said wherever an epsilon is.
OUTSIDE = (
    "how many cases a site has, trains on and left out, which its hello and every update say",
    "scores, which are sums without noise over the cases a site keeps to validate or holds out, never over those it trains on",
    "how long a round took, and that a site refused or failed",
)


@final
@dataclass(frozen=True)
class Spent:
    """What a run has cost: epsilon at delta, for one `unit`, as this accountant counts."""

    epsilon: float
    delta: float
    unit: Literal["patient", "hospital"]
    accountant: str


@final
@dataclass(frozen=True)
class NoisySteps:
    """How each step of local training is taken, the same at every site: nothing here depends on anybody's cases.

    Each patient is drawn with probability `rate`; the gradient of so many `examples` of one patient is cut to the
    norm `clip`; to the sum comes noise of `multiplier` clips; `batch` is what that is divided by, however many were
    drawn. A site with fewer `patients` takes no part.
    """

    rate: float
    clip: float
    multiplier: float
    batch: int
    examples: int = 1
    patients: int = 1


class Privacy(ABC):
    """A frozen dataclass; its fields are the entry's table. Noise comes from the system's keys, never from the seed."""

    unit: ClassVar[Literal["patient", "hospital"]]

    def faults(self, task: Task, training: Training) -> Sequence[tuple[str, str]]:
        """What of a study does not go with this measure: dotted key and message each, e.g. ("training.batch", "…").

        A key that begins with a dot is one of the measure's own table.
        """
        return ()

    def steps(self, training: Training) -> NoisySteps | None:
        """Site, every step: how it is taken. None: as without this measure, which no round of this version carries out."""
        return None

    @abstractmethod
    def spent(self, training: Training, sites_by_round: Sequence[int]) -> Spent:
        """What so many rounds cost; one entry a round: how many sites took part."""
