"""The floor's score of each case: by the untrained rule that does best for each region over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F64
from fedrounds_common.metrics.rules import METRICS, STATES, mean_over_regions
from fedrounds_common.metrics.summary import MEAN
from fedrounds_common.task import CaseScore

Where = tuple[str, str]  # site and cohort


@final
@dataclass(frozen=True)
class RuleScores:
    """What every rule makes of one site's cases.

    `cases`: name and patient of each. `dice` and `states` (cases, rules, regions); two empty masks
    have 1 in `dice`, and a state is its place in the metrics' STATES.
    """

    cases: Sequence[tuple[str, str]]
    dice: F64
    states: F64


def choose(
    found: Mapping[Where, RuleScores], regions: Sequence[str], empty: str
) -> tuple[list[int], dict[Where, list[CaseScore]]]:
    """The best rule of each region, in hindsight over all cases, and every case's score by these.

    Args:
        empty: the study's `evaluation.empty`: "one", or "skip" that leaves two empty masks out.
    """
    dice = {where: _worth(scores, empty) for where, scores in found.items()}
    best = _best(np.concatenate(list(dice.values())))
    columns = np.arange(len(regions))
    return [int(rule) for rule in best], {
        where: [
            _score(name, patient, values, states, regions)
            for (name, patient), values, states in zip(
                scores.cases, dice[where][:, best, columns], scores.states[:, best, columns], strict=True
            )
        ]
        for where, scores in found.items()
    }


def _worth(scores: RuleScores, empty: str) -> F64:
    """Dice with nan where nothing is to be scored."""
    if empty == "one":
        return scores.dice
    return np.where(scores.states == STATES.index("both-empty"), math.nan, scores.dice)


def _best(dice: F64) -> NDArray[np.intp]:
    """The rule of the highest mean for each region (regions,); a rule without any value has 0."""
    counts = (~np.isnan(dice)).sum(axis=0)
    means: F64 = np.divide(np.nansum(dice, axis=0), counts, out=np.zeros(counts.shape), where=counts > 0)
    best: NDArray[np.intp] = np.argmax(means, axis=0)
    return best


def _score(case: str, patient: str, dice: F64, states: F64, regions: Sequence[str]) -> CaseScore:
    """Dice alone: what a rule finds is not measured otherwise."""
    nothing = dict.fromkeys(METRICS, math.nan)
    values = {region: {**nothing, "dice": float(value)} for region, value in zip(regions, dice, strict=True)}
    state = {region: STATES[int(place)] for region, place in zip(regions, states, strict=True)}
    return CaseScore(case, patient, {**values, MEAN: mean_over_regions(values)}, state)
