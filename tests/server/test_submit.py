"""Submitting a study: the run's folder, the app without code, and the true end of a run."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import stat
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from fedrounds_common.arrays import digest as digest_of_arrays
from fedrounds_common.disk import write_json
from fedrounds_common.errors import FedroundsError, NetworkError, UsageError
from fedrounds_common.signing import SigningKey
from fedrounds_common.study.canonical import canonical_text, digest
from fedrounds_common.study.parse import StudyFile, parse_study
from fedrounds_server.coordinator.bundle import CONFIG, build_app, run_config
from fedrounds_server.coordinator.flower import Flower, FlowerRun
from fedrounds_server.coordinator.folder import CoordinatorFolder
from fedrounds_server.coordinator.register import Enrolled, write_entry
from fedrounds_server.coordinator.setup import create
from fedrounds_server.coordinator.status import status_of
from fedrounds_server.coordinator.submit import check_resumable, cut_off, follow, prepare_run, resume_run, start_run
from fedrounds_server.folder import RunFolder, read_json

STUDY = """
format = 1
name = "small"
[cases]
labels = { cube = 1 }
channels = ["t1"]
[model]
name = "tiny_unet"
[cohort]
sites = ["A", "B", "C"]
held_out = ["D"]
minimum = 2
"""


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorFolder:
    folder = CoordinatorFolder(tmp_path / "coord")
    create(folder, "fl.example.org:8443")
    return folder


@pytest.fixture
def study() -> StudyFile:
    return parse_study(STUDY, Path("small.toml"))


def let_in(folder: CoordinatorFolder, *sites: str, revoked: bool = False) -> None:
    for site in sites:
        write_entry(folder, Enrolled(site, SigningKey.create().public, 10, None, revoked))


def test_a_run_is_prepared_with_the_studys_canonical_text_as_one_string(
    coordinator: CoordinatorFolder, study: StudyFile
) -> None:
    let_in(coordinator, "A", "B")
    prepared = prepare_run(coordinator, study)
    config = tomllib.loads(prepared.config.read_text())
    assert config["study"] == canonical_text(study.study)
    assert hashlib.sha256(config["study"].encode()).hexdigest() == prepared.digest == digest(study.study)
    assert (config["run"], config["coordinator"]) == (str(prepared.path), str(coordinator.path))
    assert (config["resume"], config["initial"]) == (False, "")
    assert prepared.missing == ("C", "D")
    assert (prepared.path / "study.toml").read_text() == STUDY
    assert json.loads((prepared.path / "status.json").read_text())["state"] == "submitted"
    assert (coordinator.runs / "latest").resolve() == prepared.path
    open_ = [path for path in prepared.path.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_ == []


def test_runs_are_numbered_one_after_the_other(coordinator: CoordinatorFolder, study: StudyFile) -> None:
    let_in(coordinator, "A", "B")
    assert [prepare_run(coordinator, study).path.name for _ in range(2)] == ["0001-small", "0002-small"]


def test_too_few_enrolled_sites_are_told_before_anything_is_made(
    coordinator: CoordinatorFolder, study: StudyFile
) -> None:
    let_in(coordinator, "A", "D")  # D is held out, and B revoked: one is left to train
    let_in(coordinator, "B", revoked=True)
    with pytest.raises(UsageError, match=r"FR-U73 1 of the study's training sites are enrolled \(A\).*minimum = 2"):
        prepare_run(coordinator, study)
    assert list(coordinator.runs.iterdir()) == []


def test_weights_to_start_from_are_checked_and_kept_with_the_run(
    coordinator: CoordinatorFolder, study: StudyFile, tmp_path: Path
) -> None:
    from fedrounds_server.app import initial_weights
    from fedrounds_server.checkpoint import load_arrays, save_arrays
    from fedrounds_server.coordinator.submit import Start

    let_in(coordinator, "A", "B")
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"no weights")
    with pytest.raises(FedroundsError, match="FR-F11"):
        prepare_run(coordinator, study, Start(weights))
    weights.write_bytes(save_arrays({"w": np.zeros(2, np.float32)}, {"format": 1}))
    with pytest.raises(FedroundsError, match="FR-F41 weights.safetensors holds no tensor of this network's names: w"):
        prepare_run(coordinator, study, Start(weights))
    assert list(coordinator.runs.iterdir()) == []
    ours = initial_weights(study.study, study.study.build_task(), study.study.build_network())
    doubled = {name: 2 * array for name, array in ours.items()}
    weights.write_bytes(save_arrays(doubled, {"format": 1}))
    prepared = prepare_run(coordinator, study, Start(weights))
    assert prepared.origin is None
    kept = prepared.path / "initial.safetensors"
    assert tomllib.loads(prepared.config.read_text())["initial"] == str(kept)
    assert digest_of_arrays(load_arrays(kept)[0]) == digest_of_arrays(doubled)
    # of another program: what came from where stands in the record
    renamed = {f"net.{name}": array for name, array in ours.items() if not name.startswith("head.")}
    weights.write_bytes(save(renamed))
    prepared = prepare_run(coordinator, study, Start(weights, {"net.": ""}))
    assert prepared.origin is not None
    assert set(prepared.origin.fresh) == {"head.weight", "head.bias"}
    assert json.loads((prepared.path / "record.json").read_text())["initial"] == prepared.origin.as_dict()


def test_flowers_own_builder_makes_a_bundle_of_the_app_without_a_line_of_code(
    coordinator: CoordinatorFolder, study: StudyFile
) -> None:
    from flwr.cli.build import build_fab_from_disk

    (coordinator.app / "left_over.py").write_text("print('no')")
    bundle = build_fab_from_disk(build_app(coordinator.app, study.study))
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        assert set(archive.namelist()) == {"pyproject.toml", "studies/study.toml", ".info/CONTENT"}
        project = tomllib.loads(archive.read("pyproject.toml").decode())
        agreed = parse_study(archive.read("studies/study.toml").decode(), Path("study.toml"))
    components = {"serverapp": "fedrounds_server.app:app", "clientapp": "fedrounds_client.app:app"}
    assert project["tool"]["flwr"]["app"]["components"] == components
    assert project["project"]["dependencies"] == []
    assert digest(agreed.study) == digest(study.study)


def test_hospitals_take_the_bundle(coordinator: CoordinatorFolder, study: StudyFile) -> None:
    from flwr.cli.build import build_fab_from_disk

    from fedrounds_client.join.bundle import check_bundle

    bundle = build_fab_from_disk(build_app(coordinator.app, study.study))
    check_bundle(bundle, hashlib.sha256(bundle).hexdigest())


def test_a_plain_flower_user_may_set_the_same_keys_on_the_source_tree(repo: Path) -> None:
    own = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert own == CONFIG


@pytest.mark.parametrize("text", ['a "quoted" \\ name', "tab\tnew\nline", "å 中 \x7f \u2028", "'''"])
def test_any_text_survives_the_run_configuration(tmp_path: Path, text: str) -> None:
    file = run_config(tmp_path / "run.toml", {"study": text, "resume": True})
    assert tomllib.loads(file.read_text(encoding="utf-8")) == {"study": text, "resume": True}


def test_a_run_that_flower_did_not_take_stays_as_it_was(coordinator: CoordinatorFolder, study: StudyFile) -> None:
    let_in(coordinator, "A", "B")
    prepared = prepare_run(coordinator, study)
    with pytest.raises(NetworkError, match="FR-C72"):
        start_run(coordinator, prepared, Flower(coordinator, 1))
    assert read_json(RunFolder(prepared.path).status)["state"] == "submitted"
    assert not (prepared.path / "flower.json").exists()


@pytest.fixture
def ended(coordinator: CoordinatorFolder, study: StudyFile) -> Callable[..., Path]:
    """A run of ours that Flower's run 12 carried, with a status of its own."""

    def make(**status: Any) -> Path:
        let_in(coordinator, "A", "B")
        path = prepare_run(coordinator, study).path
        write_json(path / "flower.json", {"format": 1, "runs": [11, 12]})
        write_json(RunFolder(path).status, {"format": 1, **status})
        return path

    return make


@pytest.mark.parametrize("status", [0, 9, 11, 130])
def test_following_a_run_ends_with_its_own_exit_status(
    coordinator: CoordinatorFolder, ended: Callable[..., Path], status: int
) -> None:
    path = ended(state="whatever it was", exit=status)
    assert follow(path, 12, Flower(coordinator, 1), lambda state: None) == status


def test_a_run_that_ended_with_a_consensus_is_not_resumed(
    coordinator: CoordinatorFolder, ended: Callable[..., Path]
) -> None:
    for status in (0, 9):
        with pytest.raises(UsageError, match="FR-U69.*ended with a consensus"):
            resume_run(coordinator, ended(state="done", exit=status), Flower(coordinator, 1))


def test_a_run_cut_off_is_told_from_one_that_goes_on(
    coordinator: CoordinatorFolder, ended: Callable[..., Path]
) -> None:
    path = ended(state="running")
    ended(state="failed", exit=11)
    old = FlowerRun(11, "finished:failed", "")
    assert cut_off(coordinator, [old, FlowerRun(12, "running", "")]) == ()
    assert cut_off(coordinator, [old, FlowerRun(12, "finished:failed", "no heartbeat")]) == (path.name,)
    assert cut_off(coordinator, []) == (path.name,)  # Flower's database was lost


def test_a_status_of_a_coordinator_that_is_down_is_read_from_its_folder(
    coordinator: CoordinatorFolder, ended: Callable[..., Path]
) -> None:
    ended(state="failed", exit=11)
    let_in(coordinator, "C", revoked=True)
    found = status_of(coordinator)
    assert not found.up
    assert [(site.site, site.state) for site in found.sites] == [("A", "enrolled"), ("B", "enrolled"), ("C", "revoked")]
    assert [(run.name, run.state, run.exit) for run in found.runs] == [("0001-small", "failed", 11)]
    assert set(found.certificates) == {"ca", "server"}


def test_a_run_that_a_process_still_works_on_is_not_resumed(
    coordinator: CoordinatorFolder, ended: Callable[..., Path]
) -> None:
    path = ended(state="running")
    with (path / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="FR-U69.*is going on"):
            check_resumable(path, Flower(coordinator, 1))
