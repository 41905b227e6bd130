"""A request's body: counted and timed while it passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any, final

from fedrounds_server.front.refusals import Refused
from fedrounds_server.front.settings import MB, Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@final
class Gone(Exception):
    """The caller has left in the middle of its request."""


def declared_bytes(headers: Mapping[str, str], most: int) -> int | None:
    """How long the body says it is; None for a chunked one.

    Raises:
        Refused: FR-C42 it says too much, FR-C51 both ways at once, or packed.
    """
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if length is not None and coding is not None:
        raise Refused("FR-C51", 400, "a body with two ways to tell its end")
    if headers.get("content-encoding", "identity") != "identity":
        raise Refused("FR-C51", 415, "a packed body: small on the line, large when unpacked")
    if length is not None and int(length) > most:
        raise Refused("FR-C42", 413, f"a body of {int(length) / MB:,.1f} MB is declared, {most / MB:,.1f} MB allowed")
    return None if coding is not None else int(length or 0)


@final
class Body:
    """Read once. `whole` says whether its end was seen."""

    def __init__(self, receive: Receive, most: int, limits: Limits) -> None:
        self._receive, self._most, self._limits = receive, most, limits
        self.whole = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come.

        Raises:
            Refused: FR-C42 more than allowed, FR-C45 too slow.
            Gone: the caller left.
        """
        got, waited = 0, 0.0
        while not self.whole:
            allowed = self._limits.body_seconds + got / self._limits.slowest
            began = time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, allowed - waited)):
                    message = await self._receive()
            except TimeoutError as error:
                raise Refused("FR-C45", 408, f"{got:,} bytes of a body in {allowed:.0f} s") from error
            waited += time.monotonic() - began  # what SuperLink takes to swallow it is not the caller's fault
            if message["type"] == "http.disconnect":
                raise Gone
            piece: bytes = message.get("body", b"")
            self.whole = not message.get("more_body", False)
            got += len(piece)
            if got > self._most:
                raise Refused("FR-C42", 413, f"a body of more than {self._most / MB:,.1f} MB")
            if piece:
                yield piece

    async def read(self) -> bytes:
        """All of it: for small ones."""
        return b"".join([piece async for piece in self.chunks()])

    async def pour_away(self, most: int, seconds: float) -> None:
        """Take in a little more of what is on its way, or the caller sees a reset in place of the answer."""
        got = 0
        try:
            async with asyncio.timeout(seconds):
                while not self.whole and got < most:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        return
                    got += len(message.get("body", b""))
                    self.whole = not message.get("more_body", False)
        except TimeoutError:
            return
