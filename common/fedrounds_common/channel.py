"""A channel: who can see one site's update on its way into the sum. One file in `channels/` each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from fedrounds_common.arrays import Arrays


class Channel(ABC):
    """A frozen dataclass; its fields are the study's `[wire.channel]` table.

    `phases` are the messages of one round, in order: ("update",), or several for a secure sum.
    `hides_sites`: the coordinator sees sums only, so a strategy that reads each update cannot be used.
    """

    phases: ClassVar[tuple[str, ...]] = ("update",)
    hides_sites: ClassVar[bool] = False

    @abstractmethod
    def close(self, arrays: Arrays) -> Arrays:
        """Site: what travels of the codec's arrays, masked where the channel masks."""

    @abstractmethod
    def open(self, arrays: Arrays) -> Arrays:
        """Coordinator: the codec's arrays, of one site or, where `hides_sites`, of their sum.

        Raises:
            UpdateError: the arrays are not what `close` makes.
        """
