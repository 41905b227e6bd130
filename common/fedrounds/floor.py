"""What those who learn nothing answered at a site, on its way from a worker to the floor's line of the table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedrounds_common.arrays import manifest, pack, unpack
from fedrounds_common.case import F64
from fedrounds_common.study.study import Study
from fedrounds_common.task import CaseScore, Task
from fedrounds_server.engines.pool import Done

Where = tuple[str, str]  # site and cohort
Guessed = Mapping[str, Sequence[CaseScore]]  # by rule

_EXTRA = "extra."  # before the name of what a score holds besides its values


def packed(guessed: Guessed) -> Done:
    """All scores of one site, as arrays (rules, cases, ...); what a score lacks that another has is nan, or no state."""
    every = [score for scores in guessed.values() for score in scores]
    keys = list({(region, name): 0 for score in every for region, of in score.values.items() for name in of})
    regions = list({region: 0 for score in every for region in score.state})
    words = ["", *{word: 0 for score in every for word in score.state.values()}]
    shape = (len(guessed), len(every) // max(len(guessed), 1))
    values = [[score.values.get(region, {}).get(name, math.nan) for region, name in keys] for score in every]
    states = [[words.index(score.state.get(region, "")) for region in regions] for score in every]
    arrays = {
        "values": np.array(values, np.float64).reshape(*shape, len(keys)),
        "states": np.array(states, np.float64).reshape(*shape, len(regions)),
    }
    for name in every[0].arrays if every else ():
        stacked = np.stack([score.arrays[name] for score in every])
        arrays[_EXTRA + name] = stacked.reshape(*shape, *stacked.shape[1:]).astype(np.float64)
    first = next(iter(guessed.values()), ())
    scalars = {
        "manifest": json.dumps(manifest(arrays)), "rules": list(guessed), "keys": keys, "regions": regions,
        "words": words, "cases": [(score.case, score.patient) for score in first],
    }  # fmt: skip
    return Done(scalars, pack(arrays))


def unpacked(done: Done) -> Guessed:
    says = done.scalars
    entries = [(name, dtype, tuple(shape)) for name, dtype, shape in json.loads(says["manifest"])]
    arrays = unpack(done.buffer, entries)
    return {
        rule: [_score(says, {name: array[place, k] for name, array in arrays.items()}, *about)
               for k, about in enumerate(says["cases"])]
        for place, rule in enumerate(says["rules"])
    }  # fmt: skip


def _score(says: Mapping[str, Any], of: Mapping[str, F64], case: str, patient: str) -> CaseScore:
    values: dict[str, dict[str, float]] = {}
    for (region, name), value in zip(says["keys"], of["values"].tolist(), strict=True):
        values.setdefault(region, {})[name] = value
    states = zip(says["regions"], of["states"].tolist(), strict=True)
    state = {region: says["words"][int(place)] for region, place in states if place}
    extra = {name.removeprefix(_EXTRA): array for name, array in of.items() if name.startswith(_EXTRA)}
    return CaseScore(case, patient, values, state, extra)


def choose(
    found: Mapping[Where, Guessed], task: Task, study: Study
) -> tuple[dict[Where, Sequence[CaseScore]], Mapping[str, str]]:
    """Every case's score by the best rule, in hindsight over all of them; and which rule that is, as `best_guess`."""
    # a site where nothing is judged (a single case of a task that judges pairs) has no rule, and none of them misses it
    known = [guessed for guessed in found.values() if guessed]
    rules = [rule for rule in next(iter(known), {}) if all(rule in guessed for guessed in known)]
    if not rules:
        return {}, {}
    together = {rule: [score for guessed in known for score in guessed[rule]] for rule in rules}
    best, names = task.best_guess(together, study.cases, study.evaluation)
    scores, first = {}, 0
    for where, guessed in found.items():
        count = len(guessed.get(rules[0], ()))
        scores[where] = best[first : first + count]
        first += count
    return scores, names
