"""What `fedrounds evaluate` found: numbers, tables for a person, and the three files they are kept in."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fedrounds_common.disk import write_json, write_text
from fedrounds_common.errors import DONE, PARTIAL, CaseError
from fedrounds_server.tables import (
    ALL,
    COHORTS,
    LOWER_IS_BETTER,
    MetricRow,
    Over,
    digits_of,
    mean_of,
    regions_of,
    shown,
    shown_interval,
    word_of,
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
            "phantom": self.phantom,
            "metrics": [vars(row) for row in self.metrics],
            "cases": [vars(row) for row in self.cases],
            "left_out": faults_as_dicts(self.left_out),
            "warnings": list(self.warnings),
            "folder": None if self.folder is None else str(self.folder),
            "exit": self.exit,
        }

    @property
    def _metrics_shown(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.primary, "dice", "hd95")))

    def _by_site(self, cohort: str) -> Table:
        from fedrounds_server.report.table import Table

        rows = [row for row in self.metrics if row.cohort == cohort]
        by_key = {(row.site, row.region, row.metric): row for row in rows}
        sites = [ALL, *sorted({row.site for row in rows} - {ALL})]
        lines = self._over_sites(rows) if len(sites) > 2 else []
        for site in sites:
            for region in regions_of(rows):
                mine = [by_key[site, region, metric] for metric in self._metrics_shown]
                values = [shown_interval(row.value, row.low, row.high, digits_of(row.metric)) for row in mine]
                counts = (mine[0].empty, mine[0].missed, mine[0].spurious)
                name = "over cases" if site == ALL else site
                lines.append((name, region, str(mine[0].n), *values, *map(str, counts)))
        words = [word_of(metric) for metric in self._metrics_shown]
        return Table(
            f"{'phantom cases, ' if self.phantom else ''}{cohort}: mean [95 % interval, patients resampled]",
            ("site", "region", "n", *words, "both empty", "missed", "spurious"),
            tuple(lines),
            frozenset({0, 1}),
        )

    def _over_sites(self, rows: Sequence[MetricRow]) -> list[tuple[str, ...]]:
        """The mean in which each site weighs the same, a line a region; the line over cases has its counts."""
        lines = []
        for region in regions_of(rows):
            values = [
                shown(mean_of(row for row in rows if (row.region, row.metric) == (region, metric)), digits_of(metric))
                for metric in self._metrics_shown
            ]
            lines.append(("over sites", region, "", *values, "", "", ""))
        return lines

    def _by_case(self) -> Table:
        from fedrounds_server.report.table import Table

        by_key = {(row.site, row.case, row.region, row.metric): row for row in self.cases}
        regions = regions_of(self.metrics)
        cases = sorted(
            dict.fromkeys((row.site, row.case) for row in self.cases),
            key=lambda c: self._badness(by_key[*c, regions[0], self.primary]),
        )
        lines = []
        for case in cases[:MOST_CASES]:
            for region in regions:
                mine = [by_key[*case, region, metric] for metric in self._metrics_shown]
                values = [shown(row.value, digits_of(row.metric)) for row in mine]
                lines.append((*case, region, *values, mine[0].state if region != "mean" else ""))
        more = len(cases) - MOST_CASES
        words = [word_of(metric) for metric in self._metrics_shown]
        note = f"{more} better cases are in cases.csv" if more > 0 else ""
        return Table(
            "cases, the worst first", ("site", "case", "region", *words, "state"), tuple(lines),
            frozenset({0, 1, 2, 3 + len(words)}), note=note,
        )  # fmt: skip

    def _badness(self, row: CaseRow) -> tuple[float, str]:
        """Lowest for the worst case; one without a number is no worst case."""
        if math.isnan(row.value):
            return math.inf, row.case
        return (-row.value if row.metric in LOWER_IS_BETTER else row.value), row.case


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
        "left_out": faults_as_dicts(found.left_out),
        "warnings": list(found.warnings),
        "exit": found.exit,
    }
    write_json(found.folder / "evaluation.json", {**about, **says})
