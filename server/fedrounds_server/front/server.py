"""The process: TLS, the door, uvicorn and the application put together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import socket
import ssl
import sys
from asyncio.sslproto import SSLProtocol
from typing import final

import uvicorn

from fedrounds_common.errors import NetworkError, UsageError
from fedrounds_server.coordinator.enrolment import receive
from fedrounds_server.coordinator.folder import CoordinatorFolder, Settings, host_port, read_settings
from fedrounds_server.front.app import Front
from fedrounds_server.front.backend import SuperLink
from fedrounds_server.front.badges import Badges, Register
from fedrounds_server.front.door import Guests, open_entrance
from fedrounds_server.front.protocol import FrontProtocol
from fedrounds_server.front.refusals import RefusalLog
from fedrounds_server.front.settings import Limits, limits_of

KEEP_ALIVE = 15  # seconds; a SuperNode lets an idle line go after 5, and the one who waits longer is never surprised
GOODBYE = 3.0
HEAD_BYTES = 16 * 1024
SPARE_FILES = 256
TLS_BUFFER = 64 * 1024  # bytes; asyncio takes 256 KiB for every connection, of strangers too
SWEEP_AFTER, SWEEP_TICKS = 32, 50  # connections; ticks of 0.1 s


def tls(folder: CoordinatorFolder) -> ssl.SSLContext:
    """Raises NetworkError FR-C55: certificate or key cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(folder.keys / "server.pem", folder.keys / "server.key")
    except (OSError, ssl.SSLError) as error:
        raise NetworkError(
            "FR-C55", f"the server certificate cannot be used ({error})", wanted="keys/server.pem and keys/server.key",
            do="fedrounds coordinator renew",
        ) from error  # fmt: skip
    return context


@final
class FrontServer(uvicorn.Server):
    """uvicorn, listening through our own door: it has no time limit for a handshake and counts nobody by address."""

    def __init__(self, config: uvicorn.Config, door: socket.socket, context: ssl.SSLContext, made: Makers) -> None:
        super().__init__(config)
        self._door, self._context, self._made = door, context, made
        self._swept = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        SSLProtocol.max_size = TLS_BUFFER
        made = self._made
        server = await asyncio.get_running_loop().create_server(
            lambda: FrontProtocol(self.config, self.server_state, made.guests, made.limits, made.log),
            sock=self._door, ssl=self._context, backlog=256,
            ssl_handshake_timeout=made.limits.header_seconds, ssl_shutdown_timeout=GOODBYE,
        )  # fmt: skip
        self.servers = [server]
        gc.freeze()  # what is there now stays: looking for garbage costs a millisecond from here on

    async def on_tick(self, counter: int) -> bool:
        # asyncio leaves a refused handshake as a ring with its buffer in it, and the collector counts
        # objects, not bytes: 2,000 strangers left 340 MB (of 256 KiB each) until it came by itself
        came = self._made.guests.came
        if came - self._swept >= SWEEP_AFTER or (came != self._swept and counter % SWEEP_TICKS == 0):
            self._swept = came
            gc.collect()
        return await super().on_tick(counter)


@final
class Makers:
    """What every connection shares."""

    def __init__(self, limits: Limits, log: RefusalLog) -> None:
        self.limits, self.log = limits, log
        self.guests = Guests(limits, log)


def serve(folder: CoordinatorFolder) -> None:
    """Run until told to stop.

    Raises:
        UsageError: FR-C40 the settings cannot be used, FR-C56 the port is taken.
        NetworkError: FR-C55.
    """
    settings = read_settings(folder)
    limits = limits_of(settings.limits)
    _leave_room_for(limits)
    log = RefusalLog(_print)
    made = Makers(limits, log)
    context = tls(folder)
    host, _ = host_port(settings.bind)
    door = _open(settings, made.guests)
    log.say(f"front is up on {host} port {door.getsockname()[1]}")
    asyncio.run(_run(folder, settings, made, door, context))


async def _run(
    folder: CoordinatorFolder, settings: Settings, made: Makers, door: socket.socket, context: ssl.SSLContext
) -> None:
    superlink = SuperLink(settings.superlink_port, folder.keys / "ca.pem", made.limits)
    register = Register(folder.path / "sites", made.log.say)
    front = Front(
        made.limits, Badges(register), made.guests, superlink, lambda body: receive(folder.path, body), made.log
    )
    logging.getLogger("uvicorn.error").addHandler(logging.StreamHandler())  # faults of our own, with their tracebacks
    config = uvicorn.Config(
        front, log_config=None, log_level="error", access_log=False, lifespan="off", ws="none", proxy_headers=False,
        server_header=False, timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=HEAD_BYTES, interface="asgi3",
    )  # fmt: skip
    try:
        await FrontServer(config, door, context, made).serve()
    finally:
        await superlink.close()


def _print(line: str) -> None:
    # whoever keeps these lines may have been killed: the front goes on without
    with contextlib.suppress(OSError):
        sys.stdout.write(line)
        sys.stdout.flush()


def _open(settings: Settings, guests: Guests) -> socket.socket:
    host, port = host_port(settings.bind)
    try:
        return open_entrance(host, port, guests)
    except OSError as error:
        raise UsageError(
            "FR-C56", f"nothing can listen on {settings.bind} ({error.strerror})", wanted="a free port of this machine",
            do="stop what listens there, or change `bind`", where="coordinator.toml",
        ) from error  # fmt: skip


def _leave_room_for(limits: Limits) -> None:
    """More open files than connections, or a full house could not even log."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.connections + SPARE_FILES
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
