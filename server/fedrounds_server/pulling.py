"""Pulling replies out of a network one by one, so that one that hangs holds back no other.

Flower's `pull_messages` blocks for as long as an announced reply is not uploaded (up to two hours), and for as
long as the SuperLink is away. So every pull has a thread of its own and a moment to come back in; one that does
not is left to itself and looked at again later. Only grids that are a network are pulled from this way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, final

import httpx
from flwr.app import Message
from flwr.serverapp import Grid

from fedrounds_common.errors import NetworkError
from fedrounds_server.clock import Clock

T = TypeVar("T")
PATIENCE_S = 5.0  # what a pull may take before the others are asked for
LEAST_S = 0.2  # and what each may take where the ones before it have used that up
OUTAGE_S = 3600.0  # how long our own side may be away before the run gives up
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 10.0
_RETRIED = {401, 403, 408, 425, 429}


def is_ours(error: BaseException) -> bool:
    """Whether it is the way to our own SuperLink that failed: no site must pay for that."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in _RETRIED
    return isinstance(error, ConnectionError | TimeoutError | httpx.TransportError)


def steadily(call: Callable[[], T], clock: Clock) -> T:
    """Call until our own side is there, waiting a little longer each time.

    Raises:
        NetworkError: FR-R58 it was away for `OUTAGE_S`.
    """
    end, pause = clock.now() + OUTAGE_S, FIRST_PAUSE_S
    while True:
        try:
            return call()
        except Exception as error:
            if not is_ours(error):
                raise
            if clock.now() >= end:
                raise NetworkError(
                    "FR-R58", f"the SuperLink was away for {OUTAGE_S / 60:.0f} minutes ({type(error).__name__})",
                    wanted="it, on this machine", do="start it again, then `fedrounds coordinator resume`",
                ) from error  # fmt: skip
            clock.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_S)


@final
class Unfinished(Exception):
    """The call has not come back yet."""


@final
class Aside(Generic[T]):
    """One call in a thread of its own."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._done = threading.Event()
        self._found: list[T] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._run, args=(call,), daemon=True).start()

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self._found.append(call())
        except BaseException as error:  # noqa: BLE001  (Flower ends a run by one; it is raised where it is waited for)
            self._error = error
        self._done.set()

    def result(self, patience_s: float) -> T:
        """What the call returned or raised; raises Unfinished if it does neither in time."""
        if not self._done.wait(patience_s):
            raise Unfinished
        if self._error is not None:
            raise self._error
        return self._found[0]


@final
class Puller:
    """The replies of a network grid, each pulled alone."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._running: dict[str, Aside[list[Message]]] = {}
        self._probe: Aside[list[int]] | None = None

    @property
    def stuck(self) -> bool:
        return bool(self._running)

    def pull(self, message_id: str, patience_s: float) -> list[Message] | None:
        """What has come for this message, an empty list if nothing has; None: the pull hangs, ask again later.

        Raises:
            Exception: whatever the grid raised.
        """
        running = self._running.pop(message_id, None)
        call = running or Aside(lambda: list(self._grid.pull_messages([message_id])))
        try:
            return call.result(0.0 if running else patience_s)
        except Unfinished:
            self._running[message_id] = call
            return None

    def forget(self, message_id: str) -> None:
        """A pull that hangs goes on hanging in its thread, and what it brings is nobody's."""
        self._running.pop(message_id, None)

    def reaches_superlink(self) -> bool:
        """Whether the SuperLink answers at all: if it does, what hangs is one peer's doing."""
        # one that hangs is looked at again: each call would leave another thread behind
        probe = self._probe or Aside(lambda: list(self._grid.get_node_ids()))
        self._probe = None
        try:
            probe.result(PATIENCE_S)
        except Unfinished:
            self._probe = probe
            return False
        except Exception as error:
            if not is_ours(error):
                raise
            return False
        return True
