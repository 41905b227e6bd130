"""How a finished run is told: lines for a person, the same in parts for a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrounds.cli.frame import Answer
from fedrounds_common.errors import DONE


def told(path: Path, status: int = DONE) -> Answer:
    """The answer that tells of a run.

    Raises:
        RunFileError: not a run folder, or a file in it cannot be read.
    """
    from fedrounds_server.report.summary import summary

    near = nearby(path)
    return Answer(parts(near), "\n".join(summary(near)), status)


def nearby(path: Path) -> Path:
    """From where the person stands, if it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def parts(path: Path) -> dict[str, Any]:
    from fedrounds_server.report.carried import carried
    from fedrounds_server.report.folder import read_run
    from fedrounds_server.report.summary import end_table
    from fedrounds_server.report.words import in_short, lacking

    view = read_run(path, with_sites=False)
    table = end_table(view)
    files = ("report.html", "figures", "metrics.csv", "consensus.safetensors", "record.json")
    return {
        "run": str(path),
        "status": dict(view.status),
        "in_short": list(in_short(view)),
        "without": list(lacking(view)),
        "traffic": [one.as_dict() for one in carried(view)],
        "models": [] if table is None else [dict(zip(table.columns, row, strict=True)) for row in table.rows],
        "files": {name: str(path / name) for name in files if (path / name).exists()},
    }
