"""Intervals over the cases of one hospital, where it is the only one that a model is judged at.

Over hospitals there is none then. Over its cases there is: the Poisson bootstrap draws a patient as often in every
model's sums (`docs/decisions/0004-poisson-bootstrap-tallies.md`), so the difference of two models' replicates is
paired, and no score of a case has to leave. It says what other cases of that hospital may show, and nothing of other
hospitals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrounds_common.case import F64
from fedrounds_common.disk import remove_file, write_json
from fedrounds_common.errors import RunFileError
from fedrounds_common.numbered import by_number
from fedrounds_common.study.study import Study
from fedrounds_common.task import Tally, Task
from fedrounds_server.folder import FORMAT, read_json
from fedrounds_server.intervals import Interval

ENDING = ".replicates.json"
Key = tuple[str, str, str, str, str]  # model, trained_at, cohort, site, region
Drawn = Mapping[Key, F64]  # replicates of the study's primary measure, (resamples,), nan where there is none
NOTHING_DRAWN: Drawn = {}
FEWEST = 40  # replicates in which a difference is defined, below which no interval is given


def write_replicates(
    scores: Path, task: Task, study: Study, tallies: Mapping[tuple[str, str], Tally], round_: int, model: str,
    trained_at: str,
) -> None:  # fmt: skip
    """Beside a file of scores, the replicates of each cohort that is one hospital; nothing where there is none.

    Args:
        tallies: by site and cohort.
    """
    lines = [
        {"cohort": cohort, "site": site, "region": region, "values": [_number(value) for value in values.tolist()]}
        for (site, cohort), tally in sorted(tallies.items())
        if [where for _, where in tallies].count(cohort) == 1
        for region, values in task.replicates(tally, study.cases, study.evaluation).items()
    ]
    file = scores.with_suffix(ENDING)
    if lines:
        head = {"format": FORMAT, "round": round_, "model": model, "trained_at": trained_at}
        write_json(file, {**head, "metric": study.evaluation.primary, "replicates": lines})
    elif file.exists():
        remove_file(file)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def read_replicates(scores: Path) -> dict[Key, F64]:
    """Of each model those of the last round in which it was judged.

    Raises:
        RunFileError: FR-F38 a file is not as it was written.
    """
    found: dict[Key, F64] = {}
    for file in by_number(scores.glob(f"*{ENDING}")):  # their names begin with the round: a later one replaces
        says = read_json(file)
        try:
            found |= {
                (str(says["model"]), str(says["trained_at"]), str(line["cohort"]), str(line["site"]), str(line["region"])):
                _values(line["values"]) for line in says["replicates"]
            }  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise RunFileError(
                "FR-F38",
                f"not as it was written: {error!r}",
                wanted="the file as the run left it",
                do="restore it, or delete it: its intervals are then left out",
                where=file.name,
            ) from error
    return found


def _values(values: Any) -> F64:
    return np.array([math.nan if value is None else float(value) for value in values], np.float64)


def over_cases(differences: Sequence[float], pairs: Iterable[tuple[F64 | None, F64 | None]]) -> Interval:
    """The mean difference over runs, with the mean of the ends of each run's interval.

    The ends' mean is as wide as if all runs erred together, as seeds judged on the same cases nearly do: it may be too
    wide, and is not too narrow. nan where a run has no replicates.

    Args:
        differences: one a run.
        pairs: of each run the two models' replicates.
    """
    value = float(np.mean(differences))
    ends = []
    for ours, theirs in pairs:
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return Interval(value)
        paired = (ours - theirs)[np.isfinite(ours - theirs)]
        if len(paired) < FEWEST:
            return Interval(value)
        ends.append(np.percentile(paired, (2.5, 97.5)))
    low, high = np.mean(ends, axis=0)
    return Interval(value, float(low), float(high))
