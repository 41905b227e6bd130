"""A coordinator's CA, certificate, invitation and a small TLS server of its own; all real, all on loopback."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fedrounds_client.home import SiteHome, create_home
from fedrounds_common.signing import SigningKey, sign_json

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SITE_TOML = 'format = 1\nname = "{name}"\n\n[data]\nname = "phantom_glioma"\n'


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A CA that signs server certificates."""

    def __init__(self, name: str = "coordinator CA") -> None:
        self.key, self.name = ec.generate_private_key(ec.SECP256R1()), _name(name)
        start = datetime.now(UTC) - timedelta(days=30)
        self.certificate = (
            x509.CertificateBuilder().subject_name(self.name).issuer_name(self.name).public_key(self.key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(start)
            .not_valid_after(start + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )  # fmt: skip

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, folder: Path, address: str = "127.0.0.1", first: float = -1, last: float = 90) -> Path:
        """A certificate with its key in one PEM file. `first`, `last`: days from now between which it holds."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        names: list[x509.GeneralName] = [
            x509.IPAddress(ip_address(address)) if address[0].isdigit() else x509.DNSName(address)
        ]
        certificate = (
            x509.CertificateBuilder().subject_name(_name("front")).issuer_name(self.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now + timedelta(days=first))
            .not_valid_after(now + timedelta(days=last))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )  # fmt: skip
        file = folder / f"front-{certificate.serial_number}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        return file


@dataclass
class Front:
    """What answers at an address. `answers`: (status, JSON) of one POST after another; the last stays."""

    port: int = 0
    answers: list[tuple[int, Any]] = field(default_factory=lambda: [(202, {"state": "pending"})])
    bodies: list[bytes] = field(default_factory=list)
    date: datetime | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def _handler(front: Front) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(405, {})

        def do_POST(self) -> None:
            front.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            status, table = front.answers[0] if len(front.answers) == 1 else front.answers.pop(0)
            self._answer(status, table)

        def _answer(self, status: int, table: Any) -> None:
            body = table if isinstance(table, bytes) else json.dumps(table).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(front.date.timestamp() if front.date else timestamp)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


Serve = Callable[..., Front]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server on loopback, with TLS if it is given a certificate."""
    running: list[ThreadingHTTPServer] = []

    def start(certificate: Path | None = None, **settings: Any) -> Front:
        front = Front(**settings)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(front))
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]
        front.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        running.append(server)
        return front

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def another_authority() -> Authority:
    return Authority("Hospital Web Gateway")


@pytest.fixture
def coordinator_key() -> SigningKey:
    return SigningKey.create()


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """The folder of site A, as `site init` makes it."""
    return create_home(tmp_path / "site-A", SITE_TOML.format(name="A"))


@pytest.fixture
def invitation_of(tmp_path: Path, authority: Authority, coordinator_key: SigningKey) -> Callable[..., Path]:
    """Writes an invitation; `changed` are fields of it, put in before it is signed."""

    def make(key: SigningKey | None = None, **changed: Any) -> Path:
        key = key or coordinator_key
        table = {
            "format": 1, "kind": "invitation", "site": "A", "address": "127.0.0.1:8443", "ca": authority.pem,
            "coordinator": key.public.text, "token": "t0ken", "study": "",
            "issued": "2026-11-19T12:00:00+00:00", "expires": "2099-12-03T12:00:00+00:00", **changed,
        }  # fmt: skip
        file = tmp_path / "A.invitation"
        file.write_text(json.dumps(sign_json(key, table)))
        return file

    return make
