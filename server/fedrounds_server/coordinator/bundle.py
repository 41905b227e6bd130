"""COORD/app: the Flower app of a run. It holds a study and nothing that could be executed; sites look for that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from fedrounds_common.disk import write_text
from fedrounds_common.study.canonical import resolved_toml
from fedrounds_common.study.study import Study
from fedrounds_server.coordinator.folder import kept_private

SERVERAPP, CLIENTAPP = "fedrounds_server.app:app", "fedrounds_client.app:app"
# every key that a run may set: Flower takes no others
CONFIG: Mapping[str, str | bool] = {
    "study": "",
    "run": "",
    "coordinator": "",
    "initial": "",
    "resume": False,
    "anew": False,
    "simulation": "",
    "plugins": "",
}


def build_app(app: Path, study: Study) -> Path:
    """Write the app anew: its pyproject.toml, and the study's agreed half, for people to read. No dependency, no Python."""
    with kept_private():
        shutil.rmtree(app, ignore_errors=True)
        write_text(app / "pyproject.toml", _project())
        write_text(app / "studies" / "study.toml", resolved_toml(study, {}, {}))
    return app


def run_config(file: Path, values: Mapping[str, str | bool]) -> Path:
    """A run's configuration as a TOML file: the study is one string in it, and no secret."""
    lines = [f"{name} = {_toml(values[name])}" for name in CONFIG if name in values]
    with kept_private():
        write_text(file, "\n".join(lines) + "\n")
    return file


def _project() -> str:
    config = "\n".join(f"{name} = {_toml(value)}" for name, value in CONFIG.items())
    return f"""[project]
name = "fedrounds"
version = "{version("fedrounds")}"
description = "A study for hospitals that run fedrounds themselves: nothing here is executed."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedrounds"
fab-include = ["studies/*.toml"]

[tool.flwr.app.components]
serverapp = "{SERVERAPP}"
clientapp = "{CLIENTAPP}"

[tool.flwr.app.config]
{config}
"""


def _toml(value: str | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON's escapes are TOML's, but for DEL, which TOML alone forbids
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
