"""Can a hospital be told by its images alone? A small classifier on healthy slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F64, Case
from fedrounds_common.errors import DataError

FOLDS = 3
_RIDGE = 0.05
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def aucs(cases: Sequence[Case]) -> dict[str, float]:
    """Hospital → area under the curve of "this hospital's slice, or another's?", cross-validated by patient.

    One linear discriminant a hospital (Fisher 1936, ridge 0.05) on a few numbers a channel of each axial
    slice without tumour: quantiles, roughness along each axis, and how the channels go together.

    Raises:
        DataError: fewer than two hospitals, or than FOLDS patients at one of them.
    """
    features, sites, patients = _table(cases)
    names = sorted(set(sites.tolist()))
    few = [name for name in names if len(set(patients[sites == name].tolist())) < FOLDS]
    if len(names) < 2 or few:
        raise DataError("FR-P07", f"{len(names)} hospitals, {len(few)} with fewer than {FOLDS} patients")
    # patients in turn, so that every hospital has some in every fold
    turn = {(case.ref.site, case.ref.patient): 0 for case in cases}
    for name in names:
        ordered = sorted(patient for site, patient in turn if site == name)
        turn.update({(name, patient): number % FOLDS for number, patient in enumerate(ordered)})
    fold = np.array([turn[site, patient] for site, patient in zip(sites.tolist(), patients.tolist(), strict=True)])
    return {name: _auc_of(features, sites == name, fold) for name in names}


def _table(cases: Sequence[Case]) -> tuple[F64, NDArray[np.str_], NDArray[np.str_]]:
    """Features (slices, numbers), and the hospital and patient of each slice."""
    rows, sites, patients = [], [], []
    for case in cases:
        for number in _healthy_slices(case):
            rows.append(_features(case, number))
            sites.append(str(case.ref.site))
            patients.append(case.ref.patient)
    return np.array(rows), np.array(sites), np.array(patients)


def _healthy_slices(case: Case) -> list[int]:
    """Axial slices without tumour that show at least half as much head as the fullest one."""
    area = (case.image != 0).any(axis=0).sum(axis=(0, 1))
    tumour = case.labels.any(axis=(0, 1)) if case.labels is not None else np.zeros(len(area), bool)
    return [int(number) for number in np.flatnonzero((area > 0.5 * area.max()) & ~tumour)]


def _features(case: Case, number: int) -> list[float]:
    slice_ = case.image[..., number]
    inside = (slice_ != 0).all(axis=0)
    values = slice_[:, inside].astype(np.float64)
    rough = [np.abs(np.diff(slice_, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)]
    above = np.abs(slice_ - case.image[..., max(number - 1, 0)]).mean(axis=(1, 2))
    together = np.atleast_2d(np.corrcoef(values))[np.triu_indices(len(slice_), 1)]
    return [*np.quantile(values, _QUANTILES, axis=1).ravel(), *rough[0], *rough[1], *above, *np.nan_to_num(together)]


def _auc_of(features: F64, ours: NDArray[np.bool_], fold: NDArray[np.int64]) -> float:
    """The mean over the folds."""
    found = []
    for part in range(FOLDS):
        judged = fold == part
        weights = _discriminant(features[~judged], ours[~judged])
        found.append(auc(features[judged] @ weights, ours[judged]))
    return float(np.mean(found))


def _discriminant(features: F64, ours: NDArray[np.bool_]) -> F64:
    """The direction that parts two classes best, for features scaled to unit variance."""
    scale = features.std(axis=0) + 1e-9
    scaled = features / scale
    apart = scaled[ours].mean(axis=0) - scaled[~ours].mean(axis=0)
    within = np.cov(scaled[~ours].T) + _RIDGE * np.eye(len(apart))
    return np.asarray(np.linalg.solve(within, apart) / scale, np.float64)


def auc(score: F64, positive: NDArray[np.bool_]) -> float:
    """The chance that a positive scores above a negative, ties by half (Mann and Whitney 1947)."""
    negatives = np.sort(score[~positive])
    below = np.searchsorted(negatives, score[positive], "left")
    up_to = np.searchsorted(negatives, score[positive], "right")
    return float((below + up_to).mean() / 2 / len(negatives))
