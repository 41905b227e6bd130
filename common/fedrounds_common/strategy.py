"""A strategy: both halves of a federated algorithm in one class, one file in `strategies/` each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, final

from fedrounds_common.arrays import Arrays, difference

if TYPE_CHECKING:
    from torch import Tensor


Weights = Literal["cases", "equal", "root"]


@final
@dataclass(frozen=True)
class Consensus:
    """What the coordinator holds between rounds: `arrays` and `shared` travel to sites, `kept` does not."""

    arrays: Arrays
    shared: Arrays = field(default_factory=dict)
    kept: Arrays = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Trained:
    """A site's result before anything leaves: weights it started from and ended at, cases, steps."""

    start: Arrays
    arrays: Arrays
    cases: int
    steps: int


@final
@dataclass(frozen=True)
class SiteUpdate:
    """One accepted update at the coordinator: a difference from the consensus as that site received it."""

    site: str
    arrays: Arrays
    cases: int


class Updates(Protocol):
    """The round's accepted updates, by site name; each is read once, so memory stays flat.

    What only needs their mean asks `averaging.weighted_mean` for it; what needs every site's value of each weight
    asks `columns.by_columns` for a block of them at a time.
    """

    def __iter__(self) -> Iterator[SiteUpdate]: ...

    def __len__(self) -> int: ...


class Strategy(ABC):
    """A frozen dataclass; its fields are the study's `[strategy]` table."""

    reads: ClassVar[Literal["sum", "each"]] = "sum"  # "each" (median, Krum …) cannot stand beside secure sums

    def folds(self) -> Weights | None:
        """The weights of the one mean that `aggregate` asks for, if it looks at the updates in no other way.

        Each update can then be added to the sum as it comes, and need not be kept. None: the updates are kept.
        """
        return None

    def begin(self, arrays: Arrays) -> Consensus:
        """The consensus before round 1."""
        return Consensus(arrays)

    def receive(self, consensus: Consensus, kept: Arrays) -> Arrays:
        """Site: the weights to start this round's training from."""
        return consensus.arrays

    def correct(  # noqa: B027  (most strategies correct nothing)
        self,
        gradients: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        consensus: Mapping[str, Tensor],
        kept: Arrays,
    ) -> None:
        """Site, every step, after privacy's clip and noise: change `gradients` in place (FedProx, SCAFFOLD)."""

    def send(self, trained: Trained, consensus: Consensus, kept: Arrays) -> tuple[Arrays, Arrays]:
        """Site: (the difference that leaves, the state that stays for its next round)."""
        return difference(trained.arrays, trained.start), kept

    @abstractmethod
    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        """Coordinator, pure: the next consensus.

        Raises:
            RoundError: the updates cannot be averaged, e.g. all sites weigh 0.
        """
