"""A partition gives each hospital of a rehearsal its cases. One file in `partitions/` each."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from fedrounds_common import rng
from fedrounds_common.case import CaseRef
from fedrounds_common.errors import DataError
from fedrounds_common.plugins import Shelf

Assignment = dict[str, tuple[CaseRef, ...]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # what a study may call a site


class Partition(ABC):
    """A frozen dataclass whose fields are its table, `[simulation.partition]`."""

    needs_strata: ClassVar[bool] = False  # True: every target is read before the cases are dealt out

    @abstractmethod
    def assign(self, refs: Sequence[CaseRef], seed: int, strata: Mapping[str, int] | None = None) -> Assignment:
        """Give cases to sites; all cases of a patient to one of them, some perhaps to none.

        Args:
            refs: every case of the reader, in any order.
            seed: the study's.
            strata: patient → a coarse number of its target, for partitions that skew it.

        Returns:
            Site → its cases, sorted by name; sites in the order of their names, none without a case.
            Refs come back unchanged: their `site` is what the reader said.

        Raises:
            DataError: FR-D21 to FR-D24: the cases cannot be divided in this way.
        """


PARTITIONS: Shelf[Partition] = Shelf("partitions", Partition)


def by_patient(refs: Iterable[CaseRef]) -> dict[str, tuple[CaseRef, ...]]:
    """Patient → cases sorted by name; patients in order of name."""
    found: dict[str, list[CaseRef]] = defaultdict(list)
    for ref in sorted(refs):
        found[ref.patient].append(ref)
    return {patient: tuple(found[patient]) for patient in sorted(found)}


def shuffled(patients: Iterable[str], seed: int, purpose: str) -> list[str]:
    """An order of patients that depends on the seed and their names only."""
    return sorted(patients, key=lambda patient: (rng.derive(seed, "partition", purpose, patient), patient))


def gathered(patients: Mapping[str, Sequence[str]], cases: Mapping[str, tuple[CaseRef, ...]]) -> Assignment:
    """Site → patients, made site → cases as `Partition.assign` returns them."""
    return {
        site: tuple(sorted(ref for patient in patients[site] for ref in cases[patient]))
        for site in sorted(patients)
        if patients[site]
    }


def numbered(count: int) -> tuple[str, ...]:
    """Names for sites that have none: s01, s02, ... wide enough to sort by number."""
    width = max(2, len(str(count)))
    return tuple(f"s{number:0{width}d}" for number in range(1, count + 1))


def checked_names(names: Iterable[str]) -> None:
    """Raises DataError FR-D23: a site's name could not stand in a study."""
    bad = sorted(name for name in set(names) if not _NAME.fullmatch(name))
    if bad:
        raise DataError(
            "FR-D23",
            f"sites are called {', '.join(map(repr, bad[:5]))}",
            wanted="letters, digits, _ . - only, beginning with a letter or digit, at most 64",
            do="rename them, or choose another group of the pattern for the site",
        )


def too_few(found: int, wanted: int, what: str) -> DataError:
    return DataError(
        "FR-D22",
        f"{found} patients",
        wanted=f"at least {wanted} for {what}",
        do="ask for fewer, or add cases",
    )
