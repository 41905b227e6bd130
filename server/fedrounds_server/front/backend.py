"""Onwards to SuperLink on this machine's loopback: streamed both ways, never held whole."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import final

import httpx

from fedrounds_server.coordinator.folder import LOOPBACK
from fedrounds_server.front.body import Send
from fedrounds_server.front.flower import ANSWERED, ASKED
from fedrounds_server.front.refusals import Refused
from fedrounds_server.front.settings import Limits

AT_ONCE = 64
RETRY_AFTER = 5
# SuperLink lets an idle line go after 5 s: ours go before, or a request would meet a closed one
_POOL = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=16, keepalive_expiry=3)
_PATIENCE = httpx.Timeout(connect=5, read=60, write=60, pool=5)


@final
class SuperLink:
    def __init__(self, port: int, authority: Path, limits: Limits) -> None:
        trust = ssl.create_default_context(cafile=str(authority))
        self._limits = limits
        # trust_env=False: no proxy of the environment stands between the two halves of one machine
        self._client = httpx.AsyncClient(
            base_url=f"https://{LOOPBACK}:{port}", verify=trust, timeout=_PATIENCE, limits=_POOL, trust_env=False,
            follow_redirects=False,
        )  # fmt: skip

    async def close(self) -> None:
        await self._client.aclose()

    async def forward(
        self,
        path: str,
        headers: Mapping[str, str],
        content: bytes | AsyncIterator[bytes],
        length: int | None,
        send: Send,
    ) -> None:
        """Ask SuperLink, and hand its answer to `send`.

        Raises:
            Refused: FR-C52 it does not answer.
            ConnectionError: it, or the caller, stopped in the middle of the answer.
        """
        onwards = {name: value for name, value in headers.items() if name in ASKED}
        if length is not None:
            onwards["content-length"] = str(length)
        request = self._client.build_request(
            "POST", path, headers={**onwards, "accept-encoding": "identity"}, content=content
        )
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            kind = type(error).__name__
            raise Refused("FR-C52", 503, f"SuperLink does not answer ({kind})", retry_after=RETRY_AFTER) from error
        try:
            await self._pass_back(answer, send)
        finally:
            await answer.aclose()

    async def _pass_back(self, answer: httpx.Response, send: Send) -> None:
        kept = [(name, value) for name, value in answer.headers.raw if name.lower().decode("latin-1") in ANSWERED]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
        sent = 0
        try:
            async for piece in answer.aiter_raw():
                sent += len(piece)
                async with asyncio.timeout(self._limits.body_seconds + len(piece) / self._limits.slowest):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except (httpx.TransportError, TimeoutError) as error:
            raise ConnectionError(f"an answer ended after {sent:,} bytes ({type(error).__name__})") from error
        await send({"type": "http.response.body", "body": b"", "more_body": False})
