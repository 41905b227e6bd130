"""Studies that asked and that nobody here has said yes to: kept for `review`, few and small, whoever sends what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import final

from fedrounds_client.home import SiteHome, read_table
from fedrounds_client.journal import note
from fedrounds_common.disk import write_json
from fedrounds_common.errors import UsageError
from fedrounds_common.leaving import Ask
from fedrounds_common.study.canonical import digest_of_text

FORMAT = 1
MOST = 16  # studies
LARGEST = 1_000_000  # characters of one: as much as a study file may have


@final
@dataclass(frozen=True)
class Waiting:
    """`coordinator`: fingerprint of the key that signed the request. `why`: the code that it was refused with."""

    study: str
    text: str
    coordinator: str
    run: str
    first: str
    last: str
    times: int
    why: str


def keep(home: SiteHome, ask: Ask, coordinator: str, why: str, now: datetime) -> bool:
    """Keep a study that asked; False: it is too large, or too many wait. The journal hears of it once."""
    time = now.isoformat(timespec="seconds")
    known = _read(_file(home, ask.digest))
    if known is not None and known.why == why:
        again = replace(known, run=ask.run, last=time, times=known.times + 1)
        write_json(_file(home, ask.digest), {"format": FORMAT, **asdict(again)})
        return True
    if len(ask.study) > LARGEST or (known is None and sum(1 for _ in waiting(home)) >= MOST):
        return False
    new = Waiting(ask.digest, ask.study, coordinator, ask.run, time, time, 1, why)
    write_json(_file(home, ask.digest), {"format": FORMAT, **asdict(new)})
    note(home, "asked", study=ask.digest, run=ask.run, coordinator=coordinator, why=why)
    return True


def waiting(home: SiteHome) -> Iterator[Waiting]:
    """In order of digest; a file that is not as it was written is passed over, for it will ask again."""
    for file in sorted(home.waiting.glob("*.json")):
        found = _read(file)
        if found is not None:
            yield found


def find(home: SiteHome, start: str) -> Waiting:
    """The study that waits and whose digest begins so.

    Raises:
        UsageError: FR-C24 none does, or more than one.
    """
    found = [each for each in waiting(home) if start and each.study.startswith(start.lower())]
    if len(found) == 1:
        return found[0]
    known = ", ".join(each.study[:12] for each in waiting(home)) or "none"
    raise UsageError(
        "FR-C24", f"{len(found)} studies that wait begin with {start!r}", wanted=f"one of those that wait: {known}",
        do="`fedrounds site review` shows them",
    )  # fmt: skip


def drop(home: SiteHome, study: str) -> None:
    _file(home, study).unlink(missing_ok=True)


def _read(file: Path) -> Waiting | None:
    table = read_table(file)
    try:
        if table is None or table.pop("format") != FORMAT:
            return None
        found = Waiting(**table)
        return found if digest_of_text(found.text) == found.study == file.stem else None
    except (KeyError, TypeError, AttributeError):
        return None


def _file(home: SiteHome, study: str) -> Path:
    return home.waiting / f"{study}.json"
