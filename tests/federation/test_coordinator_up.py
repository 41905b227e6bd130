"""A real coordinator: Flower's own SuperLink and our front, started, killed, brought back, stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedrounds.cli.main import main
from fedrounds_common.chain import read as journal
from fedrounds_common.signing import SigningKey, sign_json
from fedrounds_server.coordinator.folder import CoordinatorFolder
from fedrounds_server.coordinator.register import read_register
from fedrounds_server.coordinator.status import Status, status_of
from fedrounds_server.folder import RunFolder, worker_pid

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

STUDY = """
format = 1
name = "small"
[cases]
labels = { cube = 1 }
channels = ["t1"]
[model]
name = "tiny_unet"
channels = [8]
[training]
rounds = 1
[cohort]
sites = ["B"]
minimum = 1
wait_s = 300
"""


@dataclass(frozen=True)
class Site:
    name: str
    key: SigningKey = field(default_factory=SigningKey.create)
    node: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))

    def request(self, invitation: Path) -> bytes:
        node = self.node.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        table = {
            "format": 1, "kind": "enrolment", "site": self.name, "token": json.loads(invitation.read_text())["token"],
            "signing_key": self.key.public.text, "node_key": node, "cases": 40, "versions": {"fedrounds": version("fedrounds")}, "made": "",
        }  # fmt: skip
        return json.dumps(sign_json(self.key, table)).encode()


@dataclass(frozen=True)
class Up:
    """One coordinator, its folder below `path`, and the command line spoken to it."""

    path: Path
    front: int
    superlink: int

    @property
    def folder(self) -> CoordinatorFolder:
        return CoordinatorFolder(self.path / "coordinator")

    def fedrounds(self, *words: object) -> int:
        return main(["coordinator", str(words[0]), "--folder", str(self.folder.path), *map(str, words[1:])])

    def pid(self, name: str) -> int:
        return int((self.folder.state / f"{name}.pid").read_text())

    def status(self) -> Status:
        return status_of(self.folder)

    def post(self, body: bytes) -> tuple[int, dict[str, Any]]:
        context = ssl.create_default_context(cafile=str(self.folder.keys / "ca.pem"))
        asked = urllib.request.Request(
            f"https://localhost:{self.front}/v1/enrol", body, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(asked, context=context, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def happened(self, event: str) -> list[dict[str, Any]]:
        return [line["facts"] for line in journal(self.folder.journal) if line["event"] == event]


def until(true: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.3)


def free_port() -> int:
    with socket.socket() as here:
        here.bind(("127.0.0.1", 0))
        return int(here.getsockname()[1])


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    path = tmp_path_factory.mktemp("up")
    up = Up(path, free_port(), free_port())
    assert (
        up.fedrounds(
            "init", f"localhost:{up.front}", "--superlink-port", up.superlink, "--bind", f"127.0.0.1:{up.front}"
        )
        == 0
    )
    assert up.fedrounds("invite", "A", "B", "--out", path) == 0
    assert up.fedrounds("start", "--detach") == 0
    yield up
    up.fedrounds("stop")


@pytest.fixture(scope="module")
def sites(up: Up) -> dict[str, Site]:
    """A comes through the front, B as a file; a wrong fingerprint lets neither in."""
    made = {name: Site(name) for name in ("A", "B")}
    body = made["A"].request(up.path / "A.invitation")
    assert up.post(body) == (202, {"state": "pending"})
    carried = up.path / "B.request"
    carried.write_bytes(made["B"].request(up.path / "B.invitation"))
    right = [site.key.public.fingerprint for site in made.values()]
    assert up.fedrounds("enrol", "A", carried, "--fingerprint", right[0], "--fingerprint", right[0]) == 7
    assert read_register(up.folder.path) == {}
    assert up.fedrounds("enrol", "A", carried, "--fingerprint", right[0], "--fingerprint", right[1]) == 0
    assert up.post(body) == (200, {"state": "enrolled"})
    return made


def test_two_sites_are_enrolled_and_flower_knows_their_nodes(up: Up, sites: dict[str, Site]) -> None:
    register = read_register(up.folder.path)
    assert {name: entry.key for name, entry in register.items()} == {n: s.key.public for n, s in sites.items()}
    assert all(entry.node_id for entry in register.values())
    assert [(one.site, one.state) for one in up.status().sites] == [("A", "enrolled"), ("B", "enrolled")]


def test_flowers_interfaces_listen_on_loopback_only_and_the_front_shows_none_of_them(up: Up) -> None:
    inodes = {os.readlink(link)[8:-1] for link in Path(f"/proc/{up.pid('superlink')}/fd").iterdir()
              if os.readlink(link).startswith("socket:")}  # fmt: skip
    listening = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    bound = {words[1].split(":")[0] for words in listening if words[3] == "0A" and words[9] in inodes}
    assert bound == {"0100007F"}  # 127.0.0.1
    context = ssl.create_default_context(cafile=str(up.folder.keys / "ca.pem"))
    for path in ("/v1/control/list-nodes", "/v1/runtime/x", "/docs", "/health", "/openapi.json"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"https://localhost:{up.front}{path}", context=context, timeout=30)
        assert refused.value.code in (403, 404, 405)


def test_nothing_that_the_processes_write_is_open_to_others(up: Up, sites: dict[str, Site]) -> None:
    found = {path for path in up.folder.path.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o077}
    assert found == set()
    assert stat.S_IMODE(up.folder.database.stat().st_mode) == 0o600


def test_a_second_start_of_the_same_coordinator_is_refused(up: Up) -> None:
    assert up.fedrounds("start") == 2
    assert up.status().up


@pytest.mark.parametrize("name", ["front", "superlink"])
def test_a_process_that_is_killed_comes_back_and_sites_stay_enrolled(up: Up, sites: dict[str, Site], name: str) -> None:
    before = up.pid(name)
    count = len(up.happened("restarted"))
    os.kill(before, signal.SIGKILL)
    until(lambda: len(up.happened("restarted")) > count)
    assert up.pid(name) != before
    assert up.post(sites["A"].request(up.path / "A.invitation")) == (200, {"state": "enrolled"})
    until(lambda: {one.state for one in up.status().sites} == {"enrolled"})


def test_a_renewed_certificate_is_shown_without_a_stop_and_hospitals_still_believe_it(
    up: Up, sites: dict[str, Site]
) -> None:
    def shown() -> str:
        context = ssl.create_default_context(cafile=str(up.folder.keys / "ca.pem"))
        with (
            socket.create_connection(("127.0.0.1", up.front), 30) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as line,
        ):
            return str((line.getpeercert() or {})["serialNumber"])

    before, superlink, count = shown(), up.pid("superlink"), len(up.happened("restarted"))
    assert up.fedrounds("renew") == 0
    until(lambda: len(up.happened("restarted")) > count)
    assert shown() != before
    assert up.pid("superlink") == superlink  # no run is cut off by a renewal


def test_a_run_is_submitted_cut_off_resumed_and_stopped(up: Up, sites: dict[str, Site]) -> None:
    file = up.path / "small.toml"
    file.write_text(STUDY)
    assert up.fedrounds("submit", file) == 0
    run = up.folder.runs / "0001-small"

    def state() -> tuple[str, int | None]:
        (found,) = [one for one in up.status().runs if one.name == run.name]
        return found.state, found.exit

    def worker() -> int:
        return worker_pid(RunFolder(run)) or 0

    until(worker)
    until(lambda: state()[0] == "running")
    assert up.fedrounds("resume", "1") == 2  # it is going on
    count = len(up.happened("restarted"))
    os.kill(up.pid("superlink"), signal.SIGKILL)
    until(lambda: len(up.happened("restarted")) > count)
    until(lambda: not worker() and state()[0] == "interrupted")
    assert up.fedrounds("resume", "1") == 0
    assert "resume = true" in (run / "run-config.toml").read_text()
    until(worker)
    assert up.fedrounds("stop", "1") == 0
    assert state() == ("stopped", 10)
    assert not worker()
    assert len(json.loads((run / "flower.json").read_text())["runs"]) == 2
    assert [facts["run"] for facts in up.happened("submitted") + up.happened("resumed")] == [run.name] * 2


def test_a_run_whose_sites_stay_away_ends_with_its_own_exit_status(up: Up, sites: dict[str, Site]) -> None:
    file = up.path / "short.toml"
    file.write_text(STUDY.replace("wait_s = 300", "wait_s = 1"))
    assert up.fedrounds("submit", file, "--wait") == 11


def test_a_lost_database_costs_no_enrolment(up: Up, sites: dict[str, Site]) -> None:
    assert up.fedrounds("stop") == 0
    assert up.fedrounds("stop") == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", up.front))
        taken.listen()
        assert up.fedrounds("start") == 6
    for file in up.folder.path.glob("superlink.db-*"):
        file.unlink()  # what was not yet moved into the database itself would mend it
    up.folder.database.write_bytes(b"damaged" * 1000)
    assert up.fedrounds("start", "--detach") == 4
    for file in up.folder.path.glob("superlink.db*"):
        file.unlink()
    before = {name: entry.node_id for name, entry in read_register(up.folder.path).items()}
    assert up.fedrounds("start", "--detach") == 0
    until(lambda: len(up.happened("registered anew")) == 2)
    after = {name: entry.node_id for name, entry in read_register(up.folder.path).items()}
    assert all(after[name] and after[name] != before[name] for name in before)


def test_a_revoked_site_is_off_both_lists(up: Up, sites: dict[str, Site]) -> None:
    assert up.fedrounds("revoke", "A") == 0
    assert read_register(up.folder.path)["A"].revoked
    assert [(one.site, one.state) for one in up.status().sites] == [("A", "revoked"), ("B", "enrolled")]
    status, answer = up.post(sites["A"].request(up.path / "A.invitation"))
    assert (status, answer) == (403, {"code": "FR-C66"})
