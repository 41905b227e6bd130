"""The tables of a report about hospitals: their scores, who failed, what crossed their boundary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedrounds_server.cosines import nearness, sampled_of
from fedrounds_server.report.folder import RunView
from fedrounds_server.report.hospitals import main_region
from fedrounds_server.report.models import judged_cohort, where
from fedrounds_server.report.results import phantom_mark
from fedrounds_server.report.rounds import traffic
from fedrounds_server.report.table import Table
from fedrounds_server.tables import (
    ALL,
    COHORTS,
    MEAN,
    MISSING,
    MetricRow,
    final_rows,
    regions_of,
    shown_bytes,
    shown_interval,
    shown_seconds,
)

MOST_COLUMNS = 7  # measures beside each other; more of them stand below each other
BYTES = 4  # of a weight
FEW_CASES = 10  # below this a hospital's mean says little, and the table says so


def hospital_tables(run: RunView) -> tuple[Table, ...]:
    """The consensus at each hospital, lowest first, one table a cohort."""
    rows = [
        row for row in final_rows(run.rows) if row.model == "consensus" and row.metric == run.metric and row.site != ALL
    ]
    return tuple(
        _hospital_table(run, cohort, [row for row in rows if row.cohort == cohort])
        for cohort in COHORTS
        if any(row.cohort == cohort for row in rows)
    )


def _hospital_table(run: RunView, cohort: str, rows: Sequence[MetricRow]) -> Table:
    main = main_region(run)
    regions = [region for region in regions_of(rows) if region != main]
    by_place = {(row.site, row.region): row for row in rows}
    sign = -1.0 if run.lower else 1.0
    mains = [row for row in rows if row.region == main]
    ranked = {row.site for row in mains if not math.isnan(row.value) and run.rankable(row)}
    # those that may not be ranked stand last, by name
    ordered = sorted(mains, key=lambda row: (sign * row.value if row.site in ranked else math.inf, row.site))
    worst = next((row.site for row in ordered if row.site in ranked), "")
    counts = run.counts
    lines = tuple(
        (
            row.site,
            str(row.n),
            shown_interval(row.value, row.low, row.high, run.digits),
            *(_value(by_place.get((row.site, region)), run.digits) for region in regions),
            *counts.cells(row),
            _remark(row, worst, row.site in ranked),
        )
        for row in ordered
    )
    counted = (
        f" {counts.listed()} are counted over all {run.measures.parts[1]}." if main == MEAN and counts.words else ""
    )
    return Table(
        f"The consensus at {where(cohort)}: {run.word}{phantom_mark(run)}",
        ("Hospital", "Cases", run.measures.heading(main), *regions, *counts.columns(), "Remark"),
        lines,
        frozenset({0, 3 + len(regions) + len(counts.words)}),
        frozenset(index for index, row in enumerate(ordered) if row.site == worst),
        f"Worst first. 95 % intervals: {run.unit}s resampled.{counted}",
    )


def _value(row: MetricRow | None, digits: int) -> str:
    return MISSING if row is None else shown_interval(row.value, math.nan, math.nan, digits)


def _remark(row: MetricRow, worst: str, ranked: bool) -> str:
    remarks = ["worst"] if row.site == worst else []
    remarks += ["not ranked"] if not ranked and not math.isnan(row.value) else []
    remarks += [f"fewer than {FEW_CASES} cases"] if row.n < FEW_CASES else []
    return ", ".join(remarks)


def measures_table(run: RunView) -> Table | None:
    """Every measure of the consensus over all cases of the cohort that is judged."""
    cohort = judged_cohort(run)
    rows = [
        row for row in final_rows(run.rows) if (row.model, row.site, row.cohort) == ("consensus", ALL, cohort)
    ]  # fmt: skip
    metrics = tuple(dict.fromkeys(row.metric for row in rows))
    if not metrics:
        return None
    order, regions = run.measures.order(metrics), regions_of(rows)
    by_place = {(row.region, row.metric): row for row in rows}
    first = {region: next(by_place[region, name] for name in order if (region, name) in by_place) for region in regions}
    cells = {(region, name): _with_count(by_place.get((region, name)), first[region].n, run) for region in regions
             for name in order}  # fmt: skip
    inexact = run.measures.inexact(order)
    bounded = f" Sums of all hospitals' histograms, not exact: {', '.join(inexact)}." if inexact else ""
    caption = f"The consensus by every measure, {where(cohort)}, all cases alike{phantom_mark(run)}"
    note = f"95 % intervals: {run.unit}s resampled. n stands where a measure is defined for fewer cases.{bounded}"
    if len(order) > MOST_COLUMNS:
        lines = [("Cases", *(str(first[region].n) for region in regions))]
        lines += [(run.measures.word(name), *(cells[region, name] for region in regions)) for name in order]
        counted = zip(run.counts.columns(), *(run.counts.cells(first[region]) for region in regions), strict=True)
        said = {line[0] for line in lines}  # a task may count the same in measures of its own
        lines += [line for line in counted if line[0] not in said]
        return Table(caption, ("Measure", *map(run.measures.heading, regions)), tuple(lines), note=note)
    return Table(
        caption,
        (run.measures.parts[0].capitalize(), "Cases", *(run.measures.word(name) for name in order), *run.counts.columns()),
        tuple(
            (run.measures.heading(region), str(first[region].n), *(cells[region, name] for name in order),
             *run.counts.cells(first[region]))
            for region in regions
        ),
        note=note,
    )  # fmt: skip


def _with_count(row: MetricRow | None, usual: int, run: RunView) -> str:
    if row is None:
        return ""
    text = shown_interval(row.value, row.low, row.high, run.measures.digits(row.metric))
    return text if row.n == usual else f"{text} (n={row.n})"


def failures_table(run: RunView) -> Table | None:
    """Hospitals that did not finish, with the code that `fedrounds explain` describes."""
    failed = run.status.get("failed")
    if not isinstance(failed, Mapping) or not failed:
        return None
    rows = tuple((str(site), str(state), _rounds_missed(run, str(site))) for site, state in sorted(failed.items()))
    caption = "Hospitals that did not finish"
    note = "fedrounds explain CODE describes a code; the hospital's own log says more."
    return Table(caption, ("Hospital", "State", "Rounds without an update"), rows, frozenset({0, 1}), note=note)


def _rounds_missed(run: RunView, site: str) -> str:
    missed = [line.round for line in run.history for one in line.sites if one.site == site and one.state != "ok"]
    return f"{len(missed)} of {len(run.history)}"


def left_out_table(run: RunView) -> Table | None:
    """Cases that could not be used, by hospital and code."""
    left_out = run.status.get("left_out_cases")
    if not isinstance(left_out, Mapping) or not left_out:
        return None
    rows: list[tuple[str, str, str]] = []
    for site, cases in sorted(left_out.items()):
        if isinstance(cases, Mapping):
            rows += [(str(site), str(code), str(_size(number))) for code, number in sorted(cases.items())]
        else:
            rows.append((str(site), MISSING, str(_size(cases))))
    return Table("Cases left out", ("Hospital", "Code", "Cases"), tuple(rows), frozenset({0, 1}))


def _size(cases: object) -> int:
    return cases if isinstance(cases, int) else len(cases) if isinstance(cases, list | tuple) else 1


def traffic_table(run: RunView) -> Table | None:
    """What left each hospital in bytes, and how its updates compare."""
    lines = (*run.history, *run.sums)
    if not lines:
        return None
    sites = sorted({site.site for line in lines for site in line.sites})
    rows = []
    for name in sites:
        mine = [site for line in run.history for site in line.sites if site.site == name]
        sent = [site for site in mine if site.bytes_up > 0]
        both = [site for line in lines for site in line.sites if site.site == name]
        rows.append((
            name, str(sum(site.state == "ok" for site in mine)), shown_bytes(sum(site.bytes_up for site in both)),
            shown_bytes(sum(site.bytes_down for site in both)),
            shown_seconds(math.fsum(site.seconds for site in mine)),
            _mean_of([site.norm for site in sent]), _mean_of([site.cosine for site in sent]),
        ))  # fmt: skip
    up, down = traffic(lines)
    return Table(
        "What crossed the boundary of each hospital",
        ("Hospital", "Updates", "Sent", "Received", "Work", "Mean norm", "Mean cosine"),
        tuple(rows),
        note=f"All together: {shown_bytes(up)} sent, {shown_bytes(down)} received. Cosine: of an update with the mean of all{_told_from(run)}.",
    )


def _told_from(run: RunView) -> str:
    """From how many weights of each update the cosines are told, in the largest round; "" from all of them."""
    rounds = [line for line in run.history if any(site.cosine is not None for site in line.sites)]
    asked = max((sum(site.bytes_down > 0 for site in line.sites) for line in rounds), default=0)
    weights = sampled_of(asked)
    if not rounds or max(line.model_bytes for line in rounds) <= weights * BYTES:
        return ""
    return f", told from at most {weights:,} weights of each: to about {nearness(weights):.2f}"


def _mean_of(numbers: Sequence[float | None]) -> str:
    known = [number for number in numbers if number is not None]
    return shown_interval(math.fsum(known) / len(known), math.nan, math.nan) if known else MISSING
