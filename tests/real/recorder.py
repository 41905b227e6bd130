"""What a hospital says, before TLS hides it: a stand-in for the front that hands everything on, and keeps it.

It shows the coordinator's own certificate, so hospitals take it for the coordinator; the test owns both.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path


class Recorder:
    """`said()`: everything hospitals have sent, a bytes object for each connection."""

    def __init__(self, port: int, front: int, keys: Path) -> None:
        self._trust = ssl.create_default_context(cafile=str(keys / "ca.pem"))
        self._shows = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._shows.load_cert_chain(keys / "server.pem", keys / "server.key")
        self._front, self._heard = front, list[bytearray]()
        self._listener = socket.create_server(("127.0.0.1", port))

    def __enter__(self) -> Recorder:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def said(self) -> list[bytes]:
        return [bytes(line) for line in self._heard]

    def _listen(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        heard = bytearray()
        self._heard.append(heard)
        with contextlib.suppress(OSError), raw:
            hospital = self._shows.wrap_socket(raw, server_side=True)
            onwards = socket.create_connection(("127.0.0.1", self._front))
            front = self._trust.wrap_socket(onwards, server_hostname="127.0.0.1")
            threading.Thread(target=_hand_on, args=(front, hospital, lambda data: None), daemon=True).start()
            _hand_on(hospital, front, heard.extend)


def _hand_on(source: ssl.SSLSocket, target: ssl.SSLSocket, keep: Callable[[bytes], object]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            keep(data)
            target.sendall(data)
    for line in (source, target):
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        line.close()
