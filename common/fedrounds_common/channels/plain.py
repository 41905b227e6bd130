"""The coordinator sees each site's update (encrypted on the way by TLS, not from the coordinator)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from fedrounds_common.channel import Channel


@final
@dataclass(frozen=True)
class Plain(Channel):
    def seen(self) -> str:
        return "The coordinator sees each hospital's update."
