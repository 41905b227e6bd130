"""A channel: who can see one site's update on its way into the sum. One file in `channels/` each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from fedrounds_common.study.tables import Cohort


class Channel(ABC):
    """A frozen dataclass; its fields are the study's `[wire.channel]` table.

    `phases` are the messages of one round, in order: ("update",), or several for a secure sum.
    `hides_sites`: the coordinator sees sums only. What then cannot be had stands in `study/combinations.py`.
    """

    phases: ClassVar[tuple[str, ...]] = ("update",)
    hides_sites: ClassVar[bool] = False

    @abstractmethod
    def seen(self) -> str:
        """What the coordinator sees of one site's update: a sentence, for the report and the record."""

    def agreed(self) -> Sequence[str]:
        """What else of this channel whoever allows a study has to know: phrases, for the review."""
        return ()

    def around(self, cohort: Cohort) -> Sequence[tuple[str, str]]:
        """What of the study's cohort does not go with this channel: dotted key and message each."""
        return ()
