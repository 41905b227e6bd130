"""Scores of small groups stay at the site: no noise, and no epsilon, but no table shows what three patients did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, final

from pydantic import ConfigDict, Field

from fedrounds_common.plugins import STRICT
from fedrounds_common.privacy import Privacy, Unit

if TYPE_CHECKING:
    from fedrounds_common.study.tables import Training


@final
@dataclass(frozen=True)
class MinimumGroup(Privacy):
    """A site with fewer than `cases` behind an answer tells no scores and no sums; it trains all the same.

    Its cases are then in no total either, so that nobody finds them by taking the others away. The report names it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    unit: ClassVar[Unit] = "none"

    cases: Annotated[int, Field(ge=2)] = 10

    def smallest(self) -> int:
        return self.cases

    def spent(self, training: Training, sites_by_round: Sequence[int]) -> None:
        return None
