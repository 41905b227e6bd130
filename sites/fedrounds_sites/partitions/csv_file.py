"""Sites from a table with the columns Partition_ID and Subject_ID, as the FeTS challenge hands them out."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, final

from pydantic import ConfigDict

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import DataError
from fedrounds_common.plugins import STRICT
from fedrounds_sites.partition import Assignment, Partition, by_patient, checked_names, gathered

SITE, SUBJECT = "Partition_ID", "Subject_ID"


@final
@dataclass(frozen=True)
class CsvFile(Partition):
    """A table names every subject's site; other columns are passed over.

    Args:
        file: the table. A subject is a patient, or one case of a patient whose cases share a site;
            sites that are whole numbers are called s01, s02, ...
        missing: what to do about subjects of the table that the reader does not find.
        unnamed: what to do about patients that the table does not name ("leave": no site gets them).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    file: Path
    missing: Literal["refuse", "skip"] = "refuse"
    unnamed: Literal["refuse", "leave"] = "refuse"

    def assign(self, refs: Sequence[CaseRef], seed: int, strata: Mapping[str, int] | None = None) -> Assignment:
        """Raises DataError FR-D21: the table is unreadable, contradicts itself, or does not fit the cases."""
        cases = by_patient(refs)
        known = {ref.name: ref.patient for ref in refs} | {patient: patient for patient in cases}
        home: dict[str, str] = {}
        strangers: list[str] = []
        for subject, site in self._rows().items():
            patient = known.get(subject)
            if patient is None:
                strangers.append(subject)
            elif home.setdefault(patient, site) != site:
                raise self._wrong(f"patient {patient} is at sites {home[patient]} and {site}", "one site a patient")
        homeless = [patient for patient in cases if patient not in home]
        if strangers and self.missing == "refuse":
            raise self._wrong(f"{_some(strangers)} not in the data", "subjects that the reader finds")
        if homeless and self.unnamed == "refuse":
            raise self._wrong(f"{_some(homeless)} of the data not named", "every patient named once")
        sites = _named(set(home.values()))
        patients: dict[str, list[str]] = defaultdict(list)
        for patient, site in home.items():
            patients[sites[site]].append(patient)
        if not patients:
            raise self._wrong("no subject of it is in the data", "subjects that the reader finds")
        return gathered(patients, cases)

    def _rows(self) -> dict[str, str]:
        """Subject → site, in the table's order."""
        rows: dict[str, str] = {}
        reader = csv.DictReader(io.StringIO(self._text()), skipinitialspace=True)
        try:
            head = {(name or "").strip(): name for name in reader.fieldnames or ()}
            if not {SITE, SUBJECT} <= set(head):
                raise self._wrong(f"columns {', '.join(head) or 'none'}", f"{SITE} and {SUBJECT}")
            for row in reader:
                site, subject = ((row[head[column]] or "").strip() for column in (SITE, SUBJECT))
                if not site or not subject:
                    raise self._wrong(f"line {reader.line_num}: {site or 'no site'}, {subject or 'no subject'}", "both")
                if subject in rows:
                    raise self._wrong(f"line {reader.line_num}: {subject} is named again", "each subject once")
                rows[subject] = site
        except csv.Error as error:
            raise self._wrong(f"line {reader.line_num}: {error}", "comma-separated values") from None
        return rows

    def _text(self) -> str:
        try:
            return Path(self.file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise self._wrong(f"cannot be read ({error})", f"a table with {SITE} and {SUBJECT}") from None

    def _wrong(self, found: str, wanted: str) -> DataError:
        return DataError(
            "FR-D21",
            found,
            wanted=wanted,
            do='correct the table, or say missing = "skip" or unnamed = "leave"',
            where=str(self.file),
        )


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _named(sites: set[str]) -> dict[str, str]:
    """The table's word for a site → its name."""
    if all(site.isdecimal() for site in sites):
        # numbers as text would sort 1, 10, 2
        width = max((len(site) for site in sites), default=0)
        return {site: f"s{int(site):0{max(2, width)}d}" for site in sites}
    checked_names(sites)
    return {site: site for site in sites}
