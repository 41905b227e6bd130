"""Answers that left already: the same request, asked again after a crash or a cut, gets the very same bytes.

One file each below `runs/RUN/replies/`, the last few of a run. What is kept holds nothing that has not left.
A request that comes again while its answer is still being made waits for that answer (`alone`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrounds_client.home import SiteHome
from fedrounds_client.lineage import use_of
from fedrounds_client.withdrawn import withdrawn_patients
from fedrounds_common.disk import locked, remove_file, write_whole
from fedrounds_common.leaving import Ask, signed_bytes
from fedrounds_common.letter import Letter, letter_parts, unpack_letter
from fedrounds_common.numbered import by_number

KEPT_FILES = 4  # a round's update and its judgings


@contextmanager
def alone(home: SiteHome, ask: Ask) -> Iterator[None]:
    """Within, no other process trains or judges for this run at this site.

    A coordinator that was started again asks anew while the old request is still being worked on: to train twice at
    once would take the site's memory twice, and both would write its state. Whoever waits here is ended at its own
    deadline; the lock is the system's, and goes with the process that holds it, however that ends. A hello waits
    for nobody: it is how a site says that it is there.
    """
    if ask.kind == "hello":
        yield
        return
    with locked(home.locks / ask.run):
        yield


def keep_reply(home: SiteHome, ask: Ask, letter: Letter) -> None:
    """Keep what has just been entered in the ledger. A hello is made anew: the site may have changed since."""
    if ask.kind == "hello":
        return
    file = _file(home, ask)
    write_whole(file, *letter_parts(letter))
    for old in by_number(set(file.parent.glob("*.reply")) - {file})[: 1 - KEPT_FILES]:
        remove_file(old)


def kept_reply(home: SiteHome, ask: Ask) -> Letter | None:
    """What was answered to this very request, or None: nothing, or a file that this site's key did not sign."""
    try:
        header, buffer, signature = unpack_letter(_file(home, ask).read_bytes())
    except (OSError, ValueError):
        return None
    whole = home.key.public.holds(signed_bytes(header, buffer), signature)
    return (header, buffer, signature) if whole else None


def _file(home: SiteHome, ask: Ask) -> Path:
    """By everything that was asked, and by who had withdrawn then: whoever has since is in no answer any more."""
    words = [use_of(ask), ask.nonce, sorted(withdrawn_patients(home))]
    name = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]
    return home.runs / ask.run / "replies" / f"{ask.round:04d}-{name}.reply"
