"""Time as the coordinator sees it: one place to turn it, so that hours of waiting can be tested in none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Clock:
    """`now`: seconds that only grow, from any start. `sleep`: waits so many of them."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
