"""Privacy: what bounds and blurs what a site tells. One file here each; a study lists them as `[[privacy]]`.

What of it is the same for all, noise, accounts and the look at a network, stands in `dp/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, final

if TYPE_CHECKING:
    from fedrounds_common.study.tables import Cohort, Training
    from fedrounds_common.task import Task

Unit = Literal["none", "patient", "hospital"]
Hand = Literal["coordinator", "sites"]

# What noise in the steps of training does not cover: said wherever an epsilon is.
OUTSIDE = (
    "how many cases a site has, trains on and left out, which its hello and every update say",
    "scores, which are sums without noise over the cases a site keeps to validate or holds out, never over those it trains on",
    "how long a round took, and that a site refused or failed",
)
# And of noise in the sums over hospitals.
OUTSIDE_OF_HOSPITALS = (
    "which hospitals take part, how many cases each has, trains on and left out, and how many steps it took",
    "each hospital's own scores, which are sums without noise over its cases",
    "how long a round took, and that a hospital refused or failed",
)


@final
@dataclass(frozen=True)
class Spent:
    """What a run has cost: epsilon at delta, for one `unit`, as this accountant counts."""

    epsilon: float
    delta: float
    unit: Unit
    accountant: str


@final
@dataclass(frozen=True)
class Cost:
    """What one round of a site costs its `unit`: so many steps of Gaussian noise, each of `multiplier` clips and on a
    sample that was drawn at this `rate`."""

    unit: Unit
    multiplier: float
    rate: float
    steps: int


def one_of(epsilon: float | None, noise_multiplier: float | None) -> list[tuple[tuple[str, ...], str]]:
    """Rules that a table breaks which gives both of them, or neither: fields and message each, as of `RulesBroken`."""
    if epsilon is None and noise_multiplier is None:
        return [(("epsilon", "noise_multiplier"), '"none": either it or noise_multiplier is wanted')]
    if epsilon is not None and noise_multiplier is not None:
        wanted = 'epsilon is in force too: write epsilon = "none", or keep one of the two'
        return [(("noise_multiplier", "epsilon"), f"{noise_multiplier:g}: {wanted}")]
    return []


def rounds_of(costs: Sequence[Cost], rounds: int) -> tuple[Cost, ...]:
    """What so many rounds cost, of what one does."""
    return tuple(replace(cost, steps=rounds * cost.steps) for cost in costs)


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


@final
@dataclass(frozen=True)
class NoisySum:
    """How each round's sum over hospitals is made: nothing here depends on anybody's cases.

    Each update is cut to the norm `clip`, of its trainable weights, and counts once, or `cases`-th parts of once where it
    is of fewer cases. To the sum comes noise of `multiplier` clips, added by `hand`: by the coordinator, or by each site
    a share so large that `shares` of them hold enough. `sites` is what the sum is divided by, however many there were.

    `quantile`: the clip follows the hospitals, so that this share of them stays below it (None: it stays as it is); by
    e to the power of `pace` in a round at most. `count_noise`: of the noise on how many are below it, in hospitals;
    `multiplier` is then what is left for the weights, and both together are as good as `whole`. `rate`: below 1, each
    hospital is drawn into each round with this probability, in secret.
    """

    clip: float
    multiplier: float
    whole: float
    sites: float
    hand: Hand = "coordinator"
    shares: int = 1
    cases: int | None = None
    quantile: float | None = None
    pace: float = 0.0
    count_noise: float = 0.0
    rate: float = 1.0


class Privacy(ABC):
    """A frozen dataclass; its fields are the entry's table. Noise comes from the system's keys, never from the seed."""

    unit: ClassVar[Unit]  # "none": it bounds nothing, and promises no epsilon

    def faults(self, task: Task, training: Training) -> Sequence[tuple[str, str]]:
        """What of a study does not go with this measure: dotted key and message each, e.g. ("training.batch", "…").

        A key that begins with a dot is one of the measure's own table.
        """
        return ()

    def around(self, training: Training, cohort: Cohort) -> Sequence[tuple[str, str]]:
        """As `faults`: what of the study's cohort does not go with this measure."""
        return ()

    def steps(self, training: Training) -> NoisySteps | None:
        """Site, every step: how it is taken. None: as without this measure."""
        return None

    def sum(self, training: Training, cohort: Cohort) -> NoisySum | None:
        """Site and coordinator, every round: how the sum over hospitals is made. None: as without this measure."""
        return None

    def smallest(self) -> int:
        """Of how few cases a site tells no scores and no sums."""
        return 0

    @abstractmethod
    def spent(self, training: Training, sites_by_round: Sequence[int]) -> Spent | None:
        """What so many rounds cost; one entry a round: how many sites took part. None of a measure that bounds nothing."""
