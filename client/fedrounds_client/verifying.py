"""Do a site's books agree: the journal with itself, each permit with the journal, what was sent with the ledger?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from fedrounds_client.home import SiteHome
from fedrounds_client.journal import read_journal
from fedrounds_client.ledger import entries
from fedrounds_client.permits import verify_permits
from fedrounds_common.chain import START
from fedrounds_common.errors import RunFileError


@final
@dataclass(frozen=True)
class Books:
    """How many of each were looked at; `head`: the sum of the journal's last line, which stands for them all."""

    lines: int
    permits: int
    payloads: int
    head: str


def verify_books(home: SiteHome) -> Books:
    """Check everything.

    Raises:
        RunFileError: FR-F40 a line of the journal was changed, or a payload it names is not in the ledger.
        RefusedError: FR-C07 a permit was changed.
    """
    lines = read_journal(home)
    permits = verify_permits(home, tuple(lines))
    payloads = entries(home.outbox)
    kept = {entry["sha256"] for entry in payloads}
    for line in lines:
        sent = line["facts"].get("sent")
        if sent is not None and sent not in kept:
            raise RunFileError(
                "FR-F40", f"line {line['n']} names payload {sent[:16]}, which the ledger has not",
                wanted="the ledger as it was written", do="find out who could write outbox.jsonl",
                where=home.outbox.name,
            )  # fmt: skip
    return Books(len(lines), permits, len(payloads), lines[-1]["sum"] if lines else START)
