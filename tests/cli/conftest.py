"""Call the command as the installed one is called, in this process, and see what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from fedrounds.cli.main import app, main


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


Fedrounds = Callable[..., Said]


@pytest.fixture
def fedrounds(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fedrounds:
    """`fedrounds("study", "check", file)` in an empty folder: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, commands: typer.Typer = app) -> Said:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments], commands)
        printed = capsys.readouterr()
        return Said(status, printed.out, printed.err)

    return call


@pytest.fixture
def study(tmp_path: Path) -> Callable[[str], Path]:
    """Write a study file: a head that is right, and the lines given."""

    def write(lines: str = "", head: str = 'format = 1\nname = "small"\n') -> Path:
        file = tmp_path / "small.toml"
        file.write_text(head + lines, encoding="utf-8")
        return file

    return write
