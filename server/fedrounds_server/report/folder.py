"""A run folder as figures and report read it. Opens no case: at most a site's scores and drawn pictures.

`sites/` is read only when asked (`with_sites`): in a simulation it lies beside the rest, between
hospitals it stays there.
"""

from __future__ import annotations

import csv
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from fedrounds_common.errors import RunFileError
from fedrounds_server.tables import MEAN, MetricRow, number, read_metrics

CASE_COLUMNS = ("round", "model", "trained_at", "cohort", "case", "patient", "region", "metric", "value", "state")
Fields = Mapping[str, Any]


@final
@dataclass(frozen=True)
class SiteRound:
    """What one site did in one round. `state` is ok, late, error:CODE, refused:REASON or absent.

    `norm` is of its update; `cosine` is between its update and the mean of all. nan: it sent none.
    """

    site: str
    state: str
    cases: int
    loss: float
    seconds: float
    bytes_up: int
    bytes_down: int
    norm: float
    cosine: float

    @property
    def kind(self) -> str:
        """The state without its code: ok, late, error, refused or absent."""
        return self.state.split(":", 1)[0]


@final
@dataclass(frozen=True)
class RoundLine:
    """One line of `history.jsonl`."""

    round: int
    seconds: float
    digest: str
    sites: tuple[SiteRound, ...]


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
class RunFolder:
    """Everything a report shows, in memory. `cases` and `pictures` are empty without `with_sites`."""

    path: Path
    record: Fields
    status: Fields
    study: Fields
    rows: tuple[MetricRow, ...]
    history: tuple[RoundLine, ...]
    cases: tuple[CaseValue, ...] = ()
    pictures: tuple[DrawnCase, ...] = ()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def metric(self) -> str:
        """The primary measure, named in the study before the run."""
        return str(_table(self.study, "evaluation").get("primary", "dice"))

    @property
    def seed(self) -> int:
        return int(self.record.get("seed", self.study.get("seed", 0)))

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
        return frozenset(judged & {str(site) for site in _table(self.study, "cohort").get("held_out", ())})


def _table(fields: Fields, name: str) -> Fields:
    table = fields.get(name)
    return table if isinstance(table, Mapping) else {}


def read_run(path: Path, with_sites: bool = True) -> RunFolder:
    """Read a run folder; one that ended early may lack scores or history, and then shows none.

    Raises:
        RunFileError: not a run folder, or a file in it cannot be read.
    """
    if not (path / "status.json").is_file() and not (path / "record.json").is_file():
        raise RunFileError(
            "FR-F26", "neither status.json nor record.json", wanted="a run folder, like runs/0007-…", where=str(path)
        )
    study = _toml(path / "study.resolved.toml")
    metrics = path / "metrics.csv"
    run = RunFolder(
        path,
        _json(path / "record.json"),
        _json(path / "status.json"),
        study,
        read_metrics(metrics) if metrics.is_file() else (),
        read_history(path / "history.jsonl"),
    )
    if not with_sites:
        return run
    folders = sorted(folder for folder in (path / "sites").glob("*") if folder.is_dir())
    return RunFolder(
        run.path, run.record, run.status, run.study, run.rows, run.history,
        tuple(value for folder in folders for value in read_cases(folder / "cases.csv", run.metric)),
        tuple(drawn for folder in folders for drawn in read_pictures(folder, run.metric)),
    )  # fmt: skip


def _json(path: Path) -> Fields:
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFileError(
            "FR-F25", f"not JSON ({error})", wanted="the file as the run wrote it", where=str(path)
        ) from error
    return fields if isinstance(fields, dict) else {}


def _toml(path: Path) -> Fields:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RunFileError(
            "FR-F25", f"not TOML ({error})", wanted="the file as the run wrote it", where=str(path)
        ) from error


def read_history(path: Path) -> tuple[RoundLine, ...]:
    """Every round; of a round that was repeated after a resume, the later line. A torn last line is left out."""
    if not path.is_file():
        return ()
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    whole = lines if text.endswith("\n") else lines[:-1]
    rounds: dict[int, RoundLine] = {}
    for line_number, line in enumerate(whole, start=1):
        try:
            read = _round(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise RunFileError(
                "FR-F25", str(error), wanted="one JSON object a line", where=f"{path} line {line_number}"
            ) from error
        rounds[read.round] = read
    return tuple(rounds[number] for number in sorted(rounds))


def _round(fields: Fields) -> RoundLine:
    sites = tuple(
        SiteRound(
            str(site["site"]),
            str(site["state"]),
            int(site.get("cases") or 0),
            _float(site.get("loss")),
            _float(site.get("seconds")),
            int(site.get("bytes_up") or 0),
            int(site.get("bytes_down") or 0),
            _float(site.get("norm")),
            _float(site.get("cosine")),
        )
        for site in fields["sites"]
    )
    ordered = tuple(sorted(sites, key=lambda site: site.site))
    return RoundLine(int(fields["round"]), _float(fields.get("seconds")), str(fields.get("digest", "")), ordered)


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
    values = _table(says, "values")
    means = _table(values, MEAN) or next((table for table in values.values() if isinstance(table, Mapping)), {})
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
