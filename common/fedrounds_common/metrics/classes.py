"""From the classes of cases to numbers that add, and from their sum to a table of rates, curves and calibration.

K is the number of classes that are scored. Of two classes that exclude each other that is one, the finding: the
other one's numbers are its mirror image. `exclusive`: three or more classes, each case of exactly one.

Intervals. Rates, log loss, Brier score and ECE: patients resampled, as `summary` does it, from replicates of the few
sums they are made of. AUC and average precision: from the histogram itself (DeLong; Boyd), because a histogram a
replicate would be two hundred histograms on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import final

import numpy as np

from fedrounds_common.case import F64
from fedrounds_common.metrics import calibration, confusion, curves, summary
from fedrounds_common.task import CaseScore, Measure, Metric

LOSSES = ("log_loss", "log_loss_scaled", "brier")
CALIBRATIONS = ("ece", "ece_scaled")  # of the network's own probabilities, and of those at the fitted temperature
MEASURES: Mapping[str, Measure] = {
    "auc": Measure("ROC AUC", digits=3, brief=True, exact=False),
    "auc_bound": Measure("ROC AUC, distance to the exact value at most", lower_is_better=True, digits=6),
    "ap": Measure("PR AUC (average precision)", digits=3, exact=False),
    "ap_bound": Measure("PR AUC, distance to the exact value at most", lower_is_better=True, digits=6),
    "accuracy": Measure("Accuracy", digits=3, brief=True),
    "balanced_accuracy": Measure("Balanced accuracy", digits=3, brief=True),
    "sensitivity": Measure("Sensitivity", brief=True),
    "specificity": Measure("Specificity", brief=True),
    "ppv": Measure("PPV"),
    "npv": Measure("NPV"),
    "f1": Measure("F1"),
    "mcc": Measure("MCC"),
    "ece": Measure("ECE", lower_is_better=True, digits=3),
    "ece_scaled": Measure("ECE, temperature-scaled", lower_is_better=True, digits=3),
    "log_loss": Measure("Log loss", lower_is_better=True, digits=3),
    "log_loss_scaled": Measure("Log loss, temperature-scaled", lower_is_better=True, digits=3),
    "brier": Measure("Brier score", lower_is_better=True, digits=3),
    "positives": Measure("Positive cases", digits=0),
    "tp": Measure("TP", digits=0),
    "fp": Measure("FP", lower_is_better=True, digits=0),
    "tn": Measure("TN", digits=0),
    "fn": Measure("FN", lower_is_better=True, digits=0),
}  # fmt: skip


@final
@dataclass(frozen=True)
class Judged:
    """Cases of one site as arrays: probabilities, the network's own (`plain`) and calibrated, and 0 or 1 for each
    class in truth and decision, (N, K) each."""

    probabilities: F64
    plain: F64
    truth: F64
    decided: F64


def judged(scores: Sequence[CaseScore], classes: int) -> Judged:
    """What the scores' `arrays` hold, each (K,), stacked."""

    def stacked(name: str) -> F64:
        return np.array([score.arrays[name] for score in scores], np.float64).reshape(len(scores), classes)

    return Judged(stacked("probabilities"), stacked("plain"), stacked("truth"), stacked("decided"))


def losses_of(cases: Judged, *, exclusive: bool) -> F64:
    """(N, K + 1, 3): LOSSES of each case and class, and then of the case as a whole."""
    both = [_with_whole(cases, calibration.log_loss, p, exclusive) for p in (cases.plain, cases.probabilities)]
    squares = (cases.probabilities - cases.truth) ** 2
    # Brier 1950 sums over the classes that exclude each other
    whole = squares.sum(axis=1, keepdims=True) if exclusive else squares.mean(axis=1, keepdims=True)
    return np.stack([*both, np.concatenate([squares, whole], axis=1)], axis=-1)


def _with_whole(cases: Judged, loss: Callable[..., F64], probabilities: F64, exclusive: bool) -> F64:
    single = loss(probabilities, cases.truth, exclusive=False)
    whole = loss(probabilities, cases.truth, exclusive=True) if exclusive else single.mean(axis=1, keepdims=True)
    return np.concatenate([single, whole], axis=1)


def tally(
    scores: Sequence[CaseScore], classes: int, bins: int, resamples: int, seed: int, *, exclusive: bool
) -> dict[str, F64]:
    """Counts and sums over cases.

    Args:
        bins: of a histogram of scores.
        seed: of the patients' weights, see `summary.tally`.

    Returns:
        cases, patients (1,); confusion (K, 4); matrix (K, K), true class by row, where classes exclude each other;
        losses (K + 1, 3): sums of LOSSES; histogram (K, 2, bins): negatives and positives;
        reliability (2, K, BINS, 3): of the network's own and the calibrated probabilities;
        top (2, BINS, 3), where classes exclude each other: of the named class's probability;
        replicate_confusion (resamples, K, 4), replicate_losses (resamples, K + 1, 3) and replicate_gap
        (resamples, 2, K or 1, BINS): confidence less share of right ones, patients weighed; replicate_ranked
        (resamples, K, 2): pairs of a positive and a negative case of this site in which the positive scores higher (ties
        half), and all such pairs. Over sites the last adds up to the AUC within sites, and of one site it is the AUC.
    """  # fmt: skip
    cases, names = judged(scores, classes), [score.patient for score in scores]
    weights = summary.patient_weights(names, resamples, seed)
    decisions, losses = confusion.each(cases.decided, cases.truth), losses_of(cases, exclusive=exclusive)
    both = (cases.plain, cases.probabilities)
    gaps = _gaps(cases, exclusive=exclusive)
    found = {
        "cases": np.array([len(scores)], np.float64),
        "patients": np.array([len(set(names))], np.float64),
        "confusion": decisions.sum(axis=0),
        "losses": losses.sum(axis=0),
        "histogram": _per_class(cases.probabilities, cases.truth, lambda p, t: curves.histogram(p, t, bins)),
        "reliability": np.stack([_per_class(p, cases.truth, calibration.reliability) for p in both]),
        "replicate_confusion": np.einsum("nb,nkc->bkc", weights, decisions),
        "replicate_losses": np.einsum("nb,nkl->bkl", weights, losses),
        "replicate_gap": np.einsum("nb,nskg->bskg", weights, gaps),
        "replicate_ranked": _ranked(cases, weights, bins),
    }
    if exclusive:
        found["matrix"] = cases.truth.T @ cases.decided
        found["top"] = np.stack([calibration.reliability(*_named(cases, p)) for p in both])
    return found


def _per_class(probabilities: F64, truth: F64, function: Callable[[F64, F64], F64]) -> F64:
    return np.stack([function(p, t) for p, t in zip(probabilities.T, truth.T, strict=True)])


def _named(cases: Judged, probabilities: F64) -> tuple[F64, F64]:
    """The highest probability of each case (N,), and whether that class is the true one."""
    if not len(probabilities):
        return np.zeros(0), np.zeros(0)
    best = probabilities.argmax(axis=1)
    rows = np.arange(len(best))
    return probabilities[rows, best], cases.truth[rows, best]


def _gaps(cases: Judged, *, exclusive: bool) -> F64:
    """(N, 2, K or 1, BINS): what each case adds to a bin's sum of confidences less that of right ones."""
    scaled = []
    for p in (cases.plain, cases.probabilities):
        pairs = [_named(cases, p)] if exclusive else list(zip(p.T, cases.truth.T, strict=True))
        scaled.append(
            np.stack([calibration.membership(sure) * (sure - right)[:, np.newaxis] for sure, right in pairs], axis=1)
        )
    return np.stack(scaled, axis=1)


def _ranked(cases: Judged, weights: F64, bins: int) -> F64:
    """(resamples, K, 2)."""
    found = [
        curves.ranked_pairs(p, t, weights, bins) for p, t in zip(cases.probabilities.T, cases.truth.T, strict=True)
    ]
    return np.stack(found, axis=1)


def replicates(total: Mapping[str, F64], classes: Sequence[str], metric: str, *, exclusive: bool) -> dict[str, F64]:
    """Class, and "mean", → this metric in each replicate, nan where it has none; {} of what is not resampled.

    Of AUC that of the cases of one site: of the sum over sites it is that within sites.
    """
    if total["patients"][0] < 1.5 or not len(total["replicate_confusion"]):
        return {}
    if metric == "auc":
        right, pairs = np.moveaxis(total["replicate_ranked"], -1, 0)
        within = np.clip(right, 0.0, np.maximum(pairs, 0.0))  # turned, of few positives, they may lie outside
        singles = np.divide(within, pairs, out=np.full(right.shape, nan), where=pairs > 0)
        whole = confusion.mean_of_defined(singles)
    elif metric in confusion.RATES:
        singles = confusion.rates(total["replicate_confusion"])[metric]
        whole = confusion.overall(total["replicate_confusion"], exclusive=exclusive)[metric]
    elif metric in LOSSES:
        weighed = _weighed_cases(total)[:, np.newaxis]
        means = _per_case(
            total["replicate_losses"][:, :, LOSSES.index(metric)],
            np.broadcast_to(weighed, (len(weighed), len(classes) + 1)),
        )
        singles, whole = means[:, :-1], means[:, -1]
    else:
        return {}
    return {**dict(zip(classes, singles.T, strict=True)), summary.MEAN: whole}


def table(total: Mapping[str, F64], classes: Sequence[str], *, exclusive: bool) -> tuple[Metric, ...]:
    """Each of MEASURES of each class, and then of "mean", all classes together.

    n: cases. In the columns of segmentation's empty, missed and spurious stand TN, FN and FP; of "mean", their sums.
    """
    resampled = total["patients"][0] > 1.5 and len(total["replicate_confusion"]) > 0
    rows: list[Metric] = []
    for region, values in [
        *((name, _of_class(total, index)) for index, name in enumerate(classes)),
        (summary.MEAN, _of_all(total, exclusive=exclusive)),
    ]:
        _, fp, tn, fn = (round(values[name][0]) for name in confusion.COUNTS)
        for metric in MEASURES:
            value, low, high = values[metric]
            if not resampled and metric not in ("auc", "ap"):
                low = high = nan
            rows.append(Metric(region, metric, value, low, high, round(total["cases"][0]), tn, fn, fp))
    return tuple(rows)


Row = dict[str, tuple[float, float, float]]  # by metric: value, low, high


def _of_class(total: Mapping[str, F64], index: int) -> Row:
    counts, histogram = total["confusion"][index], total["histogram"][index]
    replicates = confusion.rates(total["replicate_confusion"][:, index])
    values = {name: _with_interval(value, replicates[name]) for name, value in confusion.rates(counts).items()}
    values |= {"auc": (curves.auc(histogram), *curves.auc_interval(histogram))}
    values |= {"ap": (curves.ap(histogram), *curves.ap_interval(histogram))}
    values |= _plainly({"auc_bound": curves.auc_bound(histogram), "ap_bound": curves.ap_bound(histogram)})
    binned = zip(CALIBRATIONS, total["reliability"][:, index], strict=True)
    own = total["replicate_gap"].shape[2] > 1 or len(total["confusion"]) == 1  # each class's own gaps were resampled
    gaps = total["replicate_gap"][:, :, index] if own else None
    values |= _calibrated(dict(binned), gaps, total)
    return values | _losses(total, index) | _counted(counts)


def _of_all(total: Mapping[str, F64], *, exclusive: bool) -> Row:
    classes = len(total["confusion"])
    singles = [_of_class(total, index) for index in range(classes)]
    replicates = confusion.overall(total["replicate_confusion"], exclusive=exclusive)
    found = confusion.overall(total["confusion"], exclusive=exclusive)
    values = {name: _with_interval(value, replicates[name]) for name, value in found.items()}
    values |= {name: _mean_with_reach([single[name] for single in singles]) for name in ("auc", "ap")}
    bounds = {name: _defined_mean([single[name][0] for single in singles]) for name in ("auc_bound", "ap_bound")}
    values |= _plainly(bounds)
    if exclusive:
        binned = dict(zip(CALIBRATIONS, total["top"], strict=True))
        values |= _calibrated(binned, total["replicate_gap"][:, :, 0], total)
    else:
        values |= {name: _mean_gap(total, place, singles) for place, name in enumerate(CALIBRATIONS)}
    return values | _losses(total, classes) | _counted(total["confusion"].sum(axis=0))


def _with_interval(value: F64 | float, replicates: F64) -> tuple[float, float, float]:
    if not len(replicates):
        return float(value), nan, nan
    low, high = confusion.quietly(np.nanpercentile, replicates, q=summary.INTERVAL)
    return float(value), float(low), float(high)


def _plainly(values: Mapping[str, float]) -> Row:
    return {name: (value, nan, nan) for name, value in values.items()}


def _counted(counts: F64) -> Row:
    named = dict(zip(confusion.COUNTS, map(float, counts), strict=True))
    return _plainly({**named, "positives": named["tp"] + named["fn"]})


def _weighed_cases(total: Mapping[str, F64]) -> F64:
    """(resamples,): how many cases each replicate holds."""
    return np.asarray(total["replicate_confusion"][:, 0].sum(axis=-1), np.float64)


def _per_case(sums: F64, cases: F64) -> F64:
    means: F64 = np.divide(sums, cases, out=np.full(sums.shape, nan), where=cases > 0)
    return means


def _losses(total: Mapping[str, F64], row: int) -> Row:
    cases, weighed = total["cases"], _weighed_cases(total)
    values = {}
    for place, name in enumerate(LOSSES):
        value = _per_case(total["losses"][row, place : place + 1], cases)[0]
        values[name] = _with_interval(float(value), _per_case(total["replicate_losses"][:, row, place], weighed))
    return values


def _calibrated(bins: Mapping[str, F64], gaps: F64 | None, total: Mapping[str, F64]) -> Row:
    """ECE of the network's own and of the calibrated probabilities; gaps (resamples, 2, BINS), or None."""
    weighed = _weighed_cases(total)
    values: Row = {}
    for place, (name, each) in enumerate(bins.items()):
        value = float(calibration.ece(each))
        if gaps is None:
            values[name] = (value, nan, nan)
        else:
            values[name] = _with_interval(value, _per_case(np.abs(gaps[:, place]).sum(axis=-1), weighed))
    return values


def _mean_gap(total: Mapping[str, F64], place: int, singles: Sequence[Row]) -> tuple[float, float, float]:
    sums = np.abs(total["replicate_gap"][:, place]).sum(axis=-1).mean(axis=-1)
    value = _defined_mean([single[CALIBRATIONS[place]][0] for single in singles])
    return _with_interval(value, _per_case(sums, _weighed_cases(total)))


def _defined_mean(values: Sequence[float]) -> float:
    return float(confusion.mean_of_defined(np.array(values, np.float64)))


def _mean_with_reach(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The mean of areas, and of the ends of their intervals: as wide as if all classes erred together, never less."""
    defined = [row for row in rows if row[0] == row[0]]
    if not defined or any(low != low for _, low, _ in defined):
        return _defined_mean([row[0] for row in rows]), nan, nan
    value, low, high = np.mean(np.array(defined), axis=0)
    return float(value), float(low), float(high)
