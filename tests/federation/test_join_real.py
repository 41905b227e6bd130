"""Flower's own SuperNode under our launcher, against a real SuperLink with TLS and node authentication, on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from fedrounds_client.home import SiteHome, create_home
from fedrounds_client.join import supernode
from fedrounds_client.join.node import read_node_key
from fedrounds_common.signing import SigningKey, sign_json

pytestmark = pytest.mark.slow

SITE_TOML = 'format = 1\nname = "A"\n\n[data]\nname = "phantom_glioma"\n'
BIN = Path(sys.executable).parent
PROJECT = """
[project]
name = "{name}"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.flwr.app]
publisher = "fedrounds"
[tool.flwr.app.components]
serverapp = "{package}.server:app"
clientapp = "{package}.client:app"
[tool.flwr.app.config]
said = ""
marker = ""
"""
SERVER = """
import time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    messages = [Message(RecordDict({"a": ConfigRecord({"b": 1})}), nodes[0], "train")]
    replies = list(grid.send_and_receive(messages, timeout=60))
    Path(context.run_config["said"]).write_text(str([(r.error.code, r.error.reason) if r.has_error() else "content" for r in replies]))
"""
CLIENT = """
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
Path({marker!r}).touch()
app = ClientApp()
@app.train()
def train(message, context):
    return Message(RecordDict(), reply_to=message)
"""


PROXY = """
import socket, sys, threading
listen = socket.create_server(("127.0.0.1", 0))
print(listen.getsockname()[1], flush=True)
def copy(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    a.close(); b.close()
def serve(line):
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += line.recv(1)
    print(head.split(b"\\r\\n")[0].decode(), flush=True)
    host, port = head.split()[1].decode().rsplit(":", 1)
    other = socket.create_connection((host, int(port)))
    line.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
    threading.Thread(target=copy, args=(other, line), daemon=True).start()
    copy(line, other)
while True:
    threading.Thread(target=serve, args=(listen.accept()[0],), daemon=True).start()
"""


def certificates(folder: Path, host: str) -> None:
    """ca.pem, server.pem and server.key for that address."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("CA", "coordinator")]
    now = datetime.now(UTC)
    for number, (key, name) in enumerate(zip(keys, names, strict=True)):
        made = (
            x509.CertificateBuilder().subject_name(name).issuer_name(names[0]).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
            .sign(keys[0], hashes.SHA256())
        )  # fmt: skip
        (folder / ("ca.pem", "server.pem")[number]).write_bytes(made.public_bytes(Encoding.PEM))
    private = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.key").write_bytes(private)


class World:
    """A SuperLink that can be started again, and one site's launcher."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.folder, self.running = folder, []
        certificates(folder, host)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"{host}:{free.getsockname()[1]}"
        (folder / "flwr").mkdir()
        self.environment = {
            **os.environ, "FLWR_HOME": str(folder / "flwr"), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        }  # fmt: skip
        (folder / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "c"\n[superlink.c]\naddress = "{self.address}"\n'
            f'root-certificates = "{folder / "ca.pem"}"\n'
        )
        self.home = self._home()

    def _home(self) -> SiteHome:
        home = create_home(self.folder / "site-A", SITE_TOML)
        key = SigningKey.create()
        table = {
            "format": 1, "kind": "invitation", "site": "A", "address": self.address,
            "ca": (self.folder / "ca.pem").read_text(), "coordinator": key.public.text, "token": "t0ken", "study": "",
            "issued": "2026-11-19T12:00:00+00:00", "expires": "2099-12-03T12:00:00+00:00",
        }  # fmt: skip
        file = self.folder / "A.invitation"
        file.write_text(json.dumps(sign_json(key, table)))
        invitation = supernode.accept(home, file)
        # enrolling is the front's matter, which is not here: as if it had been done
        supernode.Marks(home.flwr).enrolled.write_text(supernode._mark(invitation))
        return home

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.environment, start_new_session=True, cwd=self.folder
            )
        self.running.append(process)
        return process

    def superlink(self) -> subprocess.Popen[bytes]:
        process = self.start(
            "superlink", "flower-superlink", "--ssl-ca-certfile", "ca.pem", "--ssl-certfile", "server.pem",
            "--ssl-keyfile", "server.key", "--enable-supernode-auth", "--database", "superlink.db",
            "--host", self.address.split(":")[0], "--port", self.address.split(":")[1], "--disable-runtime-dependency-installation",
        )  # fmt: skip
        # asked from outside this process, which may reach 127.0.0.1 alone
        look = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
        ask = [sys.executable, "-c", look, *self.address.split(":")]
        self.until(lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0, "SuperLink answers")
        return process

    def launcher(self) -> subprocess.Popen[bytes]:
        return self.start("join", sys.executable, "-m", "fedrounds_client.join.supernode", str(self.home.folder), "9")

    def register(self) -> None:
        public = read_node_key(self.home.node_key).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        (self.folder / "node.pub").write_bytes(public)
        self.flwr("supernode", "register", "node.pub", "c", "--name", "A")

    def flwr(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments], env=self.environment, cwd=self.folder, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def said(self, name: str = "join") -> str:
        return (self.folder / f"{name}.log").read_text()

    def until(self, true: Callable[[], bool], what: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"waited for: {what}\n{self.said()[-3000:]}"
            time.sleep(0.2)

    def end(self, process: subprocess.Popen[bytes], by: int = signal.SIGKILL) -> None:
        os.killpg(process.pid, by)
        process.wait(60)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            made.end(process)


def app_with_python(world: World) -> Path:
    folder = world.folder / "evil"
    (folder / "evilapp").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT.format(name="evilapp", package="evilapp"))
    (folder / "evilapp" / "__init__.py").touch()
    (folder / "evilapp" / "server.py").write_text(SERVER)
    (folder / "evilapp" / "client.py").write_text(CLIENT.format(marker=str(world.folder / "ran-at-the-site")))
    return folder


def node_of(launcher: subprocess.Popen[bytes]) -> int:
    """The SuperNode that this launcher runs."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def test_a_site_waits_until_it_is_let_in_and_refuses_code(world: World) -> None:
    superlink = world.superlink()
    launcher = world.launcher()
    world.until(lambda: "FR-E43 the coordinator does not know this site's key" in world.said(), "not known yet")
    assert launcher.poll() is None
    world.register()
    world.until(lambda: f"connected to {world.address}" in world.said(), "connected")

    # the node is killed: SuperLink would take it for present for a minute more
    killed = time.monotonic()
    os.kill(node_of(launcher), signal.SIGKILL)
    world.until(lambda: world.said().count("connected to ") == 2, "connected again", 45)
    assert time.monotonic() - killed < 45

    # the coordinator comes back after a crash: nobody at the site does anything
    world.end(superlink)
    world.superlink()
    said = world.folder / "said"
    world.flwr("run", str(app_with_python(world)), "c", "--run-config", f'said="{said}"')
    world.until(said.exists, "an answer to the bundle with Python in it", 180)
    world.until(lambda: bool(said.read_text()), "the answer's text")
    assert "could not be verified" in said.read_text()
    assert not (world.folder / "ran-at-the-site").exists()
    assert "FR-E47" in world.home.log.read_text()
    journal = [json.loads(line) for line in world.home.journal.read_text().splitlines()]
    refused: list[dict[str, Any]] = [line["facts"] for line in journal if line["event"] == "bundle refused"]
    assert len(refused) == 1
    assert refused[0]["what"].startswith("sha256 ")
    assert not list(world.home.flwr.rglob("*.py"))

    world.end(launcher, signal.SIGTERM)
    time.sleep(0.5)
    left = subprocess.run(["pgrep", "-f", str(world.home.folder)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_a_site_behind_a_proxy_goes_through_it_and_nowhere_else(tmp_path: Path) -> None:
    # not 127.0.0.1, which the node's own helpers use and no proxy is asked for
    world = World(tmp_path, "127.0.0.2")
    try:
        proxy = world.start("proxy", sys.executable, "-c", PROXY)
        world.until(lambda: bool(world.said("proxy").strip()), "the proxy listens")
        port = int(world.said("proxy").split()[0])
        toml = world.home.site_toml.read_text()
        world.home.site_toml.write_text(toml + f'\n[machine]\nproxy = "http://127.0.0.1:{port}"\n')
        world.superlink()
        world.register()
        world.launcher()
        world.until(lambda: f"connected to {world.address}" in world.said(), "connected")
        through = set(world.said("proxy").splitlines()[1:])
        assert through == {f"CONNECT {world.address} HTTP/1.1"}
        # at least the launcher's look, and the node's own line
        assert len(world.said("proxy").splitlines()) >= 3
        # without the proxy there is no way
        world.end(proxy)
        world.until(
            lambda: "FR-C84" in world.said() or "retrying" in world.home.folder.joinpath("node.log").read_text(),
            "no way",
        )
    finally:
        for process in world.running:
            if process.poll() is None:
                world.end(process)
