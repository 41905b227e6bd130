"""How a finished run is told on a terminal: the result in a few sentences, the models in a table, what to open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

# of the report's table of models; a terminal is narrower than a page
NARROW = ("Model", "Mean over hospitals", "Consensus minus it", "Verdict")


def summary(path: Path, width: int) -> tuple[dict[str, Any], Any]:
    """Data for programs, and what a person reads.

    Args:
        path: a run's folder.
        width: of the terminal, in columns; below 150 the table of models is cut to its main columns.
    """
    from rich.console import Group

    from fedrounds_server.report.folder import read_run
    from fedrounds_server.report.results import models_table
    from fedrounds_server.report.table import as_rich
    from fedrounds_server.report.words import ended, headline, in_short

    run = read_run(path, with_sites=False)
    table = models_table(run)
    parts: list[Any] = [f"{headline(run)}: {ended(run)}", *in_short(run)]
    if table is not None:
        parts += ["", as_rich(table if width >= 150 else _narrow(table))]
    files = {name: path / name for name in ("report.html", "figures", "metrics.csv", "consensus.safetensors")}
    there = {name: file for name, file in files.items() if file.exists()}
    parts += ["", *(str(_near(file)) for file in there.values())]
    data = {
        "run": str(path),
        "status": dict(run.status),
        "in_short": list(in_short(run)),
        "models": [] if table is None else [dict(zip(table.columns, row, strict=True)) for row in table.rows],
        "files": {name: str(file) for name, file in there.items()},
    }
    return data, Group(*parts)


def _narrow(table: Any) -> Any:
    keep = [table.columns.index(name) for name in NARROW if name in table.columns]
    rows = tuple(tuple(row[index] for index in keep) for row in table.rows)
    words = frozenset(new for new, old in enumerate(keep) if old in table.words)
    return replace(table, columns=tuple(table.columns[index] for index in keep), rows=rows, words=words)


def _near(file: Path) -> Path:
    """Relative to where the person stands, if that is shorter."""
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file
