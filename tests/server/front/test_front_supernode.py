"""Flower's own SuperNode through the front: a whole run with arrays in pieces, and a SuperLink that goes away."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedrounds_server.coordinator.flower import Flower

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
House = Any  # conftest.py's
MEGABYTES = 12  # three pieces of Flower's 5.24 MB

PROJECT = """
[project]
name = "echo"
version = "1.0.0"
description = "Sends an array, gets it back plus one."
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "test"
fab-include = ["*.py"]
[tool.flwr.app.components]
serverapp = "echo:server"
clientapp = "echo:client"
[tool.flwr.app.config]
out = ""
"""
ECHO = f"""
import hashlib, json
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()

@client.train()
def train(message, context):
    array = message.content["x"]["a"].numpy() + 1
    return Message(RecordDict({{"x": ArrayRecord({{"a": Array(array)}})}}), reply_to=message)

@server.main()
def main(grid, context):
    array = np.arange({MEGABYTES} * 1_000_000 // 8, dtype=np.int64)
    nodes = list(grid.get_node_ids())
    asked = [Message(RecordDict({{"x": ArrayRecord({{"a": Array(array)}})}}), dst_node_id=n, message_type="train") for n in nodes]
    replies = list(grid.send_and_receive(asked, timeout=60))
    sums = [hashlib.sha256(r.content["x"]["a"].numpy().tobytes()).hexdigest() for r in replies if r.has_content()]
    open(context.run_config["out"], "w").write(json.dumps([len(nodes), sums]))
"""


def supernode(house: House, site: Any, folder: Path) -> subprocess.Popen[bytes]:
    private = site.save(folder)
    environment = {
        **os.environ, "FLWR_HOME": str(folder / "flwr"), "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    with (folder / "supernode.log").open("ab") as log:
        return subprocess.Popen(
            [
                str(Path(sys.executable).with_name("flower-supernode")), f"--superlink=127.0.0.1:{house.at[1]}",
                f"--root-certificates={house.folder.keys / 'ca.pem'}", f"--auth-supernode-private-key={private}",
                f"--port={house.free_port()}",
            ],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    # its ClientApp processes are of its session
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def hospital(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Site A as a hospital runs it; B stays away."""
    house.goes("A")
    house.goes("B")
    folder = tmp_path_factory.mktemp("A")
    process = supernode(house, house.sites["A"], folder)
    try:
        yield process, folder
    finally:
        end(process)


def status_of(house: House, name: str) -> str:
    nodes = Flower(house.folder, house.settings.superlink_port).nodes()
    return next(node.status for node in nodes if node.node_id == house.sites[name].node_id)


def run_echo(house: House, folder: Path) -> list[Any]:
    """A whole run: how many nodes were asked, and the digest of what each sent back."""
    app = folder / "app"
    app.mkdir(exist_ok=True)
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "echo.py").write_text(ECHO)
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    config = folder / "config.toml"
    config.write_text(f"out = {json.dumps(str(out))}\n")
    flower = Flower(house.folder, house.settings.superlink_port)
    run = flower.start_run(app, config)
    house.wait_until(lambda: flower.run(run).ended, "the run ends", 90)
    assert flower.run(run).status == "finished:completed", (house.folder.logs / "superlink.log").read_text()[-3000:]
    found = json.loads(out.read_text())
    assert isinstance(found, list)
    return found


def expected() -> str:
    import numpy as np

    return hashlib.sha256((np.arange(MEGABYTES * 1_000_000 // 8, dtype=np.int64) + 1).tobytes()).hexdigest()


def test_a_run_with_a_real_supernode_passes_the_front_bit_for_bit(
    house: House, hospital: tuple[subprocess.Popen[bytes], Path], tmp_path: Path
) -> None:
    house.wait_until(lambda: status_of(house, "A") == "online", (hospital[1] / "supernode.log").read_text, 60)
    before = house.memory_mb("front")
    house.forget_peak("front")
    assert run_echo(house, tmp_path) == [1, [expected()]]
    grown = house.memory_mb("front", "VmHWM") - before
    print(f"{MEGABYTES} MB down and up; the front grew by {grown:.1f} MB at most")
    assert grown < 25
    assert "FR-C" not in house.front_log


def test_a_supernode_outlives_a_superlink_that_is_away_and_works_on_when_it_is_back(
    house: House, hospital: tuple[subprocess.Popen[bytes], Path], tmp_path: Path
) -> None:
    process, folder = hospital
    house.wait_until(lambda: status_of(house, "A") == "online", "the SuperNode is online", 60)
    house.stop("superlink")
    said = house.post_whole("/v1/fleet/pull-messages", house.sites["B"].headers())
    assert re.match(rb"HTTP/1.1 503 [^\n]*\n(.*\n)*retry-after: 5\r\n", said, re.IGNORECASE), said
    assert b"FR-C52" in said
    house.wait_until(lambda: "retrying in" in (folder / "supernode.log").read_text(), "the SuperNode waits", 30)
    assert process.poll() is None
    house.start_superlink()
    # its own way back: 503 is among what Flower's SuperNode asks again after
    assert run_echo(house, tmp_path) == [1, [expected()]]
    assert process.poll() is None
    assert "FR-C52 503 127.0.0.1 site=A SuperLink does not answer" in house.front_log


def test_a_supernode_outlives_a_front_that_is_away(
    house: House, hospital: tuple[subprocess.Popen[bytes], Path], tmp_path: Path
) -> None:
    process, _ = hospital
    house.stop("front")
    house.start_front()
    assert run_echo(house, tmp_path) == [1, [expected()]]
    assert process.poll() is None


def test_a_supernode_that_nobody_enrolled_is_told_to_leave(house: House, tmp_path: Path) -> None:
    stranger = type(house.sites["A"])("stranger", ec.generate_private_key(ec.SECP384R1()))
    process = supernode(house, stranger, tmp_path)
    try:
        process.wait(60)
    finally:
        end(process)
    assert "FR-C47 401 127.0.0.1 a node key that nobody enrolled" in house.front_log
