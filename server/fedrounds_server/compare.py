"""What federating was worth: every other model beside the consensus, on the same hospitals.

A hospital is the unit. Each model's mean is over hospitals, each difference is paired by hospital,
and 95 % intervals come from drawing hospitals with replacement (percentile bootstrap), because the
question is what the next hospital may expect, not the next case of a hospital already seen.

`lower`, in every function: less of the measure is better. `rankable`: whether so much stands behind a line that its
hospital may be called the worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from fedrounds_common.case import F64
from fedrounds_server.intervals import FEW, Interval, interval
from fedrounds_server.replicates import NOTHING_DRAWN, Drawn, over_cases
from fedrounds_server.tables import ALL, MEAN, MetricRow, final_rows, model_order, regions_of

CONSENSUS, UNTRAINED, POOLED = "consensus", "untrained", "pooled"
OVER_CASES = "over its cases: "  # before a verdict on a single hospital
Values = Mapping[str, float]  # by site
Rankable = Callable[[MetricRow], bool]


def scored(row: MetricRow) -> bool:
    """Anything at all stands behind it."""
    return row.n > 0


@final
@dataclass(frozen=True)
class Standing:
    """How one model did on one cohort: means over hospitals, and what stands behind them.

    `worst_site` is "" where no hospital may be ranked. `mean` weighs hospitals alike (hospitals resampled); `by_cases` weighs cases alike (interval, where
    there is one, from `metrics.csv`: patients resampled). `per_run` is `mean` of each run alone.
    """

    label: str
    model: str
    trained_at: str
    region: str
    metric: str
    mean: Interval
    by_cases: Interval
    per_run: tuple[float, ...]
    hospitals: int
    cases: int
    empty: int
    missed: int
    spurious: int
    worst_site: str
    worst: float


@final
@dataclass(frozen=True)
class Comparison:
    """The consensus beside one other model on the hospitals both were judged at.

    `difference` = consensus − other, paired by hospital; `by_cases` the same with cases weighed alike;
    `better` counts hospitals where the consensus did better. `over_cases`: of a single hospital `difference` with an
    interval over its cases, which says nothing of other hospitals; nan ends where there is none.
    """

    consensus: Standing
    other: Standing
    difference: Interval
    by_cases: float
    better: int
    per_run: tuple[float, ...]
    lower: bool
    note: str = ""
    over_cases: Interval = field(default_factory=lambda: Interval(math.nan))

    @property
    def told(self) -> Interval:
        """The difference with the interval that can be given: over hospitals, or over the cases of the only one."""
        return self.over_cases if self.is_over_cases else self.difference

    @property
    def is_over_cases(self) -> bool:
        return self.other.hospitals == 1 and not math.isnan(self.over_cases.low)

    @property
    def shown(self) -> bool:
        """The interval excludes 0 and stands on at least five hospitals."""
        return self.other.hospitals >= FEW and self.difference.excludes_zero

    @property
    def verdict(self) -> str:
        if self.is_over_cases:
            return f"{OVER_CASES}{self._direction(self.over_cases, 'not shown')}"
        if self.other.hospitals < FEW:
            return "too few hospitals"
        if not self.difference.excludes_zero:
            return "not shown"
        return f"shown: {self._direction(self.difference, '')}"

    def _direction(self, found: Interval, neither: str) -> str:
        if not found.excludes_zero:
            return neither
        return "better" if (found.value < 0) == self.lower else "worse"

    def beside_margin(self, margin: float) -> str:
        """Whether the consensus is worse than the other model by more than `margin`, from the interval's ends.

        Returns:
            "within the margin": the interval holds nothing that is so much worse. "worse": it holds nothing else.
            "not shown": it holds both. "too few hospitals": there is no interval to say it by.
        """
        found = self.told
        if math.isnan(found.low) or (self.other.hospitals < FEW and not self.is_over_cases):
            return "too few hospitals"
        least, most = (-found.high, -found.low) if self.lower else (found.low, found.high)
        return "within the margin" if least > -margin else "worse" if most < -margin else "not shown"


@final
@dataclass(frozen=True)
class Contestant:
    """One model as it is compared: its line for each (region, site), and its line over all sites."""

    label: str
    model: str
    trained_at: str
    rows: Mapping[tuple[str, str], MetricRow]
    totals: Mapping[str, MetricRow]
    note: str = ""

    def values(self, region: str) -> Values:
        """Site → value, without the sites where nothing could be averaged."""
        return {site: row.value for (name, site), row in self.rows.items() if name == region and row.value == row.value}


# ---------------------------------------------------------------- who is compared


def contestants(rows: Iterable[MetricRow], metric: str, cohort: str, *, lower: bool) -> dict[str, Contestant]:
    """Every model judged on this cohort, by the label it has in tables, in their order."""
    chosen = [row for row in final_rows(rows) if row.metric == metric and row.cohort == cohort]
    groups: dict[tuple[str, str], list[MetricRow]] = {}
    for row in chosen:
        groups.setdefault((row.model, row.trained_at), []).append(row)
    found: list[Contestant] = []
    everywhere = {row.site for row in groups.get((CONSENSUS, ALL), ()) if row.site != ALL}
    for model in sorted({model for model, _ in groups}, key=lambda model: (model_order(model), model)):
        theirs = {place: group for (name, place), group in groups.items() if name == model}
        if ALL in theirs:
            found.append(_contestant(model, model, ALL, theirs.pop(ALL)))
        found += _of_single_sites(model, theirs, everywhere, lower)
    return {contestant.label: contestant for contestant in found}


def _contestant(label: str, model: str, trained_at: str, rows: Iterable[MetricRow], note: str = "") -> Contestant:
    kept = tuple(rows)
    return Contestant(
        label,
        model,
        trained_at,
        {(row.region, row.site): row for row in kept if row.site != ALL},
        {row.region: row for row in kept if row.site == ALL},
        note,
    )


def _of_single_sites(
    model: str, theirs: Mapping[str, Sequence[MetricRow]], everywhere: set[str], lower: bool
) -> list[Contestant]:
    """Models that one site trained: each at its own hospital, and the best of those judged everywhere."""
    found = []
    home = [row for place, group in theirs.items() for row in group if row.site == place]
    if home and len(theirs) > 1:
        label = "personal" if model == "personal" else f"own {model}"
        found.append(_contestant(label, model, "each", home, "each hospital's own model at that hospital"))
    full = {place: group for place, group in theirs.items() if everywhere and everywhere <= {row.site for row in group}}
    if len(full) == 1:
        [(place, group)] = full.items()
        found.append(_contestant(model, model, place, group, f"trained at {place} alone"))
    elif full:
        place = min(full, key=lambda place: (-_goodness(full[place], lower), place))
        note = f"{place}, the best of {len(full)}, chosen in hindsight: a bound in its favour"
        found.append(_contestant(f"best {model}", model, place, full[place], note))
    return found


def _goodness(rows: Sequence[MetricRow], lower: bool) -> float:
    """The mean over hospitals that a model is picked by: of region "mean", larger is better."""
    regions = {row.region for row in rows}
    region = MEAN if MEAN in regions else min(regions)
    values = [row.value for row in rows if row.region == region and row.site != ALL and not math.isnan(row.value)]
    if not values:
        return -math.inf
    mean = math.fsum(values) / len(values)
    return -mean if lower else mean


# ---------------------------------------------------------------- means, differences, intervals


def standings(
    rows: Iterable[MetricRow], metric: str, cohort: str, seed: int = 0, *, lower: bool, rankable: Rankable = scored
) -> tuple[Standing, ...]:
    """Every model on every hospital it was judged at, by region and then in the order of tables."""
    return standings_of_runs((tuple(rows),), metric, cohort, seed, lower=lower, rankable=rankable)


def standings_of_runs(
    runs: Sequence[Sequence[MetricRow]], metric: str, cohort: str, seed: int = 0, *, lower: bool,
    rankable: Rankable = scored,
) -> tuple[Standing, ...]:  # fmt: skip
    """As `standings`, for several runs of one study: a hospital's value is its mean over the runs."""
    found = [contestants(rows, metric, cohort, lower=lower) for rows in runs]
    labels = [label for label in found[0] if all(label in one for one in found)] if found else []
    made = []
    for region in _regions(runs, metric, cohort):
        for label in labels:
            models = [one[label] for one in found]
            sites = common_sites(models, region)
            if sites:
                made.append(_standing(models, region, sites, seed, lower, rankable))
    return tuple(made)


def _regions(runs: Sequence[Sequence[MetricRow]], metric: str, cohort: str) -> tuple[str, ...]:
    return regions_of(row for rows in runs for row in rows if row.metric == metric and row.cohort == cohort)


def compare(
    rows: Iterable[MetricRow], metric: str, cohort: str, seed: int = 0, *, lower: bool, drawn: Drawn = NOTHING_DRAWN
) -> tuple[Comparison, ...]:
    """The consensus of one run beside each other model, by region.

    `untrained` is left out: a gain over random weights says nothing. `drawn`: replicates of `metric`, for intervals over
    cases where one hospital is judged at.
    """
    return compare_of_runs((tuple(rows),), metric, cohort, seed, lower=lower, drawn=(drawn,))


def compare_of_runs(
    runs: Sequence[Sequence[MetricRow]], metric: str, cohort: str, seed: int = 0, *, lower: bool,
    drawn: Sequence[Drawn] = (),
) -> tuple[Comparison, ...]:  # fmt: skip
    """As `compare`, for several runs of one study: a hospital's value is its mean over the runs.

    Only models, regions and hospitals that every run has are compared. `drawn`: one a run, or none at all.
    """
    found = [contestants(rows, metric, cohort, lower=lower) for rows in runs]
    if not found or any(CONSENSUS not in one for one in found):
        return ()
    labels = [label for label in found[0] if all(label in one for one in found)]
    labels = [label for label in labels if label not in (CONSENSUS, UNTRAINED)]
    pairs = (
        _pair([one[CONSENSUS] for one in found], [one[label] for one in found], region, seed, lower)
        for region in _regions(runs, metric, cohort)
        for label in labels
    )
    return tuple(
        replace(pair, over_cases=_over_cases(pair, found, cohort, drawn)) for pair in pairs if pair is not None
    )


def _over_cases(
    pair: Comparison, runs: Sequence[Mapping[str, Contestant]], cohort: str, drawn: Sequence[Drawn]
) -> Interval:
    """Of a single hospital the difference with its interval over cases; nan ends of several, or without replicates."""
    if pair.other.hospitals != 1 or len(drawn) != len(runs):
        return pair.over_cases

    region, labels = pair.other.region, (CONSENSUS, pair.other.label)
    [site] = common_sites([run[label] for run in runs for label in labels], region)

    def replicates(run: Mapping[str, Contestant], values: Drawn, label: str) -> F64 | None:
        return values.get((run[label].model, run[label].trained_at, cohort, site, region))

    both = (
        (replicates(run, values, CONSENSUS), replicates(run, values, pair.other.label))
        for run, values in zip(runs, drawn, strict=True)
    )
    return over_cases(pair.per_run, both)


def _pair(
    ours: Sequence[Contestant], theirs: Sequence[Contestant], region: str, seed: int, lower: bool
) -> Comparison | None:
    sites = common_sites([*ours, *theirs], region)
    if not sites:
        return None
    consensus, other = (_standing(models, region, sites, seed, lower) for models in (ours, theirs))
    differences = mean_over(ours, region, sites) - mean_over(theirs, region, sites)
    gains = -differences if lower else differences
    return Comparison(
        consensus,
        other,
        interval(differences, sites, seed),
        consensus.by_cases.value - other.by_cases.value,
        int(np.count_nonzero(gains > 0)),
        tuple(our - their for our, their in zip(consensus.per_run, other.per_run, strict=True)),
        lower,
        theirs[0].note if len(theirs) == 1 else "",
    )


def common_sites(models: Sequence[Contestant], region: str) -> list[str]:
    """The hospitals at which every one of them has a value, sorted."""
    return sorted(set.intersection(*(set(one.values(region)) for one in models)))


def mean_over(models: Sequence[Contestant], region: str, sites: Sequence[str]) -> F64:
    """One value a hospital, its mean over the same model of several runs, (len(sites),)."""
    mean: F64 = np.mean([vector_of(one, region, sites) for one in models], axis=0)
    return mean


def vector_of(one: Contestant, region: str, sites: Sequence[str]) -> F64:
    return np.array([one.rows[region, site].value for site in sites], np.float64)


def _standing(
    models: Sequence[Contestant], region: str, sites: Sequence[str], seed: int, lower: bool, rankable: Rankable = scored
) -> Standing:
    """The mean over `sites` of one model, or of the same model in several runs."""
    values = mean_over(models, region, sites)
    rows = [one.rows[region, site] for one in models for site in sites]
    first = models[0]
    ranked = [k for k, site in enumerate(sites) if all(rankable(one.rows[region, site]) for one in models)]
    worst = max(ranked, key=lambda k: values[k] if lower else -values[k], default=None)
    places = sorted({one.trained_at for one in models})
    return Standing(
        first.label,
        first.model,
        places[0] if len(places) == 1 else "one a run",
        region,
        rows[0].metric,
        interval(values, sites, seed),
        _by_cases(models, region, rows),
        tuple(float(np.mean(vector_of(one, region, sites))) for one in models),
        len(sites),
        sum(row.n for row in rows),
        sum(row.empty for row in rows),
        sum(row.missed for row in rows),
        sum(row.spurious for row in rows),
        "" if worst is None else sites[worst],
        math.nan if worst is None else float(values[worst]),
    )


def _by_cases(models: Sequence[Contestant], region: str, rows: Sequence[MetricRow]) -> Interval:
    cases = sum(row.n for row in rows)
    total = models[0].totals.get(region)
    if len(models) == 1 and total is not None and total.n == cases:
        return Interval(total.value, total.low, total.high)
    return Interval(math.fsum(row.value * row.n for row in rows) / cases if cases else math.nan)
