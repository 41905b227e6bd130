"""Where this package's data folders lie: inside an installed wheel, or beside it in the source tree."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def profiles_folder() -> Path:
    """The folder of site and scanner profiles, `*.toml`."""
    installed = _HERE / "profiles"
    return installed if installed.is_dir() else _HERE.parent / "profiles"
