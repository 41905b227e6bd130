"""Where the built-in studies lie: inside an installed wheel, or at the top of the source tree."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def studies_folder() -> Path:
    """The folder of built-in studies, `*.toml`."""
    installed = _HERE / "studies"
    return installed if installed.is_dir() else _HERE.parents[1] / "studies"
