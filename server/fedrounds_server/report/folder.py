"""A run folder as figures and report read it. Opens no case: at most a site's scores and drawn pictures.

`sites/` is read only when asked (`with_sites`): in a simulation it lies beside the rest, between
hospitals it stays there.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, final

from fedrounds_common import shelves
from fedrounds_common.errors import RunFileError
from fedrounds_common.task import Metric, Task
from fedrounds_server.folder import RunFolder, read_json
from fedrounds_server.history import ROUND, JudgingLine, RoundLine, read_judging
from fedrounds_server.history import read as read_history
from fedrounds_server.measures import Counts, Measures, counts_of
from fedrounds_server.replicates import Drawn, read_replicates
from fedrounds_server.tables import MEAN, MetricRow, number, read_metrics

CASE_COLUMNS = ("round", "model", "trained_at", "cohort", "case", "patient", "region", "metric", "value", "state")
Fields = Mapping[str, Any]


@final
@dataclass(frozen=True)
class CaseValue:
    """The score of one case in one region, read from the `cases.csv` of the site that holds it."""

    site: str
    round: int
    cohort: str
    case: str
    region: str
    value: float
    state: str


@final
@dataclass(frozen=True)
class DrawnCase:
    """A picture that a site drew of one of its worst cases, with its panels' names from left to right."""

    site: str
    file: Path
    title: str
    case: str
    cohort: str
    round: int
    panels: tuple[str, ...]
    value: float


@final
@dataclass(frozen=True)
class RunView:
    """Everything a report shows, in memory. `cases` and `pictures` are empty without `with_sites`."""

    path: Path
    record: Fields
    status: Fields
    study: Fields
    rows: tuple[MetricRow, ...]
    history: tuple[RoundLine, ...]
    cases: tuple[CaseValue, ...] = ()
    pictures: tuple[DrawnCase, ...] = ()
    sums: tuple[RoundLine, ...] = ()
    judging: tuple[JudgingLine, ...] = ()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def metric(self) -> str:
        """The primary measure, named in the study before the run."""
        return str(table_of(self.study, "evaluation").get("primary", "dice"))

    @cached_property
    def measures(self) -> Measures:
        """What its task says of its measures."""
        return Measures.read(self.record, str(table_of(self.study, "task").get("name", "segmentation")))

    @cached_property
    def counts(self) -> Counts:
        """The columns that count empty, missed and spurious, where anything in the run is so."""
        return counts_of(self.measures, self.rows)

    @property
    def word(self) -> str:
        """The primary measure as a person reads it."""
        return self.measures.word(self.metric)

    @property
    def digits(self) -> int:
        """Decimals the primary measure is printed with."""
        return self.measures.digits(self.metric)

    @property
    def lower(self) -> bool:
        """Whether less of the primary measure is better."""
        return self.measures.lower_is_better(self.metric)

    @property
    def case_metric(self) -> str:
        """The measure by which single cases are ordered."""
        return self.measures.by_case or self.metric

    @cached_property
    def _task(self) -> Task | None:
        """The study's task where it is one of ours: code of a user's folder is not run for a report."""
        table = table_of(self.study, "task")
        return shelves.TASKS.build(table, "task")[0] if table.get("name") in shelves.TASKS.names() else None

    def rankable(self, row: MetricRow) -> bool:
        """Whether so much stands behind a line that its hospital may be ranked by it against another."""
        if self._task is None:
            return row.n > 0
        return self._task.rankable(Metric(**{entry.name: getattr(row, entry.name) for entry in fields(Metric)}))

    @cached_property
    def drawn(self) -> Drawn:
        """What intervals over the cases of a single hospital are made of, where the run has it."""
        return read_replicates(RunFolder(self.path).scores)

    @property
    def margin(self) -> float | None:
        """By how much the consensus may be worse than pooled, if the study says so."""
        margin = table_of(self.study, "evaluation").get("margin")
        return float(margin) if isinstance(margin, int | float) else None

    @cached_property
    def floor(self) -> Mapping[str, str]:
        """Region → the rule that learns nothing and does best there; under "" one that does for all regions."""
        file = RunFolder(self.path).floor
        rules = read_json(file).get("rules") if file.is_file() else None
        return {str(region): str(rule) for region, rule in rules.items()} if isinstance(rules, Mapping) else {}

    def called(self, label: str) -> str:
        """A model's name as it stands in tables: the floor's with its rule, where it is one."""
        return f"{label} ({self.floor['']})" if label == "floor" and "" in self.floor else label

    @property
    def seed(self) -> int:
        return int(self.study.get("seed", 0))

    @property
    def phantom(self) -> bool:
        return self.record.get("data") == "phantom"

    @property
    def unit(self) -> str:
        """What is split and resampled: patient, or image where the data has no patients."""
        return str(self.record.get("unit", "patient"))

    @property
    def held_out(self) -> frozenset[str]:
        """Hospitals that never train."""
        judged = {row.site for row in self.rows if row.cohort == "held-out" and row.site != "all"}
        return frozenset(judged & {str(site) for site in table_of(self.study, "cohort").get("held_out", ())})


def table_of(fields: Fields, name: str) -> Fields:
    """The table of that name, empty where there is none."""
    table = fields.get(name)
    return table if isinstance(table, Mapping) else {}


def read_run(path: Path, with_sites: bool = True) -> RunView:
    """Read a run folder; one that ended early may lack scores or history, and then shows none.

    Raises:
        RunFileError: not a run folder, or a file in it cannot be read.
    """
    folder = RunFolder(path)
    if not folder.status.is_file() and not folder.record.is_file():
        raise RunFileError(
            "FR-F26", "neither status.json nor record.json", wanted="a run folder, like runs/0007-…", where=str(path)
        )
    study = _toml(path / "study.resolved.toml")
    lines = read_history(folder.history)
    run = RunView(
        path,
        _json(folder.record),
        _json(folder.status),
        study,
        read_metrics(folder.metrics) if folder.metrics.is_file() else (),
        tuple(line for line in lines if line.kind == ROUND),
        sums=tuple(line for line in lines if line.kind != ROUND),
        judging=read_judging(folder.judging),
    )
    if not with_sites:
        return run
    folders = sorted(folder for folder in (path / "sites").glob("*") if folder.is_dir())
    return RunView(
        run.path, run.record, run.status, run.study, run.rows, run.history,
        tuple(value for folder in folders for value in read_cases(folder / "cases.csv", run.metric)),
        tuple(drawn for folder in folders for drawn in read_pictures(folder, run.case_metric)), run.sums,
        run.judging,
    )  # fmt: skip


def _json(path: Path) -> Fields:
    return read_json(path) if path.is_file() else {}


def _toml(path: Path) -> Fields:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RunFileError(
            "FR-F25", f"not TOML ({error})", wanted="the file as the run wrote it", where=str(path)
        ) from error


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def read_cases(path: Path, metric: str) -> tuple[CaseValue, ...]:
    """The consensus's scores of one site's cases by `metric`, each case in the last round it was judged."""
    if not path.is_file():
        return ()
    last: dict[tuple[str, str, str], CaseValue] = {}
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        if tuple(lines.fieldnames or ()) != CASE_COLUMNS:
            raise RunFileError("FR-F27", f"columns {lines.fieldnames}", wanted=",".join(CASE_COLUMNS), where=str(path))
        for line in lines:
            if line["model"] == "consensus" and line["metric"] == metric:
                value = CaseValue(path.parent.name, int(line["round"]), line["cohort"], line["case"], line["region"],
                                  number(line["value"]), line["state"])  # fmt: skip
                key = (value.cohort, value.case, value.region)
                if key not in last or last[key].round <= value.round:
                    last[key] = value
    return tuple(last[key] for key in sorted(last))


def read_pictures(folder: Path, metric: str) -> tuple[DrawnCase, ...]:
    """The consensus's worst cases as a site drew them: `pictures/consensus-<case>.png` with its `.json`."""
    files = sorted((folder / "pictures").glob("consensus-*.png"))
    drawn = [_drawn(folder.name, file, metric) for file in files]
    # a case that was among the worst in an earlier round shows an earlier consensus
    last = {one.cohort: max(other.round for other in drawn if other.cohort == one.cohort) for one in drawn}
    return tuple(one for one in drawn if one.round == last[one.cohort])


def _drawn(site: str, file: Path, metric: str) -> DrawnCase:
    says = _json(file.with_suffix(".json"))
    values = table_of(says, "values")
    means = table_of(values, MEAN) or next((table for table in values.values() if isinstance(table, Mapping)), {})
    value = _float(means.get(metric, says.get(metric)))
    panels = says.get("panels")
    return DrawnCase(
        site,
        file,
        str(says.get("title", file.stem)),
        str(says.get("case", file.stem.removeprefix("consensus-"))),
        str(says.get("cohort", "")),
        int(says.get("round") or 0),
        tuple(str(panel) for panel in panels) if isinstance(panels, list) else (),
        value,
    )
