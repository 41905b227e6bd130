"""Rounds of a study that hides hospitals: each update looked at, the round paid for, the noise, and the clip that follows.

What a round costs is in the run's own book, on disk, before its noise is drawn: a crash in between means that it was
paid for and not used. The book is never taken back, whatever checkpoint a run goes on from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from fedrounds_common import chain
from fedrounds_common.arrays import Arrays, is_float
from fedrounds_common.averaging import Summing
from fedrounds_common.case import F64
from fedrounds_common.dp.noise import Secret
from fedrounds_common.dp.sums import bounded_part, cut, next_clip, noisy_mean, size_of_noise, with_clip
from fedrounds_common.errors import BudgetError, RoundError
from fedrounds_common.privacy import NoisySum, Privacy, Spent
from fedrounds_common.strategy import SiteUpdate, Updates, Weights
from fedrounds_common.study.tables import Training
from fedrounds_server.plan import Plan

EVENT = "noisy round"


@final
@dataclass(frozen=True)
class Book:
    """What the run has spent on hospitals: a chained line a round, in `file`. `measure`: the study's, which counts."""

    file: Path
    measure: Privacy
    training: Training

    @property
    def rounds(self) -> int:
        """So many have been paid for. Raises RunFileError: FR-F40 a line is not as it was written."""
        return sum(line["event"] == EVENT for line in chain.read(self.file))

    def after(self, rounds: int) -> Spent:
        spent = self.measure.spent(self.training, [1] * rounds)
        assert spent is not None, "what blurs sums bounds something"
        return spent

    def check(self) -> None:
        """Raises BudgetError: FR-R75 one round more would cost more than the study says that all of its rounds do."""
        paid, all_ = self.rounds, self.after(self.training.rounds)
        would = self.after(paid + 1)
        if would.epsilon > all_.epsilon:
            raise BudgetError(
                "FR-R75", f"{paid} noisy rounds are paid for, and one more would come to epsilon {would.epsilon:.4g}",
                wanted=f"at most {all_.epsilon:.4g}, as the study's {self.training.rounds} rounds",
            )  # fmt: skip

    def charge(self, round_: int) -> None:
        """Pay for a round whose noise is not drawn yet. Raises as `check`."""
        self.check()
        spent = self.after(self.rounds + 1)
        facts = {
            "round": round_, "unit": spent.unit, "epsilon": spent.epsilon, "delta": spent.delta,
            "accountant": spent.accountant,
        }  # fmt: skip
        chain.append(self.file, EVENT, facts)


@final
@dataclass
class Noising:
    """One run's. `trained`: the names of the weights that train; `clip`: this round's."""

    how: NoisySum
    trained: frozenset[str]
    book: Book
    clip: float
    _secret: Secret = field(default_factory=Secret)

    @property
    def kept(self) -> dict[str, float]:
        """What a checkpoint holds of it."""
        return {"clip": self.clip} if self.how.quantile is not None else {}

    def shared(self, shared: Arrays) -> Arrays:
        """What travels beside the consensus."""
        return with_clip(shared, self.how, self.clip)

    @property
    def samples(self) -> bool:
        return self.how.rate < 1

    def draw(self, names: Collection[str]) -> frozenset[str]:
        """Of these, who is in a round: each with the study's probability, whoever else is, and never from its seed."""
        chosen = self._secret.uniform(len(names)) <= self.how.rate
        return frozenset(name for name, is_in in zip(sorted(names), chosen, strict=True) if is_in)

    def bounded(self, update: SiteUpdate) -> SiteUpdate:
        """The update as it may count. Where sites add the noise it is as they sent it: who could cut it, could not tell."""
        if self.how.hand == "sites":
            return update
        return replace(update, arrays=cut(update.arrays, self.trained, self.clip))

    def part(self, below: float) -> float:
        return bounded_part(below, self.how)

    def size_of_noise(self, entries: int) -> float:
        """About how long an update is by its own noise alone."""
        return size_of_noise(self.how, self.clip, entries)

    def noised(self, round_: int, like: Arrays, updates: Updates, below: Collection[float]) -> Updates:
        """Pay, draw the noise, and let the clip follow.

        Args:
            like: the consensus. below: of the sites whose updates these are, what each said.

        Raises:
            BudgetError: FR-R75. RoundError: FR-R21 the updates can be read one by one only.
        """
        if not isinstance(updates, Summing):
            raise RoundError("FR-R21", "updates that nobody has added", wanted="their sum")
        self.book.charge(round_)
        total = _times(updates.mean("equal"), len(updates)) if len(updates) else {}
        mean = noisy_mean(total, like, self.trained, self.how, self.clip, self._secret)
        self.clip = next_clip(self.clip, below, self.how, self._secret)
        return Noised(mean, len(updates))


def _times(mean: Mapping[str, F64], count: int) -> Mapping[str, F64]:
    return {name: mean[name] * count for name in mean}


@final
@dataclass(frozen=True)
class Noised(Updates):
    """The noisy mean of a round, in place of its updates: whoever asks again gets the same noise."""

    _mean: Mapping[str, F64]
    _sites: int

    def __len__(self) -> int:
        return self._sites

    def __iter__(self) -> Iterator[SiteUpdate]:
        raise _one_by_one()

    def mean(self, weights: Weights) -> Mapping[str, F64]:
        """Raises RoundError: FR-R21 of other weights than equal ones, which is what was bounded."""
        if weights != "equal":
            raise _one_by_one()
        return self._mean


def _one_by_one() -> RoundError:
    return RoundError(
        "FR-R21", "the strategy looks at single updates, or weighs them", wanted='their mean by "equal" weights',
        do="the study hides hospitals, and each must count alike",
    )  # fmt: skip


def noising_of(plan: Plan, kept: Mapping[str, float]) -> Noising | None:
    """What hides the study's hospitals, as a checkpoint left it; None of a study that hides none."""
    training, cohort = plan.study.training, plan.study.cohort
    for measure in plan.measures:
        how = measure.sum(training, cohort) if training.rounds else None
        if how is not None:
            trained = plan.trained
            if trained is None:
                trained = frozenset(name for name, array in plan.initial.items() if is_float(array))
            return Noising(how, trained, Book(plan.folder.spent, measure, training), float(kept.get("clip", how.clip)))
    return None


def cannot_pay(noising: Noising | None) -> str:
    """Why another round cannot be paid for; "" where it can."""
    if noising is None:
        return ""
    try:
        noising.book.check()
    except BudgetError as error:
        return str(error)
    return ""
