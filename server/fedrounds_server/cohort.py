"""Which sites take part: chosen by name and seed, so it matters neither who answered first nor who is there."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
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


def roster(
    nodes: Mapping[str, int], hellos: Mapping[str, Hello], faults: Mapping[str, str], cohort: Cohort,
    enrolled: Collection[str] = (), minimum: int | None = None,
) -> Roster:  # fmt: skip
    """Sort the sites that said hello into roles; those that should have and did not are absent.

    Args:
        enrolled: who may take part where the study lists nobody; empty: whoever there is.
        minimum: in place of the study's own, where fewer are no reason to stop.

    Raises:
        TooFewSites: fewer training sites than the study's minimum.
    """
    held_out = tuple(sorted(name for name in hellos if name in cohort.held_out))
    anybody = {*hellos, *faults} if not enrolled else set(enrolled)
    wanted = set(cohort.sites) or {name for name in anybody if name not in cohort.held_out}
    training = tuple(sorted(name for name in hellos if name in wanted and hellos[name].training_cases > 0))
    absent = {name: faults.get(name, "absent") for name in sorted({*wanted, *cohort.held_out} - set(hellos))}
    absent |= {name: "error:FR-H01" for name in sorted(wanted & set(hellos)) if hellos[name].training_cases == 0}
    need(len(training), cohort.minimum if minimum is None else minimum, "are ready to train", absent)
    return Roster(nodes, hellos, training, held_out, absent, frozenset(cohort.held_out))


def ranked(names: Collection[str], cohort: Cohort, seed: int, round_: int) -> tuple[str, ...]:
    """The sites in the order in which the seed draws them for one round; by name where all take part."""
    if not cohort.per_round or cohort.per_round >= len(names):
        return tuple(sorted(names))
    return tuple(sorted(names, key=lambda name: share(seed, "cohort", round_, name)))


def choose(training: Sequence[str], cohort: Cohort, seed: int, round_: int) -> tuple[str, ...]:
    """The sites that one round is made of: all, or the `per_round` that the seed draws; sorted by name."""
    return tuple(sorted(ranked(training, cohort, seed, round_)[: cohort.per_round or None]))


def spares(cohort: Cohort) -> int:
    """How many more than `per_round` are asked."""
    return math.ceil(cohort.per_round * cohort.over_select)


def need_cases(
    cases: Mapping[str, int], known: Mapping[str, int], cohort: Cohort, seed: int, round_: int, what: str = ""
) -> None:  # fmt: skip
    """Refuse a round whose updates stand for too few of the cases that it would have had with every site there.

    Args:
        cases: of the sites whose update is fit to be averaged.
        known: the training cases of every planned site that ever said how many it has, there or not.
        what: stands for so many cases; by default the round's updates.

    Raises:
        TooFewSites: FR-R55.
    """
    whole = sum(known[name] for name in choose(sorted(known), cohort, seed, round_))
    have = sum(cases.values())
    if have < cohort.minimum_cases_share * whole:
        missing = sorted(set(known) - set(cases), key=lambda name: -known[name])
        named = ", ".join(f"{name} ({known[name]})" for name in missing[:8])
        raise TooFewSites(
            "FR-R55", f"{what or f'updates fit for round {round_}'} stand for {have} of {whole} cases",
            wanted=f"at least {cohort.minimum_cases_share:.0%} (cohort.minimum_cases_share)",
            do=f"missing: {named or 'none'}",
        )  # fmt: skip


def need(count: int, minimum: int, what: str, missing: Mapping[str, str]) -> None:
    if count < minimum:
        reasons = ", ".join(f"{name} ({state})" for name, state in list(missing.items())[:8])
        raise TooFewSites(
            "FR-R40", f"{count} sites {what}", wanted=f"at least {minimum} (cohort.minimum)",
            do=f"missing: {reasons or 'none was expected'}",
        )  # fmt: skip
