"""The consensus of a classification beside every other model on the very same held-out cases, in pairs.

    python benchmarks/paired_cases.py RUN [RUN ...]

Of simulated runs only: it reads the scores of single cases, which stay in each site's folder. Several runs are seeds of
one study. The reports compare hospitals; where a data set's own test images are one site, this compares cases: they are
drawn with replacement, the same ones for both models and all seeds, 2,000 times (percentile interval).
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from fedrounds_common.case import F64
from fedrounds_common.metrics import curves
from fedrounds_common.rng import generator

DRAWS: Final = 2000
BINS: Final = 10_000
Table = dict[str, dict[str, tuple[float, float, float]]]  # model → case → right, probability, truth
POSITIVE: Final = ("scored", "missed")


def read(run: Path) -> Table:
    """The last round's scores of each held-out case: whether it is right; of two classes, its probability and truth."""
    found: Table = {}
    for file in sorted(run.glob("sites/*/cases.csv")):
        with file.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["cohort"] == "held-out"]
        last = {
            model: max(int(row["round"]) for row in rows if _label(row) == model) for model in set(map(_label, rows))
        }
        for row in rows:
            if int(row["round"]) == last[_label(row)]:
                _take(found.setdefault(_label(row), {}), row)
    return found


def _label(row: Mapping[str, str]) -> str:
    return row["model"] if row["trained_at"] == "all" else f"{row['model']} at {row['trained_at']}"


def _take(cases: dict[str, tuple[float, float, float]], row: Mapping[str, str]) -> None:
    right, probability, truth = cases.get(row["case"], (np.nan, np.nan, np.nan))
    value = float(row["value"] or "nan")
    if row["region"] == "mean":
        if row["metric"] == "accuracy":
            right = value
    elif row["metric"] == "log_loss":
        truth = float(row["state"] in POSITIVE)
        probability = np.exp(-value) if truth else -np.expm1(-value)
    cases[row["case"]] = (right, probability, truth)


def accuracy(cases: F64) -> float:
    return float(cases[:, 0].mean())


def auc(cases: F64) -> float:
    return curves.auc(curves.histogram(np.clip(cases[:, 1], 0, 1), cases[:, 2], BINS))


def compared(
    runs: Sequence[Table], model: str, measure: Callable[[F64], float]
) -> tuple[list[float], float, tuple[float, float]]:
    """The model's value in each run; the consensus minus it, the mean over runs; and its 95 % interval."""
    names = sorted(set.intersection(*(set(run[each]) for run in runs for each in ("consensus", model))))
    pairs = [tuple(np.array([run[each][name] for name in names]) for each in ("consensus", model)) for run in runs]
    values = [measure(other) for _, other in pairs]
    gain = float(np.mean([measure(ours) - measure(other) for ours, other in pairs]))
    draws = generator(0, "paired cases", model)
    differences = []
    for _ in range(DRAWS):
        chosen = draws.integers(len(names), size=len(names))
        differences.append(np.mean([measure(ours[chosen]) - measure(other[chosen]) for ours, other in pairs]))
    low, high = np.nanpercentile(differences, (2.5, 97.5))
    return values, gain, (float(low), float(high))


def main(folders: Sequence[str]) -> None:
    runs = [read(Path(folder)) for folder in folders]
    classes = {row[2] for run in runs for row in run["consensus"].values()}
    regions = len(
        {line.split(",")[5] for line in Path(folders[0], "metrics.csv").read_text(encoding="utf-8").splitlines()[1:]}
    )
    name, measure = ("AUC", auc) if regions == 2 and classes <= {0.0, 1.0} else ("accuracy", accuracy)
    print(f"{name} of {len(runs)} runs, {len(runs[0]['consensus'])} held-out cases")
    ours = [measure(np.array(list(run["consensus"].values()))) for run in runs]
    print("consensus", *(f"{value:.4f}" for value in ours))
    for model in sorted(set.intersection(*map(set, runs)) - {"consensus", "untrained"}):
        values, gain, (low, high) = compared(runs, model, measure)
        print(
            f"{model} {' '.join(f'{value:.4f}' for value in values)}; consensus minus it {gain:+.4f} [{low:+.4f}, {high:+.4f}]"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
