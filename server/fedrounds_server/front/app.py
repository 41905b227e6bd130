"""Which requests pass: exact names, nothing that has to be decoded first, and every check before its body is read."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, final

from fedrounds_common.errors import FedroundsError, code_of
from fedrounds_server.front.backend import SuperLink
from fedrounds_server.front.badges import Badges
from fedrounds_server.front.body import Body, Gone, Receive, Send, declared_bytes
from fedrounds_server.front.door import Guests
from fedrounds_server.front.flower import CALLS, PROTOBUF, PUSH_MESSAGES, check_answer, most_bytes
from fedrounds_server.front.rates import Buckets, place_of
from fedrounds_server.front.refusals import RefusalLog, Refused, shown
from fedrounds_server.front.settings import Limits

ENROL: Final = "/v1/enrol"
ENROL_BYTES = 16 * 1024
ENROL_AT_ONCE = 4
POURED_BYTES, POURED_SECONDS = 1_000_000, 1.0
Enrol = Callable[[bytes], tuple[int, dict[str, Any]]]


@final
class Front:
    """The ASGI application."""

    def __init__(
        self, limits: Limits, badges: Badges, guests: Guests, superlink: SuperLink, enrol: Enrol, log: RefusalLog
    ) -> None:
        self._limits, self._badges, self._guests = limits, badges, guests
        self._superlink, self._enrol, self._log = superlink, enrol, log
        self._enrolments = Buckets(limits.enrolments_per_minute, limits.enrolments_per_minute)
        self._enrolling = asyncio.Semaphore(ENROL_AT_ONCE)
        self._busy: Counter[str] = Counter()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        peer: tuple[str, int] = scope["client"] or ("?", 0)
        path: str = scope["raw_path"].decode("latin-1")
        most = ENROL_BYTES if path == ENROL else most_bytes(path, self._limits)
        body = Body(receive, most, self._limits)
        started = False

        async def watched(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._serve(scope, path, peer, body, most, watched)
        except Refused as refusal:
            self._log.refused(refusal, peer[0])
            if not started:
                await _answer_refusal(refusal, body, send)
        except (Gone, ConnectionError):
            return  # uvicorn closes what was not finished, and the caller sees that it was cut short

    async def _serve(
        self, scope: Mapping[str, Any], path: str, peer: tuple[str, int], body: Body, most: int, send: Send
    ) -> None:
        self._check_rate(path, place_of(peer[0]))
        # the target as it came: no dots, doubled slashes, escapes or letter cases are resolved, and so none is misread
        if scope["method"] != "POST" or scope["query_string"] or (path not in CALLS and path != ENROL):
            raise Refused("FR-C41", 404, f"{shown(scope['method'])} {shown(path)}")
        headers = _headers(scope["headers"])
        length = declared_bytes(headers, most)
        if path == ENROL:
            await self._receive_enrolment(await body.read(), send)
            return
        site = self._badges.check(headers)
        self._guests.known(peer)
        if headers.get("content-type", "") != PROTOBUF:
            raise Refused("FR-C51", 415, "a body that is not protobuf", site=site)
        with self._one_of(site):
            if path == PUSH_MESSAGES:
                told = await body.read()
                check_answer(told, self._limits, site)
                await self._superlink.forward(path, headers, told, len(told), send)
            else:
                await self._superlink.forward(path, headers, body.chunks(), length, send)

    def _check_rate(self, path: str, place: str) -> None:
        # 503 to what may be a site: Flower's SuperNode waits and asks again, and would give up at 429
        if not self._guests.rates.take(place):
            raise Refused("FR-C44", 503 if path in CALLS else 429, "too many requests a minute", retry_after=5)
        if path == ENROL and not self._enrolments.take(place):
            raise Refused("FR-C44", 429, "too many enrolments a minute", retry_after=10)

    @contextmanager
    def _one_of(self, site: str) -> Iterator[None]:
        if self._busy[site] >= self._limits.per_site_requests:
            raise Refused("FR-C44", 503, f"{self._busy[site]} requests at once", site=site, retry_after=1)
        self._busy[site] += 1
        try:
            yield
        except Refused as refusal:
            refusal.site = site
            raise
        finally:
            self._busy[site] -= 1
            if not self._busy[site]:
                del self._busy[site]

    async def _receive_enrolment(self, body: bytes, send: Send) -> None:
        async with self._enrolling:
            try:
                status, table = await asyncio.to_thread(self._enrol, body)
            except FedroundsError as error:  # nothing that a request can bring about: ours is damaged
                raise Refused(code_of(error), 503, "an enrolment cannot be taken in now", retry_after=60) from error
        await _answer(send, status, table)


def _headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Raises Refused FR-C51: a header that counts is there twice, and two programs might each take another one."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key = name.decode("latin-1").lower()
        if key in headers and (key.startswith(("flwr-", "content-")) or key == "transfer-encoding"):
            raise Refused("FR-C51", 400, f"{shown(key)} is there twice")
        headers[key] = value.decode("latin-1")
    return headers


async def _answer(send: Send, status: int, table: Mapping[str, Any], *also: tuple[bytes, bytes]) -> None:
    data = json.dumps(table).encode()
    await _begin(send, status, len(data), *also)
    await send({"type": "http.response.body", "body": data, "more_body": False})


async def _begin(send: Send, status: int, length: int, *also: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(length).encode()), *also]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _answer_refusal(refusal: Refused, body: Body, send: Send) -> None:
    """Code and status, and the line is closed: what is left of a body is not read."""
    data = json.dumps({"code": refusal.code}).encode()
    wait = [(b"retry-after", str(refusal.retry_after).encode())] if refusal.retry_after else []
    await _begin(send, refusal.status, len(data), (b"connection", b"close"), *wait)
    await send({"type": "http.response.body", "body": data, "more_body": True})
    await body.pour_away(POURED_BYTES, POURED_SECONDS)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
