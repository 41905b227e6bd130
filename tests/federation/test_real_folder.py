"""The folder of a run between hospitals: as complete as a simulation's, without one case in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun

from fedrounds.cli.main import main as run_cli
from fedrounds_client.boundary import answer_enrolled
from fedrounds_client.home import SiteHome, create_home
from fedrounds_client.permits import say
from fedrounds_common.disk import write_json
from fedrounds_common.signing import SigningKey, sign_json
from fedrounds_common.study.canonical import canonical_text, toml_text
from fedrounds_common.study.parse import StudyFile, read_study
from fedrounds_common.wire import parts_of, record_of, signature_of
from fedrounds_server.app import server_app
from fedrounds_server.coordinator.folder import CoordinatorFolder, make_folders
from fedrounds_server.coordinator.register import Enrolled, write_entry
from fedrounds_server.coordinator.submit import prepare_run
from fedrounds_server.engines.inline import SERVER_NODE, identify
from fedrounds_server.folder import read_json

SITES = {11: "A", 12: "B", 13: "C"}


class Roads(Grid):
    """What lies between the coordinator and the folders of real sites: letters, as they are signed."""

    waits = True

    def __init__(self, homes: dict[int, SiteHome]) -> None:
        identify(SERVER_NODE)
        self.homes = homes
        self.replies: dict[str, Message] = {}

    def set_run(self, run: FlowerRun) -> None:
        raise NotImplementedError

    @property
    def run(self) -> FlowerRun:
        raise NotImplementedError

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.homes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        (message,) = messages
        number = str(len(self.replies) + 1)
        message.metadata.__dict__["_message_id"] = number
        home = self.homes[message.metadata.dst_node_id]
        said = answer_enrolled(*parts_of(message.content), signature_of(message.content), home.folder)
        self.replies[number] = Message(record_of(*said), reply_to=message)
        return [number]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.replies[number] for number in message_ids]


def site(folder: Path, name: str, data: Path, coordinator: SigningKey, file: StudyFile, minimum: int) -> SiteHome:
    policy = {
        "tasks": ["segmentation"], "networks": ["tiny_unet"], "minimum_cases": minimum, "minimum_privacy": "none",
        "rounds": 10, "outgoing": ["hello", "update", "scores", "statistics"],
    }  # fmt: skip
    reader = {**file.simulation["reader"], "root": str(data), "only": name}
    home = create_home(folder / f"site-{name}", toml_text({"name": name, "data": reader, "policy": policy}, {}))
    invitation = {"format": 1, "kind": "invitation", "site": name, "coordinator": coordinator.public.text}
    write_json(home.invitation, sign_json(coordinator, invitation))
    now = datetime.now(UTC)
    say(home, home.read_settings(), canonical_text(file.study), "ada", now, True, 3, now + timedelta(days=1))
    return home


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, balls: Any) -> Iterator[Path]:
    """A run between three hospitals that has ended; A and B withhold their scores, since they judge on few cases."""
    before = os.umask(0o077)
    folder = tmp_path_factory.mktemp("real")
    file = read_study(balls.lay_out_study(folder))
    coordinator = CoordinatorFolder(folder / "coordinator")
    make_folders(coordinator)
    key = SigningKey.create()
    key.save(coordinator.signing_key)
    homes = {}
    for node, name in SITES.items():
        homes[node] = site(folder, name, folder / "data", key, file, minimum=3)
        write_entry(coordinator, Enrolled(name, homes[node].key.public, 6, node, False))
    path = prepare_run(coordinator, file).path
    config: Any = {"study": canonical_text(file.study), "run": str(path), "coordinator": str(coordinator.path)}
    server_app()(Roads(homes), Context(1, SERVER_NODE, {}, RecordDict(), config))
    shutil.move(folder / "data", folder / "new")
    yield path
    os.umask(before)


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any]:
    status = run_cli([*map(str, words), "--format", "json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_real_run_leaves_tables_figures_a_report_and_a_manifest(ended: Path) -> None:
    status = read_json(ended / "status.json")
    assert (status["exit"], status["failed"]) == (0, {})
    assert sorted(status["withheld"]) == ["A", "B"]
    names = set(json.loads((ended / "manifest.json").read_text())["files"])
    assert {"metrics.csv", "report.html", "consensus.safetensors", "history.jsonl", "study.json"} <= names
    assert any(name.startswith("figures/") for name in names)
    assert not (ended / "sites").exists()
    page = (ended / "report.html").read_text("utf-8")
    assert "A (withheld: too few cases), B (withheld: too few cases)" in page
    assert all(file.stat().st_mode & 0o077 == 0 for file in ended.rglob("*"))


@pytest.mark.slow
def test_runs_list_show_and_verify_work_on_it(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = told(capsys, "runs", "list", "--runs", ended.parent)
    assert status == 0
    (one,) = found["data"]["runs"]
    assert (one["name"], one["state"], one["sites"]) == (ended.name, "done", "3 of 3")
    status, found = told(capsys, "runs", "show", ended)
    assert status == 0
    assert set(found["data"]["files"]) >= {"report.html", "metrics.csv"}
    status, found = told(capsys, "runs", "verify", ended)
    assert (status, found["data"]["changed"]) == (0, [])
    assert all(check["ok"] for check in found["data"]["checks"])
    assert any("study.json" in check["what"] for check in found["data"]["checks"])


@pytest.mark.slow
def test_it_cannot_be_run_again_here_and_the_words_say_so(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run_cli(["runs", "verify", str(ended), "--again"])
    assert status == 4
    said = capsys.readouterr().err
    assert "FR-F37" in said
    assert "is a run between hospitals: it cannot be run again here" in " ".join(said.split())


@pytest.mark.slow
def test_its_consensus_judges_and_predicts_other_images(
    ended: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = ended.parents[2] / "new"
    status, found = told(capsys, "evaluate", ended, "--data", data, "--out", tmp_path / "judged")
    assert status == 0, found
    assert any("cannot be told" in text for text in found["data"]["warnings"])
    status, found = told(capsys, "predict", ended, "-i", data / "images", "-o", tmp_path / "masks")
    assert status == 0, found
    assert len(found["data"]["files"]) == 15


@pytest.mark.slow
def test_a_hospital_sees_why_with_the_released_model_and_its_own_case(
    ended: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_cli(["show", str(ended), "--case", "A_01", "--why"]) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "FR-F37" in said
    assert "fedrounds predict MODEL -i FOLDER -o FOLDER --why all" in said
    # what a hospital has: the model, the study, its own images
    model = shutil.copy(ended / "consensus.safetensors", tmp_path / "consensus.safetensors")
    study, mine = ended.parents[2] / "balls.toml", tmp_path / "mine"
    mine.mkdir()
    image = shutil.copy(ended.parents[2] / "new/images/A_01.nii.gz", mine)
    out = tmp_path / "out"
    status, found = told(capsys, "predict", model, "--study", study, "-i", mine, "-o", out, "--why", "all")
    assert status == 0, found
    ((case, files),) = found["data"]["files"].items()
    assert files == [
        f"why/{case}.png", f"masks/{case}.nii.gz", f"probabilities/{case}.nii.gz", f"why/undecided/{case}.nii.gz"
    ]  # fmt: skip
    heat, read = nib.load(out / f"why/undecided/{case}.nii.gz"), nib.load(image)
    assert heat.shape == read.shape
    np.testing.assert_array_equal(heat.affine, read.affine)
    chances = np.asarray(nib.load(out / f"probabilities/{case}.nii.gz").dataobj, np.float64)
    # of one label beside the background: undecided is the entropy of the very probabilities that are written
    p = np.clip(chances, 1e-7, 1 - 1e-7)
    np.testing.assert_allclose(np.asarray(heat.dataobj), -p * np.log2(p) - (1 - p) * np.log2(1 - p), atol=1e-4)


@pytest.mark.slow
def test_a_report_drawn_again_holds_no_more_than_the_first(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = told(capsys, "report", ended)
    assert (status, found["data"]["with_sites"]) == (0, False)
