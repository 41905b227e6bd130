"""How like real images made ones are, from sums over cases that add over sites.

Fréchet distance and kernel distance are of means and products of features: those of two sites are the sum of
theirs, and what comes of it is what all cases in one place would give. Precision and recall ask for neighbours among
cases, and a case's neighbour at another site is not to be had: they are found within each site, and their counts add.

Every case is of one of two halves, by its patient. Real cases of one half against made ones of the other's wishes, and
against its real ones and its blurred ones: three numbers of as many cases each, so that what few cases do to a Fréchet
distance, they do to all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import TYPE_CHECKING

import numpy as np

from fedrounds_common.case import F32, F64
from fedrounds_common.generative import copies
from fedrounds_common.rng import generator, share
from fedrounds_common.task import CaseScore, Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEATURES = 32  # of each channel, as the shipped network gives them
KINDS = ("real", "made", "blurred")
WAVES = 512  # random Fourier features of the kernel
WIDTH = 4.0  # of the kernel, in features whose spread is about 1
NEAREST = 3  # neighbours that make a manifold (Kynkäänniemi et al. 2019)
FEWEST = 10  # cases below which no such number is given
BLUR = 0.06  # of the longer side: the width of the control's Gaussian


def half_of(patient: str) -> int:
    """0 or 1, for ever."""
    return int(share(0, "half", patient) < 0.5)


def blurred(image: F32) -> F32:
    """The control: every axis of the grid smoothed."""
    from scipy.ndimage import gaussian_filter

    width = BLUR * max(image.shape[1:])
    found: F32 = gaussian_filter(image, (0.0, *(width,) * (image.ndim - 1)))
    return found


def sums(seen: Mapping[str, F64], halves: NDArray[np.int64], size: int) -> dict[str, F64]:
    """Sums over one site's cases.

    Args:
        seen: features (N, F) of each of KINDS; a row of nan counts for nothing.
        halves: (N,) of 0 and 1.
        size: F.

    Returns:
        of (2, 3): cases by half and kind; sum (2, 3, F) and product (2, 3, F, F) of features; wave (2, 3, W) and
        wave_square (2, 3): sums of the kernel's random features, and of their squared lengths.
    """
    found = {
        "of": np.zeros((2, 3)), "sum": np.zeros((2, 3, size)), "product": np.zeros((2, 3, size, size)),
        "wave": np.zeros((2, 3, WAVES)), "wave_square": np.zeros((2, 3)),
    }  # fmt: skip
    for place, kind in enumerate(KINDS):
        rows = seen[kind].reshape(-1, size)
        for half in (0, 1):
            x = rows[(halves == half) & np.isfinite(rows).all(axis=1)]
            waves = waves_of(x)
            found["of"][half, place] = len(x)
            found["sum"][half, place] = x.sum(axis=0)
            found["product"][half, place] = x.T @ x
            found["wave"][half, place] = waves.sum(axis=0)
            found["wave_square"][half, place] = np.square(waves).sum()
    return found


def distances(total: Mapping[str, F64]) -> dict[str, tuple[float, int]]:
    """Name → distance and how many cases stand behind it; nan on fewer than 10 in a half.

    "fid" and "mmd", each also with "_floor" (real against real) and "_blurred" (the control).
    """
    cases = total["of"]
    found: dict[str, tuple[float, int]] = {}
    for word, kind in (("", 1), ("_floor", 0), ("_blurred", 2)):
        few = min(cases[0, 0], cases[1, 0], cases[0, kind], cases[1, kind]) < FEWEST
        pairs = [((0, 0), (1, kind))] if kind == 0 else [((0, 0), (1, kind)), ((1, 0), (0, kind))]
        n = round(float(cases[:, kind].sum()))
        for name, between in (("fid", _frechet_of), ("mmd", _kernel_of)):
            values = [nan] if few else [between(total, one, other) for one, other in pairs]
            found[f"{name}{word}"] = (float(np.mean(values)), n)
    return found


def frechet(mean: F64, spread: F64, other_mean: F64, other_spread: F64) -> float:
    """|m − n|² + tr(S + T − 2 (S T)^½), of two Gaussian distributions (Heusel et al. 2017, equation 6)."""
    values, vectors = np.linalg.eigh(spread)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # S T and S^½ T S^½ have the same eigenvalues, and the second is symmetric
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_spread @ root), 0)).sum()
    distance = np.square(mean - other_mean).sum() + np.trace(spread) + np.trace(other_spread) - 2 * shared
    return max(float(distance), 0.0)


def _frechet_of(total: Mapping[str, F64], one: tuple[int, int], other: tuple[int, int]) -> float:
    return frechet(*_moments(total, one), *_moments(total, other))


def _moments(total: Mapping[str, F64], which: tuple[int, int]) -> tuple[F64, F64]:
    n = total["of"][which]
    mean = total["sum"][which] / n
    spread = (total["product"][which] - n * np.outer(mean, mean)) / (n - 1)
    return mean, (spread + spread.T) / 2


def waves_of(x: F64) -> F64:
    """(N, F) → (N, W): inner products of these are the Gaussian kernel's, nearly (Rahimi and Recht 2007)."""
    draws = generator(0, "kernel", x.shape[1])
    frequencies = draws.standard_normal((x.shape[1], WAVES // 2)) / WIDTH
    phase = x @ frequencies
    found: F64 = np.concatenate([np.cos(phase), np.sin(phase)], axis=1) / np.sqrt(WAVES // 2)
    return found


def _kernel_of(total: Mapping[str, F64], one: tuple[int, int], other: tuple[int, int]) -> float:
    """The squared maximum mean discrepancy, without bias: it may be below 0 (Gretton et al. 2012)."""
    inside = 0.0
    for which in (one, other):
        n, wave = total["of"][which], total["wave"][which]
        inside += (float(wave @ wave) - total["wave_square"][which]) / (n * (n - 1))
    cross = total["wave"][one] @ total["wave"][other] / (total["of"][one] * total["of"][other])
    return float(inside - 2 * cross)


def neighbours(real: F64, made: F64) -> dict[str, F64]:
    """Counts of one site: `hits` (2,), made ones within the real ones' manifold and real ones within the made ones';
    `asked` (2,): of how many. Nothing of a site with fewer than 10 cases.

    Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991), with 3 neighbours.
    """
    real, made = (x[np.isfinite(x).all(axis=1)] for x in (real, made))
    if min(len(real), len(made)) < FEWEST:
        return {"hits": np.zeros(2), "asked": np.zeros(2)}
    hits = np.array([_within(made, real), _within(real, made)], np.float64)
    return {"hits": hits, "asked": np.array([len(made), len(real)], np.float64)}


def _within(points: F64, manifold: F64) -> int:
    """How many points lie no farther from one of the manifold's than that one's third neighbour does."""
    own = _between(manifold, manifold)
    radius = np.sort(own, axis=1)[:, NEAREST]  # column 0 is the point itself
    return int((_between(points, manifold) <= radius).any(axis=1).sum())


def _between(one: F64, other: F64) -> F64:
    from scipy.spatial.distance import cdist

    found: F64 = cdist(one, other)
    return found


def seen(real: F32, made: F32) -> dict[str, F64]:
    """Features (F,) of a case, of what was made for it, and of its blurred control."""
    from fedrounds_common.generative.features import features

    return {"real": features(real), "made": features(made), "blurred": features(blurred(real))}


def shuffled(image: F32, rng: np.random.Generator) -> F32:
    """(C, *grid) with its voxels in another order, the same one in every channel."""
    order = rng.permutation(int(np.prod(image.shape[1:])))
    found: F32 = image.reshape(len(image), -1)[:, order].reshape(image.shape)
    return found


def tally(scores: Sequence[CaseScore], channels: int, kinds: int) -> dict[str, F64]:
    """What leaves a site: `sums` and `neighbours` of cases that nothing was trained on, and counts of distances.

    `untrained`, `trained` (kinds, BINS): how many cases of each class lie at which distance from the nearest made one.
    """
    size = channels * FEATURES
    judged = [score for score in scores if "real" in score.arrays]
    rows = {kind: np.array([score.arrays[kind] for score in judged]).reshape(-1, size) for kind in KINDS}
    halves = np.array([score.arrays["half"][0] for score in judged], np.int64)
    found = sums(rows, halves, size) | neighbours(rows["real"], rows["made"])
    for place, name in enumerate(("untrained", "trained")):
        mine = [score for score in scores if score.arrays["kind"][1] == place and not isnan(score.arrays["far"][0])]
        far = [float(score.arrays["far"][0]) for score in mine]
        found[name] = copies.counted(far, [int(score.arrays["kind"][0]) for score in mine], kinds)
    return found


def table(total: Mapping[str, F64]) -> tuple[Metric, ...]:
    """One row a measure. No intervals: a Fréchet distance grows as cases get fewer, and resampled ones are fewer."""
    rows = [_row(name, value, n) for name, (value, n) in distances(total).items()]
    for name, hits, asked in zip(("precision", "recall"), total["hits"], total["asked"], strict=True):
        rows.append(_row(name, float(hits / asked) if asked else nan, round(float(asked))))
    untrained, trained = (round(float(total[name].sum())) for name in ("untrained", "trained"))
    rows.append(_row("nearest", copies.quantile(total["untrained"].sum(axis=0), 0.5), untrained))
    rows.append(_row("nearest_trained", copies.quantile(total["trained"].sum(axis=0), 0.5), trained))
    found, of = copies.memorised(total)
    value = float(found) if of else nan
    return (*rows, Metric("mean", "memorised", value, nan, nan, of, untrained, trained, found))


def _row(name: str, value: float, n: int) -> Metric:
    return Metric("mean", name, value, nan, nan, n, 0, 0, 0)
