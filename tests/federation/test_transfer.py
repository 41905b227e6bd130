"""What a run makes of a network's own settings: weights of another program, frozen ones, the series of an exam."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds.verify import run_again
from fedrounds_common.arrays import Arrays
from fedrounds_common.errors import RunFileError, UsageError
from fedrounds_server.report.summary import summary

Cubes = Callable[..., Path]
DATA = Path(__file__).parents[1] / "data"
MINE = [DATA / "cubes", DATA / "exams"]


def run_of(study: Path, *overrides: str, resume: Path | None = None, heard: list[str] | None = None) -> Run:
    def listen(event: str, facts: object) -> None:
        if event == "warning" and heard is not None and isinstance(facts, dict):
            heard.append(facts["text"])

    found = simulate(study, overrides=overrides, plugins=MINE, runs=study.parent / "runs", resume=resume, listen=listen)
    assert isinstance(found, Run)
    return found


def start_and_end(run: Run) -> tuple[Arrays, Arrays]:
    return load_file(run.path / "initial.safetensors"), load_file(run.folder.consensus)


@pytest.mark.parametrize(
    "strategy", ["fedavg", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fedavgm", "fedprox"))]
)
@pytest.mark.parametrize("freeze", ['"base"', '"first"', '["down.", "*.bias"]'])
def test_frozen_weights_are_bit_for_bit_what_they_were_and_the_others_moved(
    freeze: str, strategy: str, tmp_path: Path, cubes: Cubes
) -> None:
    study = cubes(tmp_path, rounds=2, strategy=f'name = "{strategy}"')
    start, end = start_and_end(run_of(study, f"training.freeze={freeze}", 'simulation.baselines=["pooled"]'))
    still = {name for name in start if np.array_equal(start[name], end[name])}
    wanted = {
        '"base"': {name for name in start if not name.startswith("head.")},
        '"first"': {name for name in start if name.startswith(("stem.", "down.0."))},
        '["down.", "*.bias"]': {name for name in start if name.startswith("down.") or name.endswith(".bias")},
    }[freeze]
    assert still == wanted
    pooled = load_file(tmp_path / "runs" / "latest" / "baselines" / "pooled-all.safetensors")
    assert all(np.array_equal(pooled[name], start[name]) for name in wanted)


def test_a_run_without_it_moves_every_weight(tmp_path: Path, cubes: Cubes) -> None:
    start, end = start_and_end(run_of(cubes(tmp_path, rounds=2)))
    assert not any(np.array_equal(start[name], end[name]) for name in start)


def test_what_the_network_has_not_is_told_before_a_site_is_asked(tmp_path: Path, cubes: Cubes) -> None:
    with pytest.raises(UsageError, match=r'FR-U49 .*begins with "layer1."'):
        run_of(cubes(tmp_path), 'training.freeze=["layer1."]')


@pytest.mark.slow
def test_another_programs_weights_are_the_start_and_the_record_says_which(tmp_path: Path, cubes: Cubes) -> None:
    first = run_of(cubes(tmp_path, rounds=1))
    theirs = {f"net.{name}": 2 * array for name, array in load_file(first.folder.consensus).items()}
    theirs["net.head.weight"] = np.zeros((7, 8, 1, 1, 1), np.float32)
    save_file(theirs, tmp_path / "theirs.safetensors")
    given = ('simulation.initial_weights="theirs.safetensors"', 'simulation.initial_names={"net."=""}')
    heard: list[str] = []
    run = run_of(tmp_path / "cubes.toml", *given, 'training.freeze="base"', heard=heard)
    start, end = start_and_end(run)
    for name in start:
        same = np.array_equal(start[name], theirs[f"net.{name}"]) if name != "head.weight" else False
        assert same is (name != "head.weight")
        assert np.array_equal(end[name], start[name]) is (not name.startswith("head."))
    record = json.loads(run.folder.record.read_text())["initial"]
    assert record["file"] == "theirs.safetensors"
    assert record["fresh"] == ["head.weight"]
    assert set(record["taken"]) == set(start) - {"head.weight"}
    assert [line for line in heard if "round 1 starts from" in line and "drawn anew: head.weight" in line]
    # the same run again, when the file may be gone, comes to the same consensus
    (tmp_path / "theirs.safetensors").rename(tmp_path / "gone.safetensors")
    assert run_again(run.path).ok
    (tmp_path / "gone.safetensors").rename(tmp_path / "theirs.safetensors")
    # a run that goes on keeps what its record says
    again = run_of(tmp_path / "cubes.toml", *given, 'training.freeze="base"', resume=run.path)
    assert json.loads(again.folder.record.read_text())["initial"] == record


def test_a_file_of_other_shapes_stops_the_run_before_its_first_round(tmp_path: Path, cubes: Cubes) -> None:
    other = run_of(cubes(tmp_path, rounds=1), "model.channels=[4, 8]")
    (tmp_path / "other.safetensors").write_bytes(other.folder.consensus.read_bytes())
    with pytest.raises(RunFileError, match=r"FR-F41 other.safetensors is of other shapes: stem.conv.weight"):
        run_of(tmp_path / "cubes.toml", 'simulation.initial_weights="other.safetensors"')


def test_the_weights_that_join_the_series_of_an_exam_are_told_and_the_telling_series_weighs_more(
    tmp_path: Path,
) -> None:
    study = tmp_path / "exams.toml"
    study.write_text((DATA / "exams" / "exams.toml").read_text())
    run = run_of(study, "training.rounds=6", 'training.schedule="constant"', "training.learning_rate=0.03")
    weights = load_file(run.folder.consensus)["head.weights"]
    # the finding is in the sagittal series only
    assert weights.shape == (2, 2)
    assert (weights[:, 0] > weights[:, 1] + 0.1).all()
    said = [line for line in summary(run.path) if "adds to the logit of none: sagittal +" in line]
    assert len(said) == 1
    assert f"of tear: sagittal {weights[1, 0]:+.2f}, coronal {weights[1, 1]:+.2f} (all began at +2.00)" in said[0]
