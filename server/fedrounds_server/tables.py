"""`metrics.csv`: one line a round, model, site, cohort, region and metric; and how numbers are printed.

Every figure, table and report is drawn from these lines, so nothing can be shown that is not in the file.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Protocol, final

import numpy as np

from fedrounds_common.disk import write_text
from fedrounds_common.errors import RunFileError
from fedrounds_common.task import Metric

# The order in which models stand in every table: from nothing learned to all data in one place.
MODELS = (
    "floor",
    "untrained",
    "initial",
    "local-only",
    "local-only-long",
    "personal",
    "ensemble",
    "consensus",
    "pooled",
)
COHORTS = ("held-out", "local-val", "train")
ALL = "all"
Over = Literal["hospitals", "cases"]  # what weighs the same in a mean over all sites
MEAN = "mean"
MISSING = "–"


@final
@dataclass(frozen=True)
class MetricRow:
    """One line of `metrics.csv`; the fields are its columns, in order.

    `trained_at` is `all` or the site whose model it is; `site` is `all` for totals. `value`, `low` and
    `high` (95 %, patients resampled) are nan where nothing could be averaged. `n` cases are in the mean;
    `empty`, `missed` and `spurious` count cases by the empty-mask rule.
    """

    round: int
    model: str
    trained_at: str
    site: str
    cohort: str
    region: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    empty: int
    missed: int
    spurious: int

    @property
    def key(self) -> tuple[int, str, str, str, str, str, str]:
        """What a line is about; no two lines of a file share it."""
        return (self.round, self.model, self.trained_at, self.site, self.cohort, self.region, self.metric)


COLUMNS = tuple(entry.name for entry in fields(MetricRow))
_OF_METRIC = tuple(entry.name for entry in fields(Metric))


def metric_rows(
    metrics: Iterable[Metric], *, round: int, model: str, trained_at: str, site: str, cohort: str
) -> tuple[MetricRow, ...]:
    """The lines of one table that `Task.table` made."""
    about = (round, model, trained_at, site, cohort)
    return tuple(MetricRow(*about, **{name: getattr(metric, name) for name in _OF_METRIC}) for metric in metrics)


def write_metrics(path: Path, rows: Iterable[MetricRow]) -> None:
    """Write all lines, sorted, so that equal results give equal files; whole or not at all.

    Raises:
        RunFileError: two lines say something about the same thing.
    """
    ordered = sorted(rows, key=_order)
    seen: set[tuple[object, ...]] = set()
    for row in ordered:
        if row.key in seen:
            raise RunFileError("FR-F24", f"two lines for {'/'.join(map(str, row.key))}", wanted="one", where=path.name)
        seen.add(row.key)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_text(getattr(row, name)) for name in COLUMNS] for row in ordered)
    write_text(path, buffer.getvalue())


def read_metrics(path: Path) -> tuple[MetricRow, ...]:
    """Every line, in the file's order.

    Raises:
        RunFileError: no such file, other columns, or a line that cannot be read (its number is named).
    """
    if not path.is_file():
        raise RunFileError("FR-F21", f"there is no {path.name}", wanted="a run that judged a model", where=str(path))
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if tuple(header) != COLUMNS:
            raise RunFileError(
                "FR-F22", f"columns {','.join(header) or '(none)'}", wanted=",".join(COLUMNS), where=str(path)
            )
        return tuple(_row(line, f"{path} line {number}") for number, line in enumerate(lines, start=2))


def _row(line: Sequence[str], where: str) -> MetricRow:
    if len(line) != len(COLUMNS):
        raise RunFileError("FR-F23", f"{len(line)} fields", wanted=f"{len(COLUMNS)}", where=where)
    round, model, trained_at, site, cohort, region, metric, value, low, high, *counts = line
    try:
        n, empty, missed, spurious = (int(count) for count in counts)
        return MetricRow(int(round), model, trained_at, site, cohort, region, metric,
                         number(value), number(low), number(high), n, empty, missed, spurious)  # fmt: skip
    except ValueError as error:
        raise RunFileError("FR-F23", str(error), wanted="numbers as this program writes them", where=where) from error


def number(text: str) -> float:
    """A float of a CSV field; an empty field is nan."""
    return float(text) if text else math.nan


def _text(value: float | int | str) -> str:
    # repr is the shortest text that reads back to the same bits
    return "" if isinstance(value, float) and math.isnan(value) else str(value)


def _order(row: MetricRow) -> tuple[object, ...]:
    return (row.round, model_order(row.model), row.model, row.trained_at != ALL, row.trained_at, row.cohort,
            row.site != ALL, row.site, row.region != MEAN, row.region, row.metric)  # fmt: skip


def model_order(model: str) -> int:
    """Where a model stands in every table; one nobody named comes last."""
    return MODELS.index(model) if model in MODELS else len(MODELS)


def final_rows(rows: Iterable[MetricRow]) -> tuple[MetricRow, ...]:
    """Of each model (and of each site's own), the lines of the last round in which it was judged.

    The last one and not the best one: picking a round by its score flatters whoever is picked.
    """
    kept = tuple(rows)
    last: dict[tuple[str, str, str], int] = {}
    for row in kept:
        name = (row.model, row.trained_at, row.cohort)
        last[name] = max(last.get(name, row.round), row.round)
    return tuple(row for row in kept if last[row.model, row.trained_at, row.cohort] == row.round)


def mean_of(rows: Iterable[MetricRow], over: Over = "hospitals") -> float:
    """One number of one model on one cohort, in one region and measure; `rows` are these lines of every site and all.

    Over hospitals each of them weighs the same, and one where nothing could be averaged is left out:
    the mean that every headline, table and comparison prints. Over cases each case does. Where no hospital by
    itself has enough cases for a number and all together have (a Fréchet distance), it is theirs together.
    nan of nothing.
    """
    kept = [row for row in sorted(rows, key=_order) if not math.isnan(row.value)]
    wanted = [row.value for row in kept if (row.site == ALL) == (over == "cases")] or [row.value for row in kept]
    return float(np.mean(wanted)) if wanted else math.nan


def cohort_to_show(rows: Iterable[MetricRow]) -> str:
    """The cohort that says most about a new hospital: held-out, else local-val, else train ("" if none)."""
    present = {row.cohort for row in rows}
    return next((cohort for cohort in COHORTS if cohort in present), min(present, default=""))


class OfRegion(Protocol):
    """A line of a table: of `metrics.csv`, or of a table of cases."""

    @property
    def region(self) -> str: ...


def regions_of(rows: Iterable[OfRegion]) -> tuple[str, ...]:
    """ "mean" first, then the others by name; the mean alone is left out where it repeats a single region."""
    names = sorted({row.region for row in rows})
    others = [name for name in names if name != MEAN]
    return ((MEAN,) if MEAN in names else ()) + tuple(others) if len(others) != 1 else tuple(others)


def shown(value: float, digits: int = 2) -> str:
    """0.87, or a dash where there is nothing.

    >>> shown(0.8749), shown(float("nan"))
    ('0.87', '–')
    """
    return MISSING if math.isnan(value) else f"{value:.{digits}f}"


def shown_interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """0.87 [0.85, 0.89]; the interval is left out where there is none.

    >>> shown_interval(0.871, 0.852, 0.889)
    '0.87 [0.85, 0.89]'
    """
    if math.isnan(value) or math.isnan(low) or math.isnan(high):
        return shown(value, digits)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def shown_difference(value: float, low: float, high: float, digits: int = 3) -> str:
    """+0.021 [−0.004, +0.037]: every number carries its sign, a true minus that no line breaks after.

    >>> shown_difference(0.0214, -0.004, 0.0371)
    '+0.021 [−0.004, +0.037]'
    """
    numbers = [f"{number:+.{digits}f}".replace("-", "−") for number in (value, low, high)]
    if math.isnan(value):
        return MISSING
    return numbers[0] if math.isnan(low) or math.isnan(high) else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def shown_spread(mean: float, deviation: float, digits: int = 3) -> str:
    """0.871 ± 0.004; the deviation of a single run is not a number and is left out."""
    return shown(mean, digits) + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}")


def shown_percent(share: float) -> str:
    """94 %, with a space that no line breaks at.

    >>> shown_percent(0.936)
    '94\\xa0%'
    """
    return MISSING if math.isnan(share) else f"{100 * share:.0f}\u00a0%"


def shown_bytes(count: float) -> str:
    """Decimal units, as networks are sold: 3.1 GB.

    >>> shown_bytes(999), shown_bytes(3_140_000_000)
    ('999 B', '3.1 GB')
    """
    if count < 1000:
        return f"{count:.0f} B"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1000**power:.1f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def shown_seconds(seconds: float) -> str:
    """12.1 s, 6 min 12 s, 2 h 03 min."""
    if math.isnan(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
