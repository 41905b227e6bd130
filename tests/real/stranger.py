"""What somebody in a hospital's network can try at the coordinator's door, as one program: HOST PORT CA NODE_KEY.

`NODE_KEY` is that of an enrolled site, for what only such a one can try. Prints JSON: attempt → what came of it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

MB = 1_000_000
HEARTBEAT, PUSH = "/v1/fleet/send-node-heartbeat", "/v1/fleet/push-object"
CONTROL = ("start-run", "register-node", "list-nodes", "list-runs")


class Stranger:
    def __init__(self, host: str, port: int, authority: str) -> None:
        self.at, self.host = (host, port), host
        self.trust = ssl.create_default_context(cafile=authority)

    def line(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(socket.create_connection(self.at, 20), server_hostname=self.host)

    def ask(self, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
        with self.line() as line:
            line.sendall(head(path, headers))
            return answer(line)

    def pour(self, path: str, megabytes: int, *, chunked: bool) -> dict[str, Any]:
        """Nobody's body of so many megabytes, until the other end has had enough."""
        size = {"transfer-encoding": "chunked"} if chunked else {"content-length": str(megabytes * MB)}
        zeros = bytes(MB)
        piece = f"{MB:x}\r\n".encode() + zeros + b"\r\n" if chunked else zeros
        sent, said = 0, {"status": 0}
        with self.line() as line:
            with contextlib.suppress(OSError):
                line.sendall(head(path, size))
                for _ in range(megabytes):
                    line.sendall(piece)
                    sent += 1
            with contextlib.suppress(OSError):
                said = answer(line)
        return {**said, "megabytes": sent}

    def plaintext(self) -> dict[str, Any]:
        with socket.create_connection(self.at, 20) as line:
            said = b""
            with contextlib.suppress(OSError):
                line.sendall(head(HEARTBEAT, {"content-length": "0"}))
                said = line.recv(65536)
        return {"http": b"HTTP" in said}


def head(path: str, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nhost: coordinator\r\n{lines}\r\n".encode()


def answer(line: ssl.SSLSocket) -> dict[str, Any]:
    data = b""
    with contextlib.suppress(OSError):
        while not data.endswith(b"}") and (piece := line.recv(65536)):
            data += piece
    top, _, body = data.partition(b"\r\n\r\n")
    code = ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        code = json.loads(body)["code"]
    return {"status": int(top.split()[1]) if top else 0, "code": code}


def node_headers(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """What Flower's own node signs for one call."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    said = datetime.now(UTC).isoformat()
    signature = key.sign(said.encode(), ec.ECDSA(hashes.SHA256()))
    return {
        "flwr-public-key": b64encode(pem).decode(), "flwr-timestamp": said, "content-type": "application/protobuf",
        "flwr-signature": b64encode(signature).decode(),
    }  # fmt: skip


def attempts(host: str, port: int, authority: str, node_key: Path) -> dict[str, Any]:
    stranger = Stranger(host, port, authority)
    enrolled = load_ssh_private_key(node_key.read_bytes(), None)
    assert isinstance(enrolled, ec.EllipticCurvePrivateKey)
    own = ec.generate_private_key(ec.SECP384R1())
    return {
        "unenrolled": stranger.ask(HEARTBEAT, {**node_headers(own), "content-length": "0"}),
        "control": [stranger.ask(f"/v1/control/{name}", {"content-length": "0"}) for name in CONTROL],
        "control, enrolled": [
            stranger.ask(f"/v1/control/{name}", {**node_headers(enrolled), "content-length": "0"}) for name in CONTROL
        ],
        "plaintext": stranger.plaintext(),
        "600 MB": [stranger.pour(path, 600, chunked=chunked) for path in (PUSH, "/v1/enrol") for chunked in (0, 1)],
        "10 GB": stranger.ask(PUSH, {**node_headers(enrolled), "content-length": str(10_000 * MB)}),
    }


if __name__ == "__main__":
    host, port, authority, node_key = sys.argv[1:]
    print(json.dumps(attempts(host, int(port), authority, Path(node_key))))
