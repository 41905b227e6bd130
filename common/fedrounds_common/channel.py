"""A channel: who can see one site's update on its way into the sum. One file in `channels/` each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

NOTHING: Mapping[str, str] = MappingProxyType({})


class Channel(ABC):
    """A frozen dataclass; its fields are the study's `[wire.channel]` table.

    `phases` are the messages of one round, in order: ("update",), or several for a secure sum.
    `hides_sites`: the coordinator sees sums only, so a strategy that reads each update cannot be used.
    `refuses`: what cannot stand beside it in a study, and why; `blind`: what the coordinator can no longer do, and why.
    """

    phases: ClassVar[tuple[str, ...]] = ("update",)
    hides_sites: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = NOTHING
    blind: ClassVar[Mapping[str, str]] = NOTHING

    @abstractmethod
    def seen(self) -> str:
        """What the coordinator sees of one site's update: a sentence, for the report and the record."""
