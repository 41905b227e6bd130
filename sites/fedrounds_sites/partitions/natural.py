"""Each case to the site its reader names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from pydantic import ConfigDict

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import DataError
from fedrounds_common.plugins import STRICT
from fedrounds_sites.partition import Assignment, Partition, by_patient, checked_names, gathered


@final
@dataclass(frozen=True)
class Natural(Partition):
    """The reader's own groups; where it names no site at all, everything is one site called `only`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    only: str = "site"

    def assign(self, refs: Sequence[CaseRef], seed: int, strata: Mapping[str, int] | None = None) -> Assignment:
        """Raises DataError FR-D23: some cases have no site, or a patient has two."""
        cases = by_patient(refs)
        named = any(ref.site for ref in refs)
        patients: dict[str, list[str]] = defaultdict(list)
        for patient, own in cases.items():
            sites = {ref.site for ref in own} if named else {self.only}
            if len(sites) > 1 or None in sites:
                raise _unclear(patient, sorted(site or "none" for site in sites))
            patients[str(sites.pop())].append(patient)
        checked_names(patients)
        return gathered(patients, cases)


def _unclear(patient: str, sites: Sequence[str]) -> DataError:
    return DataError(
        "FR-D23",
        f"patient {patient} is at site {' and '.join(sites)}",
        wanted="one site a patient, for every patient",
        do="correct the reader's pattern: its groups patient and site",
    )
