"""`fedrounds simulate STUDY`: play the whole federation on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrounds.cli.files import study_path
from fedrounds.cli.frame import Answer, Plugins, Settings, console, verb
from fedrounds.cli.live import screen_on
from fedrounds.cli.runs import RUNS, RunsFolder, run_path
from fedrounds.cli.study import OptionalStudy
from fedrounds.cli.summary import nearby, told
from fedrounds_common.errors import UsageError

if TYPE_CHECKING:
    from fedrounds.run import Run
    from fedrounds.series import Series

Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Processes that play hospitals at once; 0 plays them in this one."),
]


def register(app: typer.Typer) -> None:
    @verb(app, "simulate", "The jobs")
    def simulate(
        study: OptionalStudy = None,
        settings: Settings = None,
        workers: Workers = None,
        baselines: Annotated[
            str | None,
            typer.Option(
                metavar="A,B,…", help="Models to compare with: initial, local-only, pooled, floor, … or none."
            ),
        ] = None,
        seeds: Annotated[
            int | None, typer.Option(min=1, help="As many runs, each with another seed; one table.")
        ] = None,
        sweep: Annotated[
            list[str] | None,
            typer.Option(metavar="KEY=A,B", help="A run for each value, e.g. strategy=fedavg,fedprox."),
        ] = None,
        folds: Annotated[bool, typer.Option("--folds", help="A run for each fold of the study's evaluation.")] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Measure one site and say what a run would take.")
        ] = False,
        profile_time: Annotated[
            bool, typer.Option("--profile-time", help="Say where the time went, and write it into the run's folder.")
        ] = False,
        strict: Annotated[bool, typer.Option("--strict", help="Do not start if a case cannot be used.")] = False,
        resume: Annotated[
            str | None, typer.Option(metavar="RUN", help="Go on with an interrupted run from its last checkpoint.")
        ] = None,
        name: Annotated[
            str | None, typer.Option(help="Of the run's folder, after its number; else the study's.")
        ] = None,
        runs: RunsFolder = RUNS,
        plugins: Plugins = None,
    ) -> Answer:
        """Run a study on this machine: coordinator and hospitals, from the study file to the report."""
        overrides = [*(settings or ()), *rehearsal_settings(workers, baselines)]
        file = None if study is None else study_path(study)
        if dry_run and file is None:
            raise UsageError("FR-U28", "--dry-run without a study", wanted="the study to estimate")
        if dry_run and file is not None:
            from fedrounds.dryrun import dry_run as estimate
            from fedrounds.simulation import prepare

            found = estimate(prepare(file, overrides, plugins or ()), runs)
            return Answer(found.as_dict(), found.text())
        return carried_out(
            file, seeds=seeds, sweep=sweep or (), folds=folds, overrides=overrides, plugins=plugins or (), runs=runs,
            name=name, resume=None if resume is None else run_path(resume, runs), strict=strict,
            profile_time=profile_time,
        )  # fmt: skip


def rehearsal_settings(workers: int | None, baselines: str | None) -> list[str]:
    """The options that only write one key of `[simulation]`, as settings."""
    found = [] if workers is None else [f"simulation.workers={workers}"]
    if baselines is not None:
        names = [name.strip() for name in baselines.split(",") if name.strip() not in ("", "none")]
        found.append(f"simulation.baselines={names!r}".replace("'", '"'))
    return found


def carried_out(file: Path | None, **options: Any) -> Answer:
    """Simulate with the screen on, and tell of the run or of the series."""
    from fedrounds import series

    with screen_on(console(sys.stderr)) as listen:
        finished = series.simulate(file, listen=listen, **options)
    if isinstance(finished, series.Series):
        return _series_told(finished)
    answer = _run_told(finished)
    return _with_times(answer, finished.path) if options.get("profile_time") else answer


def _with_times(answer: Answer, run: Path) -> Answer:
    from fedrounds.times import lines_of, read_times

    found = read_times(run)
    if found is None:
        return answer
    from rich.console import Group

    return Answer({**answer.data, "time": found}, Group(answer.text, "", *lines_of(found)), answer.status)


def _run_told(run: Run) -> Answer:
    """The run's end; where its report could not be drawn its tables may fail alike, and it has still ended as it did."""
    try:
        return told(run.path, run.exit)
    except Exception:
        if "report_fault" not in run.status:
            raise
        path = str(nearby(run.path))
        text = f"{path}: {run.status['state']} (exit status {run.exit}); {run.status['report_fault']}"
        return Answer({"run": path, "status": dict(run.status)}, text, run.exit)


def _series_told(finished: Series) -> Answer:
    from fedrounds_server.report.table import as_lines

    table = finished.table()
    paths = [str(nearby(run.path)) for run in finished.runs]
    data = {
        "runs": [
            {"path": path, "setting": label, "seed": run.study.seed, "exit": run.exit}
            for path, label, run in zip(paths, finished.labels, finished.runs, strict=True)
        ],
        "table": [dict(zip(table.columns, row, strict=True)) for row in table.rows],
    }
    return Answer(data, "\n".join([*as_lines(table), "", *paths]), finished.exit)
