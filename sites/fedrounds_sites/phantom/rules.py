"""The floor: what can be found with nothing learned. Every rule is tried on every channel.

A model that does not beat the best of these has learned nothing worth a hospital's trouble. The best is
chosen per region *with* the references of the very cases it is scored on, so the floor is generous.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedrounds_common.case import F32, F64, Case
from fedrounds_common.errors import DataError
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.geometry import onto

Mask = NDArray[np.bool_]

BINS = 128
KMEANS = 4


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
    rules, dice = scores(cases, form)
    means = dice.mean(axis=0)
    chosen = means.argmax(axis=0)
    return {
        region: (rules[chosen[index]], float(means[chosen[index], index])) for index, region in enumerate(form.scored)
    }


def scores(cases: Sequence[Case], form: CaseForm) -> tuple[tuple[Rule, ...], F64]:
    """Dice (cases, rules, regions) of every rule; two empty masks count 1, as in `evaluation.empty = "one"`."""
    judged = [case for case in cases if case.target is not None]
    if not judged:
        raise DataError("FR-P07", f"{len(cases)} cases, none with a reference", wanted="cases with references")
    template = _Template(judged)
    rules: tuple[Rule, ...] = ()
    rows = []
    for case in judged:
        found = dict(_masks(case, template.without(case), form))
        rules = tuple(found)
        rows.append(_dice(np.stack([mask.ravel() for mask in found.values()]), case, form))
    return rules, np.stack(rows)


def _dice(masks: Mask, case: Case, form: CaseForm) -> F64:
    assert case.target is not None  # only cases with a reference come here
    labels = case.target.voxels.ravel()
    regions = np.stack([np.isin(labels, values) for values in form.scored.values()])
    both = masks.astype(np.float32) @ regions.T.astype(np.float32)
    total = masks.sum(axis=1)[:, None] + regions.sum(axis=1)
    dice = np.ones(both.shape)
    np.divide(2 * both, total, out=dice, where=total > 0)
    return dice


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
            piece[box] = _largest(mask[box])
            yield Rule(name, channel, part, largest=True), piece


def _parts(case: Case, channel: int, template: F32, inside: Mask) -> Iterator[tuple[str, str, Mask]]:
    """Each rule's name, the part it takes, and which of the voxels `inside` those are."""
    values = case.image[channel][inside]
    once = otsu(values)
    yield "otsu", "bright", values > once
    yield "otsu", "dark", values <= once
    yield "otsu-twice", "bright", values > otsu(values[values > once])
    yield "otsu-twice", "dark", values <= otsu(values[values <= once])
    edges = kmeans_edges(values)
    for cluster in range(KMEANS):
        yield "k-means", f"cluster {cluster + 1} of {KMEANS}", np.digitize(values, edges) == cluster
    differences = {"template": _smoothed(case.image[channel], inside) - template[inside]}
    mirrored = _mirrored(case, channel, inside)
    if mirrored is not None:
        differences["mirror"] = _smoothed(case.image[channel], inside) - mirrored
    for name, difference in differences.items():
        for part, side in (("brighter", difference), ("darker", -difference)):
            above = side[side > 0]
            yield name, part, side > (otsu(above) if len(above) else np.inf)


def _smoothed(channel: F32, inside: Mask) -> F32:
    """Lightly smoothed, so that a difference of two noisy images is not all noise."""
    return np.asarray(ndimage.gaussian_filter(channel, 0.6)[inside], np.float32)


def _mirrored(case: Case, channel: int, inside: Mask) -> F32 | None:
    """The channel reflected left to right about the middle of the head, at the voxels `inside`."""
    axis = next((k for k, letter in enumerate(case.orientation) if letter in "RL"), None)
    if axis is None:
        return None
    along = inside.sum(axis=tuple(k for k in range(inside.ndim) if k != axis))
    middle = float(np.average(np.arange(len(along)), weights=along))
    flipped = np.flip(ndimage.gaussian_filter(case.image[channel], 0.6), axis)
    move = [0.0] * inside.ndim
    move[axis] = 2 * middle - (len(along) - 1)
    return np.asarray(ndimage.shift(flipped, move, order=1)[inside], np.float32)


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


def otsu(values: F32) -> float:
    """The threshold that parts values into two classes with the least variance within (Otsu 1979)."""
    if len(values) < 2 or values.min() == values.max():
        return float(values.max()) if len(values) else 0.0
    counts, edges = np.histogram(values, BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    sums = np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between[:-1]))])


def kmeans_edges(values: F32) -> F64:
    """The KMEANS - 1 borders of one-dimensional k-means, started at quantiles (Lloyd 1982), on a histogram."""
    low, high = np.quantile(values, (0.002, 0.998))
    counts, edges = np.histogram(np.clip(values, low, high), BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    means = np.quantile(values, (np.arange(KMEANS) + 0.5) / KMEANS)
    for _ in range(30):
        borders = (means[1:] + means[:-1]) / 2
        cluster = np.digitize(centres, borders)
        weight = np.bincount(cluster, counts, KMEANS)
        moved = np.bincount(cluster, counts * centres, KMEANS) / np.maximum(weight, 1)
        moved = np.where(weight > 0, moved, means)
        if np.allclose(moved, means):
            break
        means = np.sort(moved)
    return np.asarray((means[1:] + means[:-1]) / 2, np.float64)
