"""Judging a model at the hospitals: each scores it on its own cases and sends sums; the table is made here."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from flwr.serverapp import Grid

from fedrounds_common.arrays import Arrays
from fedrounds_common.disk import remove_file, write_json
from fedrounds_common.errors import RunFileError, UpdateError
from fedrounds_common.leaving import Ask, check_tally
from fedrounds_common.numbered import by_number
from fedrounds_common.spans import timed
from fedrounds_common.study.study import Study
from fedrounds_common.task import Tally, Task, add_tallies
from fedrounds_server import history
from fedrounds_server.answers import Answer
from fedrounds_server.cohort import Roster
from fedrounds_server.folder import FORMAT, RunFolder, read_json
from fedrounds_server.grid import Post
from fedrounds_server.guard import Guard
from fedrounds_server.history import JudgingLine
from fedrounds_server.plan import Plan
from fedrounds_server.replicates import ENDING, write_replicates
from fedrounds_server.tables import ALL, MetricRow, metric_rows, read_metrics, write_metrics

WITHHELD = "refused:FR-C19"  # too few cases stand behind a site's scores: its own policy, and no fault
Tallies = Mapping[tuple[str, str], Tally]  # by site and cohort


def judge(
    grid: Grid, plan: Plan, sites: Roster, round_: int, model: str, trained_at: str, arrays: Arrays,
    post: Post | None = None,
) -> dict[str, str]:  # fmt: skip
    """Have every site score the model: training sites on their validation cases, held-out sites on all.

    What an interrupted run has on disk of all sites is kept; where one was missing, all are asked again.

    Args:
        post: where answers of other kinds are still awaited over this grid; None: nowhere.

    Returns:
        The sites that sent no scores, with their state; the table is in the run's `scores/`. Who withheld them
        because too few cases stand behind them is not among these, and stands beside the table.
    """
    file = score_file(plan.folder, round_, model, trained_at)
    cohorts = {
        "local-val": [name for name in sites.training if sites.hellos[name].validation_cases],
        "held-out": [name for name in sites.held_out if sites.hellos[name].held_out_cases],
    }
    if plan.resume and _holds_all(file, cohorts):
        return {}
    missing: dict[str, str] = {}
    withheld: dict[str, list[str]] = {}
    tallies: dict[tuple[str, str], Tally] = {}
    moved: list[tuple[int, int]] = []
    guard = Guard({}, 0.0, plan.codec)
    post = post or Post(grid, plan.clock, plan.keys)
    for cohort, names in cohorts.items():
        if not names:
            continue
        ask = Ask(
            "score", plan.folder.path.name, round_, secrets.token_hex(8), plan.text, plan.digest,
            model, trained_at, cohort, arrays,
        )  # fmt: skip
        by_node = {sites.nodes[name]: name for name in names}
        for answer in post.ask(dict.fromkeys(by_node, ask), plan.study.cohort.deadline_s):
            name = by_node[answer.node]
            moved.append((answer.bytes_up, answer.bytes_down))
            tally, state = _admitted(guard, plan, answer, ask, name)
            if state == WITHHELD:
                withheld.setdefault(name, []).append(cohort)
                plan.listen("warning", {"text": f"{name} withholds its scores of {model}: too few cases"})
            elif tally is None:
                missing[name] = state
                plan.listen("warning", {"text": f"{name} sent no scores of {model}: {state}"})
            else:
                tallies[name, cohort] = tally
            plan.listen("score", {"site": name, "model": model, "cohort": cohort})
    if moved:
        up, down = (sum(way) for way in zip(*moved, strict=True))
        history.append(plan.folder.judging, JudgingLine(round_, model, trained_at, len(moved), up, down))
    _write_withheld(file, withheld)  # first: a table without a site must say why
    write_judged(plan, tallies, round_, model, trained_at)
    return missing


@timed("evaluate")
def write_judged(plan: Plan, tallies: Tallies, round_: int, model: str, trained_at: str) -> None:
    """The table of one model into the run's `scores/`, and beside it what intervals over one hospital's cases need."""
    file = score_file(plan.folder, round_, model, trained_at)
    write_replicates(file, plan.task, plan.study, tallies, round_, model, trained_at)
    write_metrics(file, table_rows(plan.task, plan.study, tallies, round_, model, trained_at))


def _write_withheld(file: Path, withheld: Mapping[str, Sequence[str]]) -> None:
    beside = file.with_suffix(".withheld.json")
    if withheld:
        write_json(beside, {"format": FORMAT, "sites": withheld})
    elif beside.exists():
        remove_file(beside)


def _read_withheld(file: Path) -> dict[str, list[str]]:
    return dict(read_json(file)["sites"]) if file.exists() else {}


def gather_withheld(folder: RunFolder) -> dict[str, str]:
    """Sites some of whose scores are in no table, or whose statistics in no sum, and why."""
    files = folder.scores.glob("*.withheld.json")
    names = {name for file in files for name in _read_withheld(file)}
    sums = [line for line in history.read(folder.history) if line.kind == history.STATISTICS]
    names |= {site.site for line in sums for site in line.sites if site.state == WITHHELD}
    return dict.fromkeys(sorted(names), "too few cases")


def _holds_all(file: Path, cohorts: Mapping[str, Sequence[str]]) -> bool:
    """Whether every site's scores are in the file: one that was missing must not be forgotten by going on."""
    if not file.exists():
        return False
    try:
        found = {(row.site, row.cohort) for row in read_metrics(file)}
        withheld = _read_withheld(file.with_suffix(".withheld.json"))
        found |= {(name, cohort) for name, cohorts_of in withheld.items() for cohort in cohorts_of}
    except RunFileError:
        return False
    return all((name, cohort) in found for cohort, names in cohorts.items() for name in names)


def _admitted(guard: Guard, plan: Plan, answer: Answer, ask: Ask, name: str) -> tuple[Tally | None, str]:
    """The site's sums, or None and why there are none."""
    if answer.fault or answer.leaving is None:
        return None, answer.state
    try:
        tally = guard.admit_scores(answer.leaving, ask, name).tally
        # sums of another shape would end the run where all sites' are added
        check_tally(tally, plan.task.tally((), plan.study.cases, plan.study.evaluation, 0))
    except UpdateError as error:
        return None, f"error:{error.code}"
    return tally, "ok"


def table_rows(
    task: Task, study: Study, tallies: Tallies, round_: int, model: str, trained_at: str
) -> tuple[MetricRow, ...]:
    """Rows of one model: each site by itself, and all sites of a cohort together (the same function)."""
    rows: list[MetricRow] = []
    for cohort in sorted({cohort for _, cohort in tallies}):
        mine = {site: tally for (site, where), tally in sorted(tallies.items()) if where == cohort}
        for site, tally in [*mine.items(), (ALL, add_tallies(list(mine.values())))]:
            table = task.table(tally, study.cases, study.evaluation)
            rows += metric_rows(table, round=round_, model=model, trained_at=trained_at, site=site, cohort=cohort)
    return tuple(rows)


def drop_judged(folder: RunFolder, round_: int, model: str, trained_at: str) -> None:
    """Forget what was judged of a model that is made anew."""
    file = score_file(folder, round_, model, trained_at)
    for each in (file, file.with_suffix(ENDING)):
        each.unlink(missing_ok=True)


def score_file(folder: RunFolder, round_: int, model: str, trained_at: str) -> Path:
    return folder.scores / f"{round_:04d}-{model}-{trained_at}.csv"


def gather_metrics(folder: RunFolder) -> Sequence[MetricRow]:
    """Join every model's scores into `metrics.csv`."""
    rows = [row for file in by_number(folder.scores.glob("*.csv")) for row in read_metrics(file)]
    write_metrics(folder.metrics, rows)
    return rows
