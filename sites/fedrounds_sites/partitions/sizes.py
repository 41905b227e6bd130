"""Patients shuffled by the seed, then dealt out in stated numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, ClassVar, final

from pydantic import ConfigDict, Field, model_validator

from fedrounds_common.case import CaseRef
from fedrounds_common.plugins import STRICT
from fedrounds_sites.partition import Assignment, Partition, by_patient, gathered, numbered, shuffled, too_few


@final
@dataclass(frozen=True)
class Sizes(Partition):
    """Sites of stated sizes.

    Args:
        sizes: patients of each site; those left over belong to nobody.
        names: of the sites, as many; otherwise s01, s02, ...
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    sizes: tuple[Annotated[int, Field(ge=1)], ...]
    names: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")], ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Sizes:
        if not self.sizes:
            raise ValueError("sizes = []: at least one site")
        if self.names and (len(set(self.names)) != len(self.names) or len(self.names) != len(self.sizes)):
            raise ValueError(f"names = {list(self.names)}: as many as sizes ({len(self.sizes)}), and none twice")
        return self

    def assign(self, refs: Sequence[CaseRef], seed: int, strata: Mapping[str, int] | None = None) -> Assignment:
        """Raises DataError FR-D22: the sizes add to more patients than there are."""
        cases = by_patient(refs)
        if sum(self.sizes) > len(cases):
            raise too_few(len(cases), sum(self.sizes), f"{len(self.sizes)} sites of these sizes")
        order = shuffled(cases, seed, "sizes")
        names = self.names or numbered(len(self.sizes))
        ends = accumulate(self.sizes)
        return gathered(
            {name: order[end - size : end] for name, size, end in zip(names, self.sizes, ends, strict=True)}, cases
        )
