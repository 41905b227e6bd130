"""Token buckets, one a key: so many at once, so many a minute. What has not been seen for long is forgotten."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import final

KEYS = 10_000  # an attacker with more addresses than this is not slowed by counting them


@final
class Buckets:
    def __init__(self, per_minute: float, burst: float, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._now = per_minute / 60, burst, now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Whether one more is allowed now; if so it is counted."""
        now = self._now()
        left, since = self._left.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left, now)
        if len(self._left) > KEYS:
            self._left.popitem(last=False)
        return allowed


def place_of(address: str) -> str:
    """What is counted as one: an IPv4 address, or an IPv6 network of 64 bits, which one host may fill by itself."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped) if ip.ipv4_mapped else str(ipaddress.ip_network((ip, 64), strict=False))
