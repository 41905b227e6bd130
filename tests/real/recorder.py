"""What a hospital says, before TLS hides it: a stand-in for the front that hands everything on, and keeps it.

It shows the coordinator's own certificate, so hospitals take it for the coordinator; the test owns both.
One thread does it all: an SSL connection that two threads read and write at once ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
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
        self._port, self._front, self._heard = port, front, list[bytearray]()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._shows)
        asyncio.run_coroutine_threadsafe(listening, self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def said(self) -> list[bytes]:
        return [bytes(line) for line in self._heard]

    async def _serve(self, hospital: asyncio.StreamReader, to_hospital: asyncio.StreamWriter) -> None:
        heard = bytearray()
        self._heard.append(heard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            front, to_front = await asyncio.open_connection(
                "127.0.0.1", self._front, ssl=self._trust, server_hostname="127.0.0.1"
            )
            await asyncio.gather(
                _hand_on(hospital, to_front, heard.extend), _hand_on(front, to_hospital, lambda data: None)
            )
        to_hospital.close()


async def _hand_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, keep: Callable[[bytes], object]) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            keep(data)
            target.write(data)
            await target.drain()
    target.close()  # TLS has no half-closed line: who has ended one way has ended both


async def _end_all() -> None:
    mine = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not mine]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
