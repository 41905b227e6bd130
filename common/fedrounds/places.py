"""Where the built-in studies and the tried versions lie: inside an installed wheel, or at the top of the source tree."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def studies_folder() -> Path:
    """The folder of built-in studies, `*.toml`."""
    installed = _HERE / "studies"
    return installed if installed.is_dir() else _HERE.parents[1] / "studies"


def constraints_file() -> Path:
    """The versions that were tried, one `name==version` a line."""
    installed = _HERE / "constraints.txt"
    return installed if installed.is_file() else _HERE.parents[1] / "constraints.txt"
