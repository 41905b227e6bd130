"""Refusals: what is answered, and one line each: when, code, status, address, why. Never a body.

Lines go to the standard output, which the coordinator keeps in logs/front.log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import final

from fedrounds_server.front.rates import Buckets, place_of

LINES_A_PLACE, LINES = 10, 120  # a minute: nobody fills the disk by being refused


@final
class Refused(Exception):
    """One request that goes no further. `status`: HTTP; `retry_after`: seconds, 0 for "not at all"."""

    def __init__(self, code: str, status: int, why: str, *, site: str = "", retry_after: int = 0) -> None:
        self.code, self.status, self.why, self.site, self.retry_after = code, status, why, site, retry_after
        super().__init__(f"{code} {status} {why}")


@final
class RefusalLog:
    """Writes at most so many lines a minute, a place and in all, and says how many it left out."""

    def __init__(self, write: Callable[[str], object], now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._places = Buckets(LINES_A_PLACE, LINES_A_PLACE, now)
        self._all = Buckets(LINES, LINES, now)
        self._left_out = 0

    def refused(self, refusal: Refused, address: str) -> None:
        # a kind of refusal has lines of its own: a flood of one must not hide the other
        if not self._places.take(f"{refusal.code} {place_of(address)}") or not self._all.take(""):
            self._left_out += 1
            return
        site = f" site={refusal.site}" if refusal.site else ""
        more = f" ({self._left_out} other lines left out)" if self._left_out else ""
        self._left_out = 0
        self.say(f"{refusal.code} {refusal.status} {address}{site} {refusal.why}{more}")

    def say(self, text: str) -> None:
        self._write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}\n")


def shown(text: str) -> str:
    """What a stranger wrote, fit for one line of a log: no control characters, no end of line, 80 characters."""
    return ascii(text)[:80]
