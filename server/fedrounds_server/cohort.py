"""Which sites take part: chosen by name and seed, so it matters neither who answered first nor who is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from fedrounds_common.errors import TooFewSites
from fedrounds_common.leaving import Hello
from fedrounds_common.rng import share
from fedrounds_common.study.tables import Cohort


@final
@dataclass(frozen=True)
class Roster:
    """Every site of the study by role, and the node each one answers from."""

    nodes: Mapping[str, int]
    hellos: Mapping[str, Hello]
    training: tuple[str, ...]
    held_out: tuple[str, ...]
    absent: Mapping[str, str]  # of the study, but not there: site → why
    never_trains: frozenset[str] = frozenset()  # held out by the study, there or not

    @property
    def planned(self) -> tuple[str, ...]:
        """Every site that should train, there or not."""
        return tuple(sorted({*self.training, *self.absent} - self.never_trains))


def roster(nodes: Mapping[str, int], hellos: Mapping[str, Hello], faults: Mapping[str, str], cohort: Cohort) -> Roster:
    """Sort the sites that said hello into roles; those that should have and did not are absent.

    Raises:
        TooFewSites: fewer training sites than the study's minimum.
    """
    held_out = tuple(sorted(name for name in hellos if name in cohort.held_out))
    wanted = set(cohort.sites) or {name for name in {*hellos, *faults} if name not in cohort.held_out}
    training = tuple(sorted(name for name in hellos if name in wanted and hellos[name].training_cases > 0))
    absent = {name: faults.get(name, "absent") for name in sorted({*wanted, *cohort.held_out} - set(hellos))}
    absent |= {name: "error:FR-H01" for name in sorted(wanted & set(hellos)) if hellos[name].training_cases == 0}
    need(len(training), cohort.minimum, "are ready to train", absent)
    return Roster(nodes, hellos, training, held_out, absent, frozenset(cohort.held_out))


def choose(training: Sequence[str], cohort: Cohort, seed: int, round_: int) -> tuple[str, ...]:
    """The sites of one round: all, or the `per_round` that the seed draws; sorted by name."""
    if not cohort.per_round or cohort.per_round >= len(training):
        return tuple(sorted(training))
    drawn = sorted(training, key=lambda name: share(seed, "cohort", round_, name))
    return tuple(sorted(drawn[: cohort.per_round]))


def need(count: int, minimum: int, what: str, missing: Mapping[str, str]) -> None:
    if count < minimum:
        reasons = ", ".join(f"{name} ({state})" for name, state in list(missing.items())[:8])
        raise TooFewSites(
            "FR-R40", f"{count} sites {what}", wanted=f"at least {minimum} (cohort.minimum)",
            do=f"missing: {reasons or 'none was expected'}",
        )  # fmt: skip
