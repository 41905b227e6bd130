"""uvicorn's HTTP/1.1 protocol (the strict one, h11) with a clock on every request's head."""

from __future__ import annotations

import asyncio
from typing import Any, final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fedrounds_server.front.door import Guests
from fedrounds_server.front.refusals import RefusalLog, Refused
from fedrounds_server.front.settings import Limits


@final
class FrontProtocol(H11Protocol):
    """From its first byte (the first request: from the handshake on) a head has `header_seconds` to be whole."""

    def __init__(self, config: Config, state: ServerState, guests: Guests, limits: Limits, log: RefusalLog) -> None:
        super().__init__(config, state, {})
        self._guests, self._limits, self._log = guests, limits, log
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.client:
            self._guests.spoke(self.client)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_is_here()
        elif not self.transport.is_closing():
            self._expect_head()

    def on_response_complete(self) -> None:
        # what of the next head came along with this request does not count: uvicorn's keep-alive time runs from here
        self._head_is_here()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse("FR-C51", 400, "not HTTP/1.1 as it must be")
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # in the middle of an answer: there is no saying it any more
            self.transport.abort()

    def _expect_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self._limits.header_seconds, self._too_slow)

    def _head_is_here(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_slow(self) -> None:
        self._head = None
        self._refuse("FR-C45", 408, f"no whole request head within {self._limits.header_seconds:g} s")
        self.transport.abort()

    def _refuse(self, code: str, status: int, why: str) -> None:
        self._log.refused(Refused(code, status, why), self.client[0] if self.client else "?")
