"""From the scores of cases to numbers that add, and from their sum to a table.

What leaves a site is a tally: sums and counts, no case's score by name. Intervals need resampled
patients, and patients stay at home, so each site sends `resamples` sums in which every patient counts
Poisson(1) times: the sum over sites is a bootstrap of all patients (Hanley and MacGibbon 2006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan

import numpy as np
from numpy.typing import NDArray

from fedrounds_common import rng
from fedrounds_common.case import F64
from fedrounds_common.metrics.rules import METRICS, STATES
from fedrounds_common.task import CaseScore, Metric

MEAN = "mean"  # the row of a case's mean over its regions
INTERVAL = (2.5, 97.5)


def tally(
    scores: Sequence[CaseScore], regions: Sequence[str], resamples: int, seed: int, metrics: Sequence[str] = METRICS
) -> dict[str, F64]:
    """Sums and counts over cases that have a value. R = regions and then "mean", M = metrics.

    Args:
        scores: cases of one site; `values` holds every region and "mean".
        regions: in the study's order, without "mean".
        metrics: that each of their values has, and "mean" too.
        seed: of the patients' weights. One site's must differ from another's where both name a
            patient "1"; the same for each model that is compared, so that differences are paired.

    Returns:
        cases (1,): how many; sum, count, patients (R, M): of values, of cases and of patients with one;
        state (R, 4): cases per entry of STATES ("mean": their sum over regions);
        replicate_sum, replicate_count (resamples, R, M): as sum and count, patients weighed.
    """
    rows = [*regions, MEAN]
    values = np.array([[[score.values[r][m] for m in metrics] for r in rows] for score in scores], np.float64)
    values = values.reshape(len(scores), len(rows), len(metrics))
    defined = (~np.isnan(values)).astype(np.float64)
    filled = np.where(np.isnan(values), 0.0, values)
    names = [score.patient for score in scores]
    weights = patient_weights(names, resamples, seed)
    return {
        "cases": np.array([len(scores)], np.float64),
        "sum": filled.sum(axis=0),
        "count": defined.sum(axis=0),
        "patients": _patients(names, defined),
        "state": _states(scores, regions),
        "replicate_sum": np.einsum("nb,nrm->brm", weights, filled),
        "replicate_count": np.einsum("nb,nrm->brm", weights, defined),
    }


def table(total: Mapping[str, F64], regions: Sequence[str], metrics: Sequence[str] = METRICS) -> tuple[Metric, ...]:
    """Mean and 95 % percentile interval of each region and metric, regions first, then "mean".

    The interval is nan below two patients or without resamples: one patient says nothing about others.
    """
    rows = []
    for r, region in enumerate([*regions, MEAN]):
        _, empty, missed, spurious = (round(number) for number in total["state"][r])
        for m, metric in enumerate(metrics):
            n = round(total["count"][r, m])
            value = float(total["sum"][r, m] / n) if n else nan
            low, high = interval(total, r, m)
            rows.append(Metric(region, metric, value, low, high, n, empty, missed, spurious))
    return tuple(rows)


def interval(total: Mapping[str, F64], row: int, column: int) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the replicates' means."""
    means = replicate_means(total, row, column)
    if total["patients"][row, column] < 1.5 or not len(means):
        return nan, nan
    low, high = np.percentile(means, INTERVAL)
    return float(low), float(high)


def replicate_means(total: Mapping[str, F64], row: int, column: int) -> F64:
    """One mean a replicate; a replicate in which nobody counts is left out."""
    counts = total["replicate_count"][:, row, column]
    means: F64 = total["replicate_sum"][counts > 0, row, column] / counts[counts > 0]
    return means


def replicates(total: Mapping[str, F64], regions: Sequence[str], column: int) -> dict[str, F64]:
    """Region → the mean of metric number `column` in each replicate, nan where nobody counts; of two patients or more."""
    found = {}
    for row, region in enumerate([*regions, MEAN]):
        sums, counts = (total[name][:, row, column] for name in ("replicate_sum", "replicate_count"))
        if len(sums) and total["patients"][row, column] > 1.5:
            found[region] = np.divide(sums, counts, out=np.full(sums.shape, nan), where=counts > 0)
    return found


def patient_weights(patients: Sequence[str], resamples: int, seed: int) -> F64:
    """(cases, resamples): how often each case's patient counts in each replicate."""
    known: dict[str, NDArray[np.int64]] = {}
    for name in patients:
        if name not in known:
            known[name] = rng.generator(seed, "bootstrap", name).poisson(1.0, resamples)
    weights = np.zeros((len(patients), resamples), np.float64)
    for index, name in enumerate(patients):
        weights[index] = known[name]
    return weights


def _patients(names: Sequence[str], defined: F64) -> F64:
    groups = [np.array([name == patient for name in names]) for patient in sorted(set(names))]
    counts = np.zeros(defined.shape[1:], np.float64)
    for group in groups:
        counts += defined[group].max(axis=0)
    return counts


def _states(scores: Sequence[CaseScore], regions: Sequence[str]) -> F64:
    counts = np.zeros((len(regions) + 1, len(STATES)), np.float64)
    for score in scores:
        for r, region in enumerate(regions):
            counts[r, STATES.index(score.state[region])] += 1
    counts[-1] = counts[:-1].sum(axis=0)
    return counts
