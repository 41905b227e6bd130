"""The Python face: from a file of one's own outside the source tree, and from a notebook in a real kernel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedrounds
from fedrounds.checking import check_data
from fedrounds.model import open_model
from fedrounds.run import Run
from fedrounds.series import Series
from fedrounds.simulation import Given, prepare
from fedrounds_common.arrays import digest, of_module
from fedrounds_common.errors import RunFileError, UsageError
from fedrounds_common.network import Network
from fedrounds_server.release import read_model

Cubes = Callable[..., Path]
DATA = Path(__file__).parents[1] / "data"
MINE = DATA / "cubes"

PROGRAM = """
from dataclasses import dataclass

import fedrounds
from fedrounds_common.averaging import moved, weighted_mean
from fedrounds_common.strategy import Consensus


@dataclass(frozen=True)
class MyStrategy(fedrounds.Strategy):
    share: float = 0.5

    def aggregate(self, consensus, updates):
        mean = weighted_mean(updates)
        return Consensus(moved(consensus.arrays, {name: self.share * step for name, step in mean.items()}))


run = fedrounds.simulate("cubes.toml", strategy=MyStrategy(), plugins=["mine"])
row = run.metrics[0]
model = run.consensus()

import json
from torch import nn, zeros

print(json.dumps({
    "package": fedrounds.__file__,
    "exit": run.exit,
    "rows": len(run.metrics),
    "columns": [row.model, row.region, row.metric],
    "value": run.value("consensus"),
    "is a module": isinstance(model, nn.Module),
    "classes": sorted({type(part).__module__.split(".")[0] for part in model.modules()}),
    "training": model.training,
    "shape": list(model(zeros(1, 1, 16, 16, 16)).shape),
}))
"""


@pytest.fixture
def elsewhere(tmp_path: Path, cubes: Cubes) -> Path:
    """A folder of a person's own: a study, a reader of theirs, nothing of the source tree."""
    cubes(tmp_path, rounds=1)
    shutil.copytree(MINE, tmp_path / "mine")
    return tmp_path


def quiet_environment(home: Path) -> dict[str, str]:
    places = {
        name: str(home / name.lower())
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    return {**os.environ, **places, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


@pytest.mark.slow
def test_a_program_of_ones_own_runs_a_study_with_a_strategy_of_its_own(elsewhere: Path) -> None:
    (elsewhere / "my_study.py").write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "my_study.py"], cwd=elsewhere, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["exit"] == 0
    assert said["rows"] > 10
    assert 0 <= said["value"] <= 1
    # the network itself and not a wrapper around it
    assert said["is a module"]
    assert not said["training"]
    assert said["classes"] == ["fedrounds_common", "torch"]
    assert said["shape"] == [1, 2, 16, 16, 16]
    (run,) = (elsewhere / "runs").glob("0*")
    record = json.loads((run / "record.json").read_text("utf-8"))
    assert record["outside_code"]["strategy"] == "__main__.MyStrategy"
    assert len(record["outside_code"]["plugins_sha256"]) == 64


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel_from_top_to_bottom(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name, value in quiet_environment(elsewhere).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(DATA / "notebook" / "python_face.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without its outputs"
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(elsewhere)}}).execute()
    cells = {cell["id"]: cell for cell in notebook.cells}

    def text(name: str) -> str:
        found = [
            output.get("text") or output.get("data", {}).get("text/plain", "") for output in cells[name]["outputs"]
        ]
        return "".join(found)

    assert "consensus" in text("seeds")
    assert " ± " in text("seeds")
    consensus, untrained, rows = text("metrics").strip("()").split(",")
    assert 0 <= float(untrained) <= 1
    assert 0 <= float(consensus) <= 1
    assert int(rows) > 10
    assert text("consensus") == "('Module', (1, 2, 16, 16, 16), False)"
    assert len(list((elsewhere / "runs").glob("0*"))) == 2


def simulated(study: Path, **options: Any) -> Any:
    return fedrounds.simulate(study, plugins=[MINE], runs=study.parent / "runs", **options)


def test_a_single_run_is_a_run_and_several_are_a_series(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    held_out = ['cohort.held_out=["C", "D"]']
    run = simulated(study, overrides=held_out)
    assert isinstance(run, Run)
    series = simulated(study, overrides=held_out, seeds=2)
    assert isinstance(series, Series)
    assert [one.study.seed for one in series] == [5, 6]
    assert (len(series), series.exit) == (2, 0)
    # the first seed is the study's own: the same run again, and another one beside it
    assert series.runs[0].status["consensus"] == run.status["consensus"]
    assert series.runs[1].status["consensus"] != run.status["consensus"]
    assert {one.path.name for one, _ in series.metrics} == {one.path.name for one in series}
    table = str(series.table())
    # of each run the mean over its two held-out hospitals
    values = [np.mean([one.value("consensus", site=site) for site in "CD"]) for one in series]
    assert [one.value() for one in series] == pytest.approx(values)
    assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in table, f"{values} in\n{table}"


@pytest.mark.slow
def test_a_sweep_runs_every_setting_and_tells_them_apart_in_one_table(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    series = simulated(study, sweep=["strategy.name=fedavg,fedavgm", "training.local_steps=1,2"])
    assert series.labels == (
        "strategy.name=fedavg training.local_steps=1",
        "strategy.name=fedavg training.local_steps=2",
        "strategy.name=fedavgm training.local_steps=1",
        "strategy.name=fedavgm training.local_steps=2",
    )
    assert [run.study.training.local_steps for run in series] == [1, 2, 1, 2]
    assert [run.study.strategy["name"] for run in series] == ["fedavg", "fedavg", "fedavgm", "fedavgm"]
    table = str(series.table())
    assert all(label in table for label in series.labels)


@dataclass(frozen=True)
class Pointwise(Network):
    """A network of one's own: one number for each voxel and class."""

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        return nn.Conv3d(inputs, outputs, 1)

    def divisor(self, dims: int) -> int:
        return 1


def test_a_run_with_a_network_of_ones_own_gives_that_network_back(tmp_path: Path, cubes: Cubes) -> None:
    run = simulated(cubes(tmp_path, rounds=1), network=Pointwise())
    model = run.consensus()
    assert isinstance(model, nn.Conv3d)
    assert digest(of_module(model)) == run.status["consensus"]
    assert open_model(run).module().state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 4, 4, 4)).shape == (1, 2, 4, 4, 4)
    # another process has the folder only, and is told what to bring
    for open_it in (lambda: Run(run.path).consensus(), lambda: open_model(run.path)):
        with pytest.raises(RunFileError, match=r"FR-F36 .*network .*Pointwise.*Run\(path, network=…\)"):
            open_it()
    again = Run(run.path, network=Pointwise()).consensus()
    assert digest(of_module(again)) == run.status["consensus"]


@dataclass(frozen=True)
class Masked(Network):
    """A network with a mask of true and false among its buffers."""

    persistent: bool = True

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        network = nn.Conv3d(inputs, outputs, 1)
        network.register_buffer("window", torch.ones(2, dtype=torch.bool), persistent=self.persistent)
        return network

    def divisor(self, dims: int) -> int:
        return 1


def test_a_network_whose_state_cannot_be_sent_is_refused_before_any_site_is_asked(tmp_path: Path, cubes: Cubes) -> None:
    heard: list[str] = []
    with pytest.raises(UsageError, match=r"FR-U57 .*window \(bool\).*persistent=False") as caught:
        simulated(
            cubes(tmp_path, rounds=1), network=Masked(), listen=lambda event, facts: heard.append(event)
        )  # fmt: skip
    assert caught.value.exit_status == 2
    assert heard == []
    for down in ("float32", "int8", "top_k"):  # of true and false no difference from the last consensus is made either
        wire = [f'wire.down="{down}"']
        with pytest.raises(UsageError, match="FR-U57"):
            check_data(prepare(tmp_path / "cubes.toml", wire, plugins=[MINE], given=Given(network=Masked())))
    assert simulated(tmp_path / "cubes.toml", network=Masked(persistent=False)).exit == 0


def test_the_consensus_of_the_python_face_is_that_of_the_file(tmp_path: Path, cubes: Cubes) -> None:
    run = simulated(cubes(tmp_path, rounds=1))
    model = run.consensus()
    arrays = of_module(model)
    assert digest(read_model(run.folder.consensus, arrays)) == digest(arrays) == run.status["consensus"]


def test_an_object_cannot_go_to_worker_processes(tmp_path: Path, cubes: Cubes) -> None:
    with pytest.raises(UsageError, match="FR-U22 an object from Python, engine inline and workers = 2"):
        simulated(cubes(tmp_path, rounds=1, workers=2), network=Pointwise())


def test_the_front_door_shows_its_few_names_and_no_others() -> None:
    assert {"simulate", "evaluate", "Run", "Study", "Task", "Strategy", "Case"} <= set(dir(fedrounds))
    for name in dir(fedrounds):
        assert getattr(fedrounds, name) is not None
    with pytest.raises(AttributeError, match="module 'fedrounds' has no attribute 'simulat'"):
        fedrounds.simulat  # noqa: B018
