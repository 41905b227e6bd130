"""What `fedrounds evaluate` found: numbers, tables for a person, and the three files they are kept in."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fedrounds_common.disk import write_json, write_text
from fedrounds_common.errors import DONE, PARTIAL, CaseError
from fedrounds_server.measures import Measures, counts_of
from fedrounds_server.tables import (
    ALL,
    COHORTS,
    MEAN,
    MISSING,
    MetricRow,
    Over,
    mean_of,
    regions_of,
    shown,
    shown_interval,
    write_metrics,
)

if TYPE_CHECKING:
    from fedrounds_server.report.table import Table

FORMAT = 1
OUTSIDE = "outside"  # cohort of the lines of an evaluation's metrics.csv: neither of the run's own
COLUMNS = ("site", "case", "patient", "region", "metric", "value", "state")
MOST_CASES = 40  # lines of a table of cases for a person; all of them are in cases.csv


@final
@dataclass(frozen=True)
class CaseRow:
    """One line of `cases.csv`. `value` is nan where nothing could be scored; `state` by the empty-mask rule."""

    site: str
    case: str
    patient: str
    region: str
    metric: str
    value: float
    state: str


@final
@dataclass(frozen=True)
class Evaluation:
    """What was found. `title` says of which model and which cases; `phantom`: no patient is behind the numbers.

    `metrics` holds a line a site, region and metric, with `site` all for totals, and `cases` one a case,
    region and metric (none where the run's own table is shown). `left_out`: case → why it could not be used.
    `folder`: where it was written, if it was.
    """

    title: str
    primary: str
    measures: Measures
    metrics: tuple[MetricRow, ...]
    cases: tuple[CaseRow, ...] = ()
    left_out: Mapping[str, CaseError] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    folder: Path | None = None
    phantom: bool = False

    @property
    def exit(self) -> int:
        return PARTIAL if self.left_out else DONE

    @property
    def cohorts(self) -> tuple[str, ...]:
        """Held-out sites first, since they say most about a new hospital."""
        present = {row.cohort for row in self.metrics}
        return tuple(cohort for cohort in (OUTSIDE, *COHORTS) if cohort in present)

    def value(
        self,
        region: str = "mean",
        site: str = ALL,
        metric: str | None = None,
        cohort: str | None = None,
        over: Over = "hospitals",
    ) -> float:
        """One number of the table; `metric`: the primary one, `cohort`: the first there is.

        Of all sites together, `over` "hospitals" weighs each site the same, "cases" each case, as in `Run.value`.
        """
        wanted = (region, metric or self.primary, cohort or next(iter(self.cohorts), ""))
        found = [
            row for row in self.metrics if (row.region, row.metric, row.cohort) == wanted and site in (ALL, row.site)
        ]
        if not found:
            raise KeyError(f"no {wanted[1]} at {site}, region {region}, cohort {wanted[2]}")
        return mean_of(found, over) if site == ALL else found[0].value

    def tables(self) -> tuple[Table, ...]:
        """One table a cohort with a line a site and region; then one of cases, the worst first."""
        sites = tuple(self._by_site(cohort) for cohort in self.cohorts)
        return (*sites, self._by_case()) if self.cases else sites

    def text(self) -> str:
        """Everything for a person, in plain text."""
        from fedrounds_server.report.table import as_lines

        lines = [self.title, *(f"warning: {text}" for text in self.warnings)]
        for table in self.tables():
            lines += ["", *as_lines(table)]
        if self.left_out:
            lines += ["", "left out:", *(f"  {e}" for e in self.left_out.values())]
        return "\n".join([*lines, "", f"written to {self.folder}"] if self.folder else lines)

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "primary": self.primary,
            **self.measures.as_dict(),
            "phantom": self.phantom,
            "metrics": [vars(row) for row in self.metrics],
            "cases": [vars(row) for row in self.cases],
            "left_out": faults_as_dicts(self.left_out),
            "warnings": list(self.warnings),
            "folder": None if self.folder is None else str(self.folder),
            "exit": self.exit,
        }

    def _by_site(self, cohort: str) -> Table:
        from fedrounds_server.report.table import Table

        rows = [row for row in self.metrics if row.cohort == cohort]
        by_key = {(row.site, row.region, row.metric): row for row in rows}
        metrics, counts = self._shown_of(row.metric for row in rows), counts_of(self.measures, rows)
        sites = [ALL, *sorted({row.site for row in rows} - {ALL})]
        lines = self._over_sites(rows, metrics, len(counts.words)) if len(sites) > 2 else []
        for site in sites:
            for region in regions_of(rows):
                mine = [by_key.get((site, region, metric)) for metric in metrics]
                first = next((row for row in mine if row is not None), None)
                if first is not None:
                    name = "over cases" if site == ALL else site
                    lines.append((name, region, str(first.n), *map(self._interval, mine), *counts.cells(first)))
        return Table(
            f"{'phantom cases, ' if self.phantom else ''}{cohort}: mean [95 % interval, patients resampled]",
            ("site", self.measures.parts[0], "n", *map(self.measures.word, metrics), *counts.words),
            tuple(lines),
            frozenset({0, 1}),
        )

    def _shown_of(self, present: Iterable[str]) -> tuple[str, ...]:
        """The measures that a short table shows, of those that there are."""
        there = set(present)
        return tuple(name for name in self.measures.brief(self.primary) if name in there)

    def _interval(self, row: MetricRow | None) -> str:
        digits = 0 if row is None else self.measures.digits(row.metric)
        return MISSING if row is None else shown_interval(row.value, row.low, row.high, digits)

    def _over_sites(self, rows: Sequence[MetricRow], metrics: Sequence[str], counts: int) -> list[tuple[str, ...]]:
        """The mean in which each site weighs the same, a line a region; the line over cases has its counts."""
        lines = []
        for region in regions_of(rows):
            of = {metric: [row for row in rows if (row.region, row.metric) == (region, metric)] for metric in metrics}
            values = [shown(mean_of(mine), self.measures.digits(metric)) for metric, mine in of.items()]
            lines.append(("over sites", region, "", *values, *("",) * counts))
        return lines

    def _by_case(self) -> Table:
        from fedrounds_server.report.table import Table

        by_key = {(row.site, row.case, row.region, row.metric): row for row in self.cases}
        regions = regions_of(self.cases)
        # of a measure that a case alone does not have, such as an area under a curve, what there is of it
        present = tuple({row.metric: 0 for row in self.cases})
        first = [self.measures.by_case] if self.measures.by_case in present else []
        metrics = tuple(dict.fromkeys((*first, *self._shown_of(present)))) or present
        cases = sorted(
            dict.fromkeys((row.site, row.case) for row in self.cases),
            key=lambda c: self._badness(by_key.get((*c, regions[0], metrics[0])), c[1]),
        )
        lines = []
        for case in cases[:MOST_CASES]:
            for region in regions:
                mine = [by_key.get((*case, region, metric)) for metric in metrics]
                values = [
                    MISSING if row is None else shown(row.value, self.measures.digits(row.metric)) for row in mine
                ]
                state = next((row.state for row in mine if row is not None and region != MEAN), "")
                if any(row is not None for row in mine):
                    lines.append((*case, region, *values, state))
        more = len(cases) - MOST_CASES
        note = f"{more} better cases are in cases.csv" if more > 0 else ""
        return Table(
            "cases, the worst first", ("site", "case", self.measures.parts[0], *map(self.measures.word, metrics), "state"),
            tuple(lines), frozenset({0, 1, 2, 3 + len(metrics)}), note=note,
        )  # fmt: skip

    def _badness(self, row: CaseRow | None, case: str) -> tuple[float, str]:
        """Lowest for the worst case; one without a number is no worst case."""
        if row is None or math.isnan(row.value):
            return math.inf, case
        return (-row.value if self.measures.lower_is_better(row.metric) else row.value), case


def faults_as_dicts(left_out: Mapping[str, CaseError]) -> list[dict[str, str]]:
    return [{"case": case, "code": error.code, "message": str(error)} for case, error in sorted(left_out.items())]


def write_evaluation(found: Evaluation, says: Mapping[str, Any]) -> None:
    """`cases.csv`, `metrics.csv`, and `evaluation.json` with `says` in it, in the evaluation's folder."""
    if found.folder is None:
        return
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in found.cases:
        value = "" if math.isnan(row.value) else repr(row.value)
        writer.writerow([row.site, row.case, row.patient, row.region, row.metric, value, row.state])
    write_text(found.folder / "cases.csv", stream.getvalue())
    write_metrics(found.folder / "metrics.csv", found.metrics)
    about = {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "fedrounds": version("fedrounds"),
        "title": found.title,
        "primary": found.primary,
        **found.measures.as_dict(),
        "left_out": faults_as_dicts(found.left_out),
        "warnings": list(found.warnings),
        "exit": found.exit,
    }
    write_json(found.folder / "evaluation.json", {**about, **says})
