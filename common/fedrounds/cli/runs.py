"""`fedrounds runs list | show | verify`: what has been run here, and how it went."""

from __future__ import annotations

import sys
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrounds.cli.frame import Answer, console, group, table, verb
from fedrounds.cli.live import screen_on
from fedrounds.cli.summary import told
from fedrounds_common.errors import UsageError

RUNS = Path("runs")


def _complete(start: str) -> list[str]:
    return sorted(entry.name for entry in RUNS.glob(f"{start}*") if (entry / "status.json").is_file())


RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's folder, its name, its number, or latest.", autocompletion=_complete),
]
RunsFolder = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder that holds the runs.")]


def run_path(name: str, runs: Path = RUNS) -> Path:
    """The folder of a run: a path, or below `runs` a name (`0007-chest`), a number (`7`) or `latest`.

    Raises:
        UsageError: there is no such run; the nearest is named.
    """
    entries = {entry.name: entry for entry in sorted(runs.glob("*")) if _is_run(entry)}
    if name.isdigit():
        numbered = [entry for folder, entry in entries.items() if folder.split("-")[0] == f"{int(name):04d}"]
        found = numbered[0] if numbered else None
    else:
        found = next((path for path in (Path(name), runs / name) if (path / "status.json").is_file()), None)
    if found is None:
        near = get_close_matches(name, entries, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"`fedrounds runs list` names those in {runs}"
        raise UsageError("FR-U12", f"{name!r} is no run's folder", wanted="one with a status.json", do=hint)
    # `latest` is a link; what is printed should say which run it is
    return found.parent / found.resolve().name if found.is_symlink() else found


def register(app: typer.Typer) -> None:
    runs = group("What has been run, and how it went.")
    app.add_typer(runs, name="runs", rich_help_panel="Runs")

    @verb(runs, "list")
    def list_runs(folder: RunsFolder = RUNS) -> Answer:
        """List the runs of a folder, oldest first."""
        entries = [_entry(path) for path in sorted(folder.glob("*")) if _is_run(path)]
        if not entries:
            return Answer({"runs": []}, f"No runs in {folder}.")
        columns = ("run", "started", "state", "exit", "rounds", "sites", "primary measure")
        keys = ("name", "started", "state", "exit", "rounds", "sites", "primary")
        return Answer({"runs": entries}, table(columns, [[_shown(entry[key]) for key in keys] for entry in entries]))

    @verb(runs, "show")
    def show_run(run: RunName, folder: RunsFolder = RUNS) -> Answer:
        """Tell how a run ended, what came out, and where the files are."""
        return told(run_path(run, folder))

    @verb(runs, "verify")
    def verify_run(
        run: RunName,
        again: Annotated[
            bool, typer.Option("--again", help="Also run the study again and compare the consensus.")
        ] = False,
        folder: RunsFolder = RUNS,
    ) -> Answer:
        """Recompute every digest of a run's folder and say what has changed."""
        from fedrounds.verify import verify

        with screen_on(console(sys.stderr)) as listen:
            found = verify(run_path(run, folder), again, listen)
        return Answer(found.as_dict(), found.text(), found.exit)


def _is_run(path: Path) -> bool:
    return (path / "status.json").is_file() and not path.is_symlink()


def _entry(path: Path) -> dict[str, Any]:
    from fedrounds_server.report.folder import read_run

    run = read_run(path, with_sites=False)
    status, record = run.status, run.record
    planned = status.get("planned")
    return {
        "name": path.name,
        "path": str(path),
        "started": str(record.get("started", "")),
        "state": status.get("state"),
        "exit": status.get("exit"),
        "rounds": status.get("rounds"),
        "sites": None if planned is None else f"{status.get('finished', 0)} of {planned}",
        "primary": _primary(run),
    }


def _primary(run: Any) -> str | None:
    """The consensus's mean of the primary measure, where there is one."""
    from fedrounds_server.compare import standings
    from fedrounds_server.report.hospitals import main_region
    from fedrounds_server.report.models import judged_cohort
    from fedrounds_server.tables import shown

    region = main_region(run)
    for one in standings(run.rows, run.metric, judged_cohort(run), run.seed, lower=run.lower):
        if one.label == "consensus" and one.region == region:
            return f"{run.word} {shown(one.mean.value, run.digits)}"
    return None


def _shown(value: object) -> object:
    if isinstance(value, str) and value.count(":") == 2:
        return datetime.fromisoformat(value).astimezone().strftime("%Y-%m-%d %H:%M")
    return "" if value is None else value
