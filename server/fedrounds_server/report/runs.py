"""Several runs of one study in one table: seeds give mean ± sd, settings give rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from fedrounds_common.errors import RunFileError
from fedrounds_server.compare import (
    POOLED,
    Comparison,
    Standing,
    common_sites,
    compare_of_runs,
    contestants,
    mean_over,
    standings_of_runs,
)
from fedrounds_server.gap import gap_of_runs
from fedrounds_server.intervals import FEW, interval, worth
from fedrounds_server.report.folder import RunView, read_run
from fedrounds_server.report.hospitals import main_region
from fedrounds_server.report.models import difference_of, judged_cohort, where
from fedrounds_server.report.results import gap_sentence, margin_sentences
from fedrounds_server.report.table import Table
from fedrounds_server.tables import MISSING, shown_difference, shown_spread


def table_of_runs(runs: Sequence[Path], labels: Sequence[str] | None = None) -> Table:
    """Each model's mean over hospitals, mean ± sd over runs, and the consensus's paired difference to it.

    Args:
        runs: run folders of one study: other seeds, other settings.
        labels: one a run, its setting, e.g. "strategy.name=fedavg"; runs of one label are its seeds.
            None: all runs are seeds of one setting.

    Raises:
        RunFileError: a folder is no run's, nothing was judged, or the runs have different primary measures.
    """
    views = [read_run(path, with_sites=False) for path in runs]
    names = labels if labels is not None else [""] * len(views)
    groups: dict[str, list[RunView]] = {}
    for name, view in zip(names, views, strict=True):
        groups.setdefault(name, []).append(view)
    judged = {(view.metric, judged_cohort(view)) for view in views}
    if len(judged) != 1 or not views[0].rows:
        found = "; ".join(sorted(f"{metric} on {cohort or 'nothing'}" for metric, cohort in judged))
        raise RunFileError("FR-F28", f"these runs judge {found}", wanted="runs of one study that judged the same")
    [(_, cohort)] = judged
    settings = labels is not None
    made = [(name, _rows(members, cohort)) for name, members in groups.items()]
    rows = tuple((name, *row) if settings else row for name, group in made for row in group)
    columns = ("Model", "Runs", "Mean over hospitals", "Consensus minus it", "95 % interval", "Verdict")
    phantom = " (phantom)" if any(view.phantom for view in views) else ""
    return Table(
        f"Mean {views[0].word} at {where(cohort)}{phantom}, mean ± standard deviation over runs",
        ("Setting", *columns) if settings else columns,
        rows,
        frozenset({0, 1, 6}) if settings else frozenset({0, 5}),
        frozenset(index for index, row in enumerate(rows) if "consensus" in row),
        _note(groups, cohort),
    )


def _rows(runs: Sequence[RunView], cohort: str) -> list[tuple[str, ...]]:
    tables = [run.rows for run in runs]
    first = runs[0]
    region, seed, metric = main_region(first), first.seed, first.metric
    pairs = _beside(runs, cohort)
    every = standings_of_runs(tables, metric, cohort, seed, lower=first.lower)
    return [_row(one, pairs.get(one.label), first.digits) for one in every if one.region == region]


def _row(one: Standing, pair: Comparison | None, digits: int) -> tuple[str, ...]:
    """`digits` of the measure itself; means over runs are printed to one more."""
    beside = (MISSING, MISSING, "")
    if pair is not None:
        # the mean itself stands in the column before: of the interval only the ends are needed
        ends = difference_of(pair, digits).split(" ", 1)[1] if not math.isnan(pair.told.low) else MISSING
        beside = (_spread(pair.per_run, digits + 1, sign=True), ends, pair.verdict)
    return (one.label, str(len(one.per_run)), _spread(one.per_run, digits + 1), *beside)


def _spread(values: Sequence[float], digits: int, sign: bool = False) -> str:
    text = shown_spread(mean(values), stdev(values) if len(values) > 1 else math.nan, digits)
    if sign:
        text = "+" + text if mean(values) >= 0 else text.replace("-", "−")
    return text


def _note(groups: dict[str, list[RunView]], cohort: str) -> str:
    sentences = []
    first = _all(groups)[0]
    metric, lower = first.metric, first.lower
    for name, members in groups.items():
        prefix = f"{name}: " if name else ""
        seeds = ", ".join(str(member.seed) for member in members)
        sentences.append(f"{prefix}{'seeds' if len(members) > 1 else 'seed'} {seeds}.")
        region, tables = main_region(members[0]), [member.rows for member in members]
        way = gap_of_runs(tables, metric, cohort, region, members[0].seed, lower=lower)
        if way is not None:
            sentences.append(gap_sentence(way, first.digits))
    sentences += _between(groups, cohort)
    tables = [view.rows for view in _all(groups)]
    hospitals = max(one.hospitals for one in standings_of_runs(tables, metric, cohort, lower=lower))
    pairs = [_beside(members, cohort) for members in groups.values()]
    for (name, members), found in zip(groups.items(), pairs, strict=True):
        said = margin_sentences(found.get(POOLED), members[0].margin, first.digits)
        sentences += [f"{name}: {sentence}" if name else sentence for sentence in said]
    if any(one.is_over_cases for found in pairs for one in found.values()):
        sentences.append(
            "Intervals are over the cases of the one hospital: of each run, the mean of their ends, as wide as if all runs "
            f"erred together ({first.unit}s resampled, the same draws for every model); they say nothing about other hospitals."
        )
    else:
        sentences.append("Intervals: a hospital's difference is its mean over runs; hospitals resampled 10,000 times.")
    return " ".join([*sentences, worth(hospitals)]).strip()


def _beside(runs: Sequence[RunView], cohort: str) -> dict[str, Comparison]:
    """Each other model with the consensus beside it, in the row that the study is about."""
    first = runs[0]
    every = compare_of_runs(
        [run.rows for run in runs], first.metric, cohort, first.seed, lower=first.lower,
        drawn=[run.drawn for run in runs],
    )  # fmt: skip
    return {one.other.label: one for one in every if one.other.region == main_region(first)}


def _between(groups: dict[str, list[RunView]], cohort: str) -> list[str]:
    """The consensus of each setting minus that of the first, paired by hospital."""
    (first, base), *others = groups.items()
    region, seed, digits = main_region(base[0]), base[0].seed, base[0].digits + 1
    sentences = []
    for name, members in others:
        ours, theirs = (
            [contestants(run.rows, run.metric, cohort, lower=run.lower)["consensus"] for run in runs]
            for runs in (members, base)
        )
        sites = common_sites([*ours, *theirs], region)
        differences = mean_over(ours, region, sites) - mean_over(theirs, region, sites)
        found = interval(differences, sites, seed)
        shows = len(sites) >= FEW and found.excludes_zero
        text = shown_difference(found.value, found.low, found.high, digits)
        sentences.append(f"Consensus, {name} minus {first}: {text}, {'shown' if shows else 'not shown'}.")
    return sentences


def _all(groups: dict[str, list[RunView]]) -> list[RunView]:
    return [member for members in groups.values() for member in members]
