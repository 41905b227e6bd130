"""Judging a model at the hospitals: each scores it on its own cases and sends sums; the table is made here."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.serverapp import Grid

from fedrounds_common.arrays import Arrays
from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import Ask, Scores
from fedrounds_common.study.study import Study
from fedrounds_common.task import Tally, Task, add_tallies
from fedrounds_server.cohort import Roster
from fedrounds_server.folder import RunFolder
from fedrounds_server.grid import ask_nodes
from fedrounds_server.guard import Guard
from fedrounds_server.tables import ALL, MetricRow, metric_rows, read_metrics, write_metrics

if TYPE_CHECKING:
    from fedrounds_server.rounds import Plan


def judge(
    grid: Grid, plan: Plan, sites: Roster, round_: int, model: str, trained_at: str, arrays: Arrays
) -> dict[str, str]:
    """Have every site score the model: training sites on their validation cases, held-out sites on all.

    Returns:
        The sites that sent no scores, with their state; the table is in the run's `scores/`.
    """
    file = score_file(plan.folder, round_, model, trained_at)
    if file.exists() and plan.resume:
        return {}
    missing: dict[str, str] = {}
    tallies: dict[tuple[str, str], Tally] = {}
    cohorts = {
        "local-val": [name for name in sites.training if sites.hellos[name].validation_cases],
        "held-out": [name for name in sites.held_out if sites.hellos[name].held_out_cases],
    }
    guard = Guard({}, 0.0, plan.codec)
    for cohort, names in cohorts.items():
        if not names:
            continue
        ask = Ask(
            "score", plan.folder.path.name, round_, secrets.token_hex(8), plan.text, plan.digest,
            model, trained_at, cohort, arrays,
        )  # fmt: skip
        by_node = {sites.nodes[name]: name for name in names}
        for answer in ask_nodes(grid, dict.fromkeys(by_node, ask), plan.study.cohort.deadline_s):
            name = by_node[answer.node]
            scores = _admit(guard, answer.leaving, ask, name) if not answer.fault else None
            if scores is None:
                missing[name] = (
                    answer.fault if answer.fault.startswith(("error:", "refused:", "late")) else "error:FR-R04"
                )
                plan.listen("warning", {"text": f"{name} sent no scores of {model}: {missing[name]}"})
            else:
                tallies[name, cohort] = scores.tally
            plan.listen("score", {"site": name, "model": model, "cohort": cohort})
    rows = table_rows(plan.task, plan.study, tallies, round_, model, trained_at)
    write_metrics(file, rows)
    return missing


def _admit(guard: Guard, answer: object, ask: Ask, name: str) -> Scores | None:
    try:
        return guard.admit_scores(answer, ask, name)  # type: ignore[arg-type]
    except UpdateError:
        return None


def table_rows(
    task: Task, study: Study, tallies: Mapping[tuple[str, str], Tally], round_: int, model: str, trained_at: str
) -> tuple[MetricRow, ...]:
    """Rows of one model: each site by itself, and all sites of a cohort together (the same function)."""
    rows: list[MetricRow] = []
    for cohort in sorted({cohort for _, cohort in tallies}):
        mine = {site: tally for (site, where), tally in sorted(tallies.items()) if where == cohort}
        for site, tally in [*mine.items(), (ALL, add_tallies(list(mine.values())))]:
            table = task.table(tally, study.cases, study.evaluation)
            rows += metric_rows(table, round=round_, model=model, trained_at=trained_at, site=site, cohort=cohort)
    return tuple(rows)


def score_file(folder: RunFolder, round_: int, model: str, trained_at: str) -> Path:
    return folder.scores / f"{round_:04d}-{model}-{trained_at}.csv"


def gather_metrics(folder: RunFolder) -> Sequence[MetricRow]:
    """Join every model's scores into `metrics.csv`."""
    rows = [row for file in sorted(folder.scores.glob("*.csv")) for row in read_metrics(file)]
    write_metrics(folder.metrics, rows)
    return rows
