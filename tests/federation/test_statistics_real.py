"""Sums between real sites' folders and a real coordinator, over signed letters: the model is that of the simulation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun

from fedrounds.series import simulate
from fedrounds_client.boundary import answer_enrolled
from fedrounds_client.home import SiteHome, create_home
from fedrounds_client.ledger import entries
from fedrounds_client.permits import say
from fedrounds_common.disk import write_json
from fedrounds_common.signing import SigningKey, sign_json
from fedrounds_common.study.canonical import canonical_text, toml_text
from fedrounds_common.study.parse import StudyFile, read_study
from fedrounds_common.wire import parts_of, record_of, signature_of
from fedrounds_server import history
from fedrounds_server.app import server_app
from fedrounds_server.coordinator.folder import CoordinatorFolder, make_folders
from fedrounds_server.coordinator.register import Enrolled, write_entry
from fedrounds_server.engines.inline import SERVER_NODE, identify
from fedrounds_server.folder import RunFolder, read_json

DATA = Path(__file__).parents[1] / "data"
MINE = [DATA / "cubes", DATA / "sums"]
SITES = {11: "A", 12: "B", 13: "C", 14: "D"}
STUDY = ('task.name="brightness"', 'cases.intensity="none"')


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


def site(folder: Path, name: str, coordinator: SigningKey, file: StudyFile, outgoing: list[str]) -> SiteHome:
    policy = {
        "tasks": ["brightness"], "networks": ["tiny_unet"], "minimum_cases": 1, "minimum_privacy": "none",
        "rounds": 10, "outgoing": outgoing,
    }  # fmt: skip
    tables = {"name": name, "plugins": [str(path) for path in MINE], "data": {"name": "cubes", "only": name}}
    home = create_home(folder / f"site-{name}", toml_text({**tables, "policy": policy}, {}))
    invitation = {"format": 1, "kind": "invitation", "site": name, "coordinator": coordinator.public.text}
    write_json(home.invitation, sign_json(coordinator, invitation))
    now = datetime.now(UTC)
    say(home, home.read_settings(), canonical_text(file.study), "ada", now, True, 1, now + timedelta(days=1))
    return home


@pytest.fixture
def between(tmp_path: Path) -> Iterator[Callable[..., tuple[RunFolder, dict[str, SiteHome]]]]:
    """Carries a study out between four real sites; `keeps`: one whose policy lets no statistics out."""
    before = os.umask(0o077)

    def carry_out(study: Path, keeps: str = "") -> tuple[RunFolder, dict[str, SiteHome]]:
        file = read_study(study, STUDY, MINE)
        coordinator = CoordinatorFolder(tmp_path / "coordinator")
        make_folders(coordinator)
        key = SigningKey.create()
        key.save(coordinator.signing_key)
        homes = {}
        for node, name in SITES.items():
            may = ["hello", "update", "scores", *([] if name == keeps else ["statistics"])]
            homes[node] = site(tmp_path, name, key, file, may)
            write_entry(coordinator, Enrolled(name, homes[node].key.public, 6, node, False))
        # as `coordinator start` makes it, which knows of no plug-ins: a coordinator runs what comes with fedrounds
        path = coordinator.runs / "0001-cubes"
        path.mkdir(parents=True)
        config: Any = {
            "study": canonical_text(file.study), "run": str(path), "coordinator": str(coordinator.path),
            "plugins": "\n".join(map(str, MINE)),
        }  # fmt: skip
        server_app()(Roads(homes), Context(1, SERVER_NODE, {}, RecordDict(), config))
        return RunFolder(path), {SITES[node]: home for node, home in homes.items()}

    yield carry_out
    os.umask(before)


@pytest.mark.slow
def test_real_sites_settle_the_model_of_the_simulation_and_every_sum_is_in_both_books(
    tmp_path: Path, cubes: Callable[..., Path], between: Callable[..., Any]
) -> None:
    study = cubes(tmp_path / "study", rounds=1)
    simulated = simulate(study, overrides=STUDY, plugins=MINE, runs=tmp_path / "runs").status["consensus"]
    folder, homes = between(study)
    status = read_json(folder.status)
    assert (status["exit"], status["failed"], status["consensus"]) == (0, {}, simulated)
    lines = [line for line in history.read(folder.history) if line.kind == "statistics"]
    assert [line.purpose for line in lines] == ["brightness", "spread"]
    for number, name in enumerate("ABCD"):
        sent = [line for line in entries(homes[name].outbox) if line["kind"] == "statistics"]
        assert [line["bytes"] for line in sent] == [line.sites[number].bytes_up for line in lines]
        assert all(line["signature"] for line in sent)
    assert "history.jsonl" in json.loads((folder.path / "manifest.json").read_text())["files"]


@pytest.mark.slow
def test_a_site_whose_policy_lets_no_statistics_out_is_named_and_takes_part_in_the_rounds(
    tmp_path: Path, cubes: Callable[..., Path], between: Callable[..., Any]
) -> None:
    folder, homes = between(cubes(tmp_path / "study", rounds=1), keeps="B")
    first, round_1, last = history.read(folder.history)
    for line in (first, last):
        assert {site.site: site.state for site in line.sites} == {
            "A": "ok",
            "B": "refused:FR-C16",
            "C": "ok",
            "D": "ok",
        }
    assert all(site.state == "ok" for site in round_1.sites)
    assert read_json(folder.status)["failed"] == {"B": "refused:FR-C16"}
    assert {line["kind"] for line in entries(homes["B"].outbox)} == {
        "hello",
        "update",
        "refusal",
    }  # no case to judge on
