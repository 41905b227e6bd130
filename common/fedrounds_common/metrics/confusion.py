"""Right and wrong decisions, counted for each class, and the rates that such counts amount to.

Counts are (..., 4): TP, FP, TN, FN, of one class against all others. K classes: (..., K, 4). A rate whose
denominator is 0 is nan, never 0: a site without a positive case has no sensitivity. A count below 0, as replicates
that were turned may hold of a class with few cases (`hiding.py`), is taken for 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F64

COUNTS = ("tp", "fp", "tn", "fn")
RATES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "mcc")
FEW_POSITIVES = 10  # sites with fewer positive cases are not ranked: one case more or less moves them past each other


def each(decided: F64, truth: F64) -> F64:
    """(N, K) and (N, K) of 0 and 1 → (N, K, 4): which of the four each decision is."""
    return np.stack(
        [decided * truth, decided * (1 - truth), (1 - decided) * (1 - truth), (1 - decided) * truth], axis=-1
    )


def rates(counts: F64) -> dict[str, F64]:
    """Each of RATES, (...), of counts (..., 4).

    Sources: Matthews 1975 (MCC); Brodersen et al. 2010 (balanced accuracy); F1 is Dice's coefficient of the two
    sets of cases.
    """
    tp, fp, tn, fn = np.moveaxis(np.maximum(counts, 0.0), -1, 0)
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return {
        "accuracy": _ratio(tp + tn, tp + fp + tn + fn),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": _ratio(tp, tp + fp),
        "npv": _ratio(tn, tn + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "mcc": _ratio(tp * tn - fp * fn, np.sqrt(margins)),
    }


def overall(counts: F64, *, exclusive: bool) -> dict[str, F64]:
    """Each of RATES over all classes, (...), of counts (..., K, 4): the mean over the classes where it is defined.

    `exclusive`: a case is of exactly one class. Then accuracy is the share of cases whose class was named, balanced
    accuracy the mean of the classes' sensitivities, and MCC Gorodkin's (2004, doi:10.1016/j.compbiolchem.2004.09.006).
    """
    single = rates(counts)
    means = {name: mean_of_defined(values) for name, values in single.items()}
    if exclusive:
        tp, fp, tn, fn = np.moveaxis(np.maximum(counts, 0.0), -1, 0)
        cases = (tp + fp + tn + fn)[..., 0]
        right, named, true = tp.sum(axis=-1), tp + fp, tp + fn
        unlike = [np.maximum(cases**2 - (each**2).sum(axis=-1), 0.0) for each in (named, true)]
        means["accuracy"] = _ratio(right, cases)
        means["balanced_accuracy"] = means["sensitivity"]
        means["mcc"] = _ratio(right * cases - (named * true).sum(axis=-1), np.sqrt(unlike[0] * unlike[1]))
    return means


def mean_of_defined(values: F64) -> F64:
    """(..., K) → (...): the mean of what is not nan; nan where all is."""
    return quietly(np.nanmean, values, axis=-1)


def quietly(function: Callable[..., F64], *arguments: F64 | NDArray[np.float64], **options: object) -> F64:
    """NumPy's nan-functions of an all-nan slice: nan, which is what is meant here, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(function(*arguments, **options), np.float64)


def _ratio(part: F64, whole: F64) -> F64:
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    found: F64 = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return found
