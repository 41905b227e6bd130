"""A coordinator for attacks: a real SuperLink on loopback, the real front before it, two enrolled sites, raw sockets."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedrounds_common.signing import SigningKey
from fedrounds_server.coordinator.flower import Flower, environment
from fedrounds_server.coordinator.folder import CoordinatorFolder, Settings, make_folders, write_settings
from fedrounds_server.coordinator.pki import make_authority
from fedrounds_server.coordinator.processes import front_command, front_serves, superlink_command, superlink_serves
from fedrounds_server.coordinator.register import Enrolled, write_entry

LIMITS = {
    "header_seconds": 2, "body_seconds": 2, "connections": 96, "per_ip_connections": 24, "requests_per_minute": 600,
    "max_objects": 64,
}  # fmt: skip
HEARTBEAT = "/v1/fleet/send-node-heartbeat"


@dataclass(frozen=True)
class Site:
    """A hospital as Flower sees it: a node key, and the id that the SuperLink gave it."""

    name: str
    key: ec.EllipticCurvePrivateKey
    node_id: int = 0

    @property
    def pem(self) -> str:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def headers(self, late: float = 0.0, signer: ec.EllipticCurvePrivateKey | None = None) -> dict[str, str]:
        """What a SuperNode signs for one call; `late`: as if signed that many seconds ago."""
        said = (datetime.now(UTC) - timedelta(seconds=late)).isoformat()
        signature = (signer or self.key).sign(said.encode(), ec.ECDSA(hashes.SHA256()))
        return {
            "flwr-public-key": b64encode(self.pem.encode()).decode(),
            "flwr-timestamp": said,
            "flwr-signature": b64encode(signature).decode(),
            "content-type": "application/protobuf",
        }

    def save(self, folder: Path) -> Path:
        private = folder / f"{self.name}.key"
        private.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        private.chmod(0o600)
        return private


@dataclass
class House:
    """`at` is where the front listens."""

    folder: CoordinatorFolder
    settings: Settings
    sites: dict[str, Site] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def at(self) -> tuple[str, int]:
        host, _, port = self.settings.bind.rpartition(":")
        return host, int(port)

    @property
    def front_log(self) -> str:
        return (self.folder.logs / "front.log").read_text()

    def start(self, name: str, command: list[str], ready: Callable[[], bool]) -> None:
        with (self.folder.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment(self.folder),
                cwd=self.folder.path, start_new_session=True,
            )  # fmt: skip
        wait_until(ready, f"{name} serves", 60)

    def start_superlink(self) -> None:
        port = self.settings.superlink_port
        command = superlink_command(self.folder, self.settings)
        self.start("superlink", command, lambda: superlink_serves(self.folder, port))

    def start_front(self) -> None:
        self.start("front", front_command(self.folder), lambda: front_serves(self.folder, self.settings))

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def enrol(self, site: Site, *, revoked: bool = False) -> None:
        public = SigningKey.create().public
        write_entry(self.folder, Enrolled(site.name, public, 100, site.node_id or None, revoked, site.pem))

    def memory_mb(self, name: str, what: str = "VmRSS") -> float:
        lines = Path(f"/proc/{self.processes[name].pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

    def forget_peak(self, name: str) -> None:
        Path(f"/proc/{self.processes[name].pid}/clear_refs").write_text("5")

    # ------------------------------------------------------------ an honest site

    def client(self, site: Site) -> FleetHttpClient:
        """Flower's own client, as a SuperNode makes it."""
        authority = (self.folder.keys / "ca.pem").read_bytes()
        signs = NodeAuthHttpInterceptor(site.key, site.key.public_key())
        return FleetHttpClient.from_server_address(f"127.0.0.1:{self.at[1]}", False, authority, interceptors=[signs])

    def is_served(self, name: str = "A") -> None:
        """An honest site, with a connection of its own: its heart beats, and it asks for work."""
        node = Node(node_id=self.sites[name].node_id)
        with self.client(self.sites[name]) as client:
            assert client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=30.0)).success
            assert not client.PullMessages(PullMessagesRequest(node=node)).messages_list

    def goes(self, name: str) -> None:
        with self.client(self.sites[name]) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=self.sites[name].node_id))

    def free_port(self) -> int:
        return free_ports(1)[0]

    # ------------------------------------------------------------ raw callers

    def dial(self, source: str = "127.0.0.2", seconds: float = 15.0) -> socket.socket:
        """A TCP connection from an address of its own: all of 127/8 is this machine."""
        return socket.create_connection(self.at, timeout=seconds, source_address=(source, 0))

    def dial_tls(self, source: str = "127.0.0.2", seconds: float = 15.0) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.folder.keys / "ca.pem"))
        return context.wrap_socket(self.dial(source, seconds), server_hostname="127.0.0.1")

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        return head(method, path, headers)

    def answer_of(self, line: socket.socket) -> tuple[int, bytes]:
        return answer_of(line)

    def wait_until(self, done: Callable[[], bool], what: str | Callable[[], str], seconds: float) -> None:
        wait_until(done, what, seconds)

    def ask(self, request: bytes, source: str = "127.0.0.2") -> tuple[int, bytes]:
        """Status and body of the answer to these very bytes."""
        with self.dial_tls(source) as line:
            line.sendall(request)
            return answer_of(line)

    def post_whole(self, path: str, headers: Mapping[str, str]) -> bytes:
        """Everything that comes back until the line is closed."""
        with self.dial_tls() as line:
            line.sendall(head("POST", path, {**headers, "content-length": "0"}))
            data = b""
            while piece := line.recv(65536):
                data += piece
        return data

    def post(
        self, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"", source: str = "127.0.0.2"
    ) -> tuple[int, bytes]:
        return self.ask(head("POST", path, {"content-length": str(len(body)), **(headers or {})}) + body, source)


def head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nhost: coordinator\r\n{lines}\r\n".encode()


def answer_of(line: socket.socket) -> tuple[int, bytes]:
    """Reads until the answer's declared end; 0 if the line ended without one."""
    data = b""
    try:
        while b"\r\n\r\n" not in data and (piece := line.recv(65536)):
            data += piece
        top, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(row.split(b":")[1]) for row in top.split(b"\r\n") if row.lower().startswith(b"content-length")), 0
        )
        while len(body) < length and (piece := line.recv(65536)):
            body += piece
    except (ConnectionError, ssl.SSLError):
        return 0, data
    return (int(top.split()[1]) if top else 0), body


def wait_until(done: Callable[[], bool], what: str | Callable[[], str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"{what if isinstance(what, str) else what()}: not within {seconds} s"
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def lay_out(path: Path) -> House:
    outside, inside = free_ports(2)
    folder = CoordinatorFolder(path)
    make_folders(folder)
    make_authority(folder.keys, "test", "127.0.0.1", [])
    SigningKey.create().save(folder.signing_key)
    bind = f"127.0.0.1:{outside}"
    settings = Settings(
        format=1, name="test", address=bind, bind=bind, superlink_port=inside, superlink_host="127.0.0.1", limits=LIMITS
    )
    write_settings(folder, settings)
    return House(folder, settings)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Everything up; sites A and B are enrolled here and known to the SuperLink."""
    house = lay_out(tmp_path_factory.mktemp("coord"))
    try:
        house.start_superlink()
        flower = Flower(house.folder, house.settings.superlink_port)
        for name in ("A", "B"):
            site = Site(name, ec.generate_private_key(ec.SECP384R1()))
            site = Site(name, site.key, flower.register_node(name, site.pem))
            house.sites[name] = site
            house.enrol(site)
        house.start_front()
        for site in house.sites.values():
            with house.client(site) as client:
                wish = ActivateNodeRequest(public_key=site.pem.encode(), heartbeat_interval=30.0)
                assert client.ActivateNode(wish).node_id == site.node_id
        yield house
    finally:
        for process in house.processes.values():
            process.kill()
            process.wait()
