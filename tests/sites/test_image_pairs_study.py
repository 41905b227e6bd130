"""A study written by hand for a folder of slices: checked, run, and told what is wrong with the folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedrounds.cli.main import main

# two real hospitals' slices stand in for the four of the study
SMALL = ["-s", 'cohort.held_out=["B"]', "-s", "cohort.minimum=1", "-s", "training.rounds=1"]
SMALL += ["-s", "training.local_steps=2", "-s", "training.batch=2", "-s", "simulation.baselines=[]"]


@pytest.fixture
def slices(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(repo / "tests/data/pairs", tmp_path / "slices"))


def call(verb: list[str], repo: Path, root: Path, *more: str) -> int:
    return main([*verb, str(repo / "studies/slices2d.toml"), "-s", f"simulation.reader.root={root}", *SMALL, *more])


def missing(folder: Path) -> None:
    shutil.rmtree(folder)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def mask_without_image(folder: Path) -> None:
    (folder / "A_001_008.png").unlink()


def shapes_differ(folder: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "A_001_008_mask.png")


def label_not_known(folder: Path) -> None:
    mask = np.array(Image.open(folder / "A_001_008_mask.png"))
    mask[0, 0] = 7
    Image.fromarray(mask).save(folder / "A_001_008_mask.png")


def unreadable(folder: Path) -> None:
    file = folder / "A_001_008.png"
    file.write_bytes(file.read_bytes()[:100])


OF_ONE_CASE = [
    (mask_without_image, "A_001_008_mask.png is the mask of no image"),
    (shapes_differ, "9 x 9 pixels"),
    (label_not_known, "the mask holds 2 values besides 0"),
    (unreadable, "A_001_008.png: cannot be read"),
]
OF_ALL = [(missing, "there is no such folder"), (empty, "none of 0 files")]


def test_the_study_fits_a_folder_of_slices(repo: Path, slices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["study", "check"], repo, slices, "--data") == 0
    assert "can be used" in capsys.readouterr().out


@pytest.mark.parametrize(("spoil", "message"), OF_ONE_CASE + OF_ALL)
def test_a_wrong_folder_is_told_and_ends_with_4(
    repo: Path, slices: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], message: str
) -> None:
    spoil(slices)
    assert call(["study", "check"], repo, slices, "--data") == 4
    said = capsys.readouterr()
    assert message in said.out + said.err


@pytest.mark.slow
def test_a_run_goes_on_without_the_bad_case_counts_it_and_ends_with_9(repo: Path, slices: Path) -> None:
    unreadable(slices)
    assert call(["simulate"], repo, slices) == 9
    (run,) = Path("runs").glob("*-slices2d")
    assert (run / "consensus.safetensors").is_file()
    assert json.loads((run / "status.json").read_text())["left_out_cases"] == {"A": {"FR-D30": 1}}
    assert "A_001_008.png: cannot be read" in (run / "sites/A/log").read_text()
