"""The floor: what can be found with nothing learned. Every rule is tried on every channel.

A model that does not beat the best of these has learned nothing worth a hospital's trouble. The best is
chosen per region *with* the references of the very cases it is scored on, so the floor is generous.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedrounds_common.case import F32, F64, Case, CaseRef
from fedrounds_common.errors import DataError
from fedrounds_common.geometry import onto
from fedrounds_common.metrics.rules import METRICS, STATES, mean_over_regions
from fedrounds_common.metrics.summary import MEAN
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.task import CaseScore

Mask = NDArray[np.bool_]

BINS = 128
KMEANS = 4
_SMOOTH = 0.6  # voxels: a difference of two noisy images would be all noise
_MOST = 0.3  # of the head: a mask larger than this is one piece


@final
@dataclass(frozen=True, order=True)
class Rule:
    """One rule on one channel. `part`: which side of the threshold; `largest`: its largest piece only."""

    name: str  # otsu, otsu-twice, k-means, mirror, template
    channel: str
    part: str
    largest: bool

    def __str__(self) -> str:
        return f"{self.name} on {self.channel} ({self.part}{', largest piece' if self.largest else ''})"


def floor(cases: Sequence[Case], form: CaseForm) -> dict[str, float]:
    """Region → mean Dice of the best untrained rule for that region.

    Args:
        cases: prepared, with references; any number of channels, grids may differ.

    Raises:
        DataError: no cases, or none with a reference.
    """
    return {region: dice for region, (_, dice) in best(cases, form).items()}


def best(cases: Sequence[Case], form: CaseForm) -> dict[str, tuple[Rule, float]]:
    """Region → the best untrained rule and its mean Dice."""
    return chosen(*scores(cases, form), form)


def chosen(rules: Sequence[Rule], dice: F64, form: CaseForm) -> dict[str, tuple[Rule, float]]:
    """Region → the rule whose mean of `dice` (cases, rules, regions) is the highest there, and that mean."""
    means = dice.mean(axis=0)
    winners = means.argmax(axis=0)
    return {region: (rules[winners[k]], float(means[winners[k], k])) for k, region in enumerate(form.scored)}


@final
@dataclass(frozen=True)
class Judged:
    """Every rule on every case that has a reference; `dice` and `states` are (cases, rules, regions).

    `dice`: two empty masks count 1, as in `evaluation.empty = "one"`. `states`: which of the metrics'
    STATES, by its place there, what the empty-mask rule makes of the two masks.
    """

    refs: tuple[CaseRef, ...]
    rules: tuple[Rule, ...]
    dice: F64
    states: NDArray[np.uint8]


def scores(cases: Sequence[Case], form: CaseForm) -> tuple[tuple[Rule, ...], F64]:
    """Dice (cases, rules, regions) of every rule; two empty masks count 1, as in `evaluation.empty = "one"`."""
    found = judge(cases, form)
    return found.rules, found.dice


def judge(cases: Sequence[Case], form: CaseForm) -> Judged:
    """Every rule on every case with a reference.

    Raises:
        DataError: no cases, or none with a reference.
    """
    judged = [case for case in cases if case.target is not None]
    if not judged:
        raise DataError("FR-P07", f"{len(cases)} cases, none with a reference", wanted="cases with references")
    template = _Template(judged)
    rules: tuple[Rule, ...] = ()
    dice, states = list[F64](), list[NDArray[np.uint8]]()
    for case in judged:
        found = dict(_masks(case, template.without(case), form))
        rules = tuple(found)
        of_case, states_of_case = _dice(np.stack([mask.ravel() for mask in found.values()]), case, form)
        dice.append(of_case)
        states.append(states_of_case)
    return Judged(tuple(case.ref for case in judged), rules, np.stack(dice), np.stack(states))


def as_scores(found: Judged, form: CaseForm, empty: str) -> dict[str, list[CaseScore]]:
    """Rule → its score of each case, region by region. Dice alone: what a rule finds is not measured otherwise.

    Args:
        empty: `evaluation.empty`: "one", or "skip" that leaves two empty masks out.
    """
    nothing = dict.fromkeys(METRICS, math.nan)
    regions = tuple(form.scored)

    def score(case: int, rule: int) -> CaseScore:
        state = {region: STATES[int(found.states[case, rule, k])] for k, region in enumerate(regions)}
        dice = {
            region: math.nan if empty == "skip" and state[region] == "both-empty" else float(found.dice[case, rule, k])
            for k, region in enumerate(regions)
        }
        values = {region: {**nothing, "dice": value} for region, value in dice.items()}
        return CaseScore(found.refs[case].name, found.refs[case].patient, values, state)

    return {str(rule): [score(case, k) for case in range(len(found.refs))] for k, rule in enumerate(found.rules)}


def best_of(
    guessed: Mapping[str, Sequence[CaseScore]], regions: Sequence[str]
) -> tuple[list[CaseScore], dict[str, str]]:
    """Each region by the rule of the highest mean Dice there, over all cases; a rule without any value has 0.

    Returns:
        One score a case, with the mean over its regions; and region → rule.
    """
    rules, scores = list(guessed), list(guessed.values())
    dice = np.array([[[of[k].values[r]["dice"] for r in regions] for of in scores] for k in range(len(scores[0]))])
    counts = (~np.isnan(dice)).sum(axis=0)
    means: F64 = np.divide(np.nansum(dice, axis=0), counts, out=np.zeros(counts.shape), where=counts > 0)
    best = dict(zip(regions, np.argmax(means, axis=0).tolist(), strict=True))
    made = []
    for k, first in enumerate(scores[0]):
        values = {region: scores[rule][k].values[region] for region, rule in best.items()}
        state = {region: scores[rule][k].state[region] for region, rule in best.items()}
        made.append(CaseScore(first.case, first.patient, {**values, MEAN: mean_over_regions(values)}, state))
    return made, {region: rules[rule] for region, rule in best.items()}


def _dice(masks: Mask, case: Case, form: CaseForm) -> tuple[F64, NDArray[np.uint8]]:
    """Dice and state, (rules, regions) each."""
    assert case.labels is not None  # only cases with a reference come here
    labels = case.labels.ravel()
    regions = np.stack([np.isin(labels, values) for values in form.scored.values()])
    both = masks.astype(np.float32) @ regions.T.astype(np.float32)
    predicted, reference = masks.sum(axis=1)[:, None], regions.sum(axis=1)
    total = predicted + reference
    dice = np.ones(both.shape)
    np.divide(2 * both, total, out=dice, where=total > 0)
    wrong = np.where(reference > 0, STATES.index("missed"), STATES.index("spurious"))
    states = np.where((predicted > 0) & (reference > 0), STATES.index("scored"), wrong)
    return dice, np.where(total > 0, states, STATES.index("both-empty")).astype(np.uint8)


def _masks(case: Case, template: F32, form: CaseForm) -> Iterator[tuple[Rule, Mask]]:
    inside = (case.image != 0).any(axis=0)
    if not inside.any():
        inside = np.ones_like(inside)
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    for index, channel in enumerate(form.channels):
        for name, part, values in _parts(case, index, template[index], inside):
            mask = np.zeros(case.grid, bool)
            mask[inside] = values
            yield Rule(name, channel, part, largest=False), mask
            piece = np.zeros(case.grid, bool)
            piece[box] = _largest(mask[box]) if values.mean() < _MOST else mask[box]
            yield Rule(name, channel, part, largest=True), piece


def _parts(case: Case, channel: int, template: F32, inside: Mask) -> Iterator[tuple[str, str, Mask]]:
    """Each rule's name, the part it takes, and which of the voxels `inside` those are."""
    levels = _levels(case.image[channel][inside])
    counts = np.bincount(levels, minlength=BINS)
    once = otsu(counts)
    yield "otsu", "bright", levels > once
    yield "otsu", "dark", levels <= once
    yield "otsu-twice", "bright", levels > once + 1 + otsu(counts[once + 1 :])
    yield "otsu-twice", "dark", levels <= otsu(counts[: once + 1])
    cluster = kmeans(counts)[levels]
    for number in range(KMEANS):
        yield "k-means", f"cluster {number + 1} of {KMEANS}", cluster == number
    smoothed = ndimage.gaussian_filter(case.image[channel], _SMOOTH)
    differences = {"template": smoothed[inside] - template[inside]}
    mirrored = _mirrored(smoothed, case, inside)
    if mirrored is not None:
        differences["mirror"] = smoothed[inside] - mirrored
    for name, difference in differences.items():
        for part, side in (("brighter", difference), ("darker", -difference)):
            levels = _levels(np.maximum(side, 0))
            counts = np.bincount(levels, minlength=BINS)
            counts[0] = 0  # the other side
            yield name, part, levels > otsu(counts)


def _levels(values: F32) -> NDArray[np.uint8]:
    """Values in BINS steps between their 0.2 and 99.8 % quantiles: every rule below works on counts."""
    low, high = np.quantile(values[:: max(1, len(values) // 5000)], (0.002, 0.998))
    scaled = (values - low) * ((BINS - 1) / max(float(high - low), 1e-9))
    return np.asarray(np.clip(scaled, 0, BINS - 1), np.uint8)


def _mirrored(smoothed: F32, case: Case, inside: Mask) -> F32 | None:
    """The channel reflected left to right about the middle of the head, at the voxels `inside`."""
    axis = next((k for k, letter in enumerate(case.orientation) if letter in "RL"), None)
    if axis is None:
        return None
    along = inside.sum(axis=tuple(k for k in range(inside.ndim) if k != axis))
    middle = float(np.average(np.arange(len(along)), weights=along))
    where = np.clip(2 * middle - np.arange(len(along)), 0, len(along) - 1.001)
    low = where.astype(np.int64)
    shape = [-1 if k == axis else 1 for k in range(inside.ndim)]
    part = (where - low).astype(np.float32).reshape(shape)
    reflected = np.take(smoothed, low, axis) * (1 - part) + np.take(smoothed, low + 1, axis) * part
    return np.asarray(reflected[inside], np.float32)


@final
class _Template:
    """The mean image of all cases on the first one's grid; each case is compared with the others' mean."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._first, self._count = cases[0], len(cases)
        self._sum = np.sum([self._moved(case, self._first) for case in cases], axis=0, dtype=np.float64)

    def without(self, case: Case) -> F32:
        """The mean of the other cases, on this case's grid."""
        mean = (self._sum - self._moved(case, self._first)) / max(self._count - 1, 1)
        return self._moved(self._first.with_image(mean.astype(np.float32)), case)

    @staticmethod
    def _moved(case: Case, to: Case) -> F32:
        if case.grid == to.grid and np.array_equal(case.affine, to.affine):
            return case.image
        return np.stack([onto(channel, case.affine, to.grid, to.affine) for channel in case.image])


def _largest(mask: Mask) -> Mask:
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())


def otsu(counts: NDArray[np.int64]) -> int:
    """The last bin of the lower of two classes with the least variance within them (Otsu 1979).

    With fewer than two bins filled there is nothing to part: the last filled one, or 0.
    """
    filled = np.flatnonzero(counts)
    if len(filled) < 2:
        return int(filled[-1]) if len(filled) else 0
    below = np.cumsum(counts)[:-1].astype(np.float64)
    sums = np.cumsum(counts * np.arange(len(counts)))
    above = counts.sum() - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return int(np.nanargmax(between))


def kmeans(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cluster of each bin, 0 … KMEANS - 1 from dark to bright: k-means of one number (Lloyd 1982)."""
    bins = np.arange(len(counts))
    shares = np.cumsum(counts) / max(counts.sum(), 1)
    means = np.searchsorted(shares, (np.arange(KMEANS) + 0.5) / KMEANS).astype(np.float64)
    for _ in range(50):
        cluster = np.searchsorted((means[1:] + means[:-1]) / 2, bins)
        weights = np.bincount(cluster, counts, KMEANS)
        moved = np.bincount(cluster, counts * bins, KMEANS) / np.maximum(weights, 1)
        moved = np.sort(np.where(weights > 0, moved, means))
        if np.array_equal(moved, means):
            break
        means = moved
    return np.searchsorted((means[1:] + means[:-1]) / 2, bins)
