"""Call the command as the installed one is called, in this process, and see what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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


PICTURES = """
[model]
name = "tiny_unet"
channels = [8]
[cases]
dims = 2
channels = ["grey"]
orientation = "none"
[training]
rounds = 2
local_steps = 2
[evaluation]
local_validation = 0.0
resamples = 10
[cohort]
held_out = ["c"]
[simulation.reader]
name = "image_pairs"
root = "pictures"
pattern = '(?P<site>[^_/]+)_(?P<patient>[^_/]+)\\.png$'
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Three sites' pictures of a bright square, with masks; a mask of another shape for the case named."""

    def write(broken: str = "", folder: str = "pictures") -> Path:
        from PIL import Image

        place = tmp_path / folder
        place.mkdir()
        draw = np.random.default_rng(1)
        for name in ("a_p1", "a_p2", "a_p3", "b_p1", "b_p2", "c_p1", "c_p2"):
            picture = draw.integers(0, 60, (16, 16), dtype=np.uint8)
            mask = np.zeros((8, 8) if name == broken else (16, 16), np.uint8)
            mask[2:7, 3:7] = 255
            picture[2:7, 3:7] += 150
            Image.fromarray(picture).save(place / f"{name}.png")
            Image.fromarray(mask).save(place / f"{name}_mask.png")
        return place

    return write


@pytest.fixture
def picture_study() -> str:
    """The lines of a study of those pictures."""
    return PICTURES
