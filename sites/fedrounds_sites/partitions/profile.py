"""Sites in the proportions of a named federation, such as the 71 hospitals of FeTS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

from pydantic import ConfigDict, Field

from fedrounds_common.case import CaseRef
from fedrounds_common.plugins import STRICT
from fedrounds_sites.partition import Assignment, Partition, by_patient, gathered, shuffled, too_few


@final
@dataclass(frozen=True)
class ByProfile(Partition):
    """The profile's sites, each with its share of the patients and never fewer than `at_least`.

    Args:
        profile: a shipped profile by name, or any by the path of its file.
        patients: how many to deal out; 0 is all there are.
        at_least: patients a site.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    profile: str = "fets71"
    patients: Annotated[int, Field(ge=0)] = 0
    at_least: Annotated[int, Field(ge=1)] = 1

    def assign(self, refs: Sequence[CaseRef], seed: int, strata: Mapping[str, int] | None = None) -> Assignment:
        """Raises DataError FR-D22: fewer patients than asked for, or than the sites need; FR-P01, FR-P02 the profile."""
        from fedrounds_sites import profiles  # a study without a profile has no need of them

        cases = by_patient(refs)
        wanted = {name: site.cases for name, site in profiles.load(self.profile).sites.items()}
        total = self.patients or len(cases)
        if total > len(cases):
            raise too_few(len(cases), total, "patients as asked")
        if total < self.at_least * len(wanted):
            raise too_few(total, self.at_least * len(wanted), f"{len(wanted)} sites of {self.profile}")
        order = iter(shuffled(cases, seed, "profile"))
        sizes = in_proportion(wanted, total, self.at_least)
        return gathered({name: [next(order) for _ in range(size)] for name, size in sizes.items()}, cases)


def in_proportion(wanted: Mapping[str, int], total: int, at_least: int) -> dict[str, int]:
    """Whole numbers that add to `total`, nearest to the wanted proportions (largest remainder), none below `at_least`.

    Args:
        wanted: name → a number above 0.
        total: at least `at_least` a name.
    """
    fixed: dict[str, int] = {}
    while True:
        # who falls below the least gets just that; the others share what is left
        rest = {name: size for name, size in wanted.items() if name not in fixed}
        left = total - sum(fixed.values())
        exact = {name: left * size / sum(rest.values()) for name, size in rest.items()}
        small = {name: at_least for name, size in exact.items() if size < at_least}
        if not small:
            break
        fixed |= small
    sizes = {name: int(size) for name, size in exact.items()}
    over = sorted(exact, key=lambda name: (sizes[name] - exact[name], name))
    for name in over[: left - sum(sizes.values())]:
        sizes[name] += 1
    return {name: fixed.get(name, sizes.get(name, 0)) for name in wanted}
