"""Patients who withdrew: read anew at every request, left out from then on, and their prepared images deleted.

`withdrawn.csv` has one pseudonym a line, as the site's reader gives it, in its first column. A name in it that is
no patient's is shown by `review`: a misspelt one would go on being trained on.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

from fedrounds_client.caches import caches, not_there
from fedrounds_client.home import SiteHome, read_table
from fedrounds_client.journal import note
from fedrounds_common.case import CaseRef
from fedrounds_common.disk import write_json
from fedrounds_common.errors import DataError
from fedrounds_sites.cache import CaseStore
from fedrounds_sites.own import called

HEADING = "patient"


def withdrawn_patients(home: SiteHome) -> frozenset[str]:
    """Everybody who withdrew.

    Raises:
        DataError: FR-C27 the file cannot be read: nothing is done here until it can.
    """
    if not home.withdrawn.exists():
        return frozenset()
    try:
        rows = list(csv.reader(home.withdrawn.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            "FR-C27", f"withdrawn.csv cannot be read ({type(error).__name__})", wanted="one pseudonym a line, in UTF-8",
            where=str(home.withdrawn),
        ) from error  # fmt: skip
    names = [row[0].strip() for row in rows if row and row[0].strip()]
    return frozenset(names[1:] if names[:1] == [HEADING] else names)


def forget_withdrawn(home: SiteHome, patients: frozenset[str], cache: Path | None = None) -> int:
    """Delete what is kept of these patients' images, if the list has changed; returns how many files went.

    What is deleted is counted in the journal, without a name, and so are folders that could not be looked through.

    Args:
        cache: where the site keeps prepared cases from run to run; where it ever kept them is looked through too. Another
            folder than before, or one that is there again, has all looked through anew.
    """
    marker = home.folder / "withdrawn.json"
    there = [folder for folder in caches(home, cache) if folder.is_dir()]
    asked = [sorted(patients), *map(str, there)] if there else sorted(patients)
    stamp = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    before = read_table(marker) or {"patients": 0, "stamp": ""}
    if before["stamp"] == stamp or (not patients and not before["stamp"]):
        return 0
    gone = 0
    for run in sorted(home.runs.glob("*/")):
        refs = listed(run)
        meant = called(refs, patients) | patients
        gone += CaseStore(run / "cache").forget(meant)
        for file in _pictures(run, {ref.name for ref in refs if ref.patient in meant}):
            file.unlink(missing_ok=True)
            gone += 1
    for folder in there:
        gone += CaseStore(folder).forget(lambda refs: called(refs, patients) | patients)
    facts = {"patients": len(patients), "before": before["patients"], "files_deleted": gone}
    note(home, "withdrawn", **facts, **not_there(home))
    write_json(marker, {"patients": len(patients), "stamp": stamp})
    return gone


def listed(run: Path) -> tuple[CaseRef, ...]:
    """The cases that a run of this site uses; none where nothing was listed yet."""
    table = read_table(run / "cases.json") or {"cases": []}
    return tuple(CaseRef(**entry) for entry in table["cases"])


def _pictures(run: Path, cases: Collection[str]) -> Iterator[Path]:
    for told in sorted((run / "pictures").glob("*.json")):
        if (read_table(told) or {}).get("case") in cases:
            yield from (told, told.with_suffix(".png"))
