"""Answers that left already: the same request, asked again after a crash or a cut, gets the very same bytes.

One file each below `runs/RUN/replies/`, the last few of a run. What is kept holds nothing that has not left.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from fedrounds_client.home import SiteHome
from fedrounds_client.lineage import use_of
from fedrounds_client.withdrawn import withdrawn_patients
from fedrounds_common.disk import remove_file, write_whole
from fedrounds_common.leaving import Ask, signed_bytes

KEPT_FILES = 4  # a round's update and its judgings
SIZES = struct.Struct(">QQQ")
Signed = tuple[str, bytes, bytes]  # header, buffer, signature


def keep_reply(home: SiteHome, ask: Ask, signed: Signed) -> None:
    """Keep what has just been entered in the ledger. A hello is made anew: the site may have changed since."""
    if ask.kind == "hello":
        return
    parts = (signed[0].encode(), *signed[1:])
    file = _file(home, ask)
    write_whole(file, SIZES.pack(*(len(part) for part in parts)), *parts)
    for old in sorted(set(file.parent.glob("*.reply")) - {file})[: 1 - KEPT_FILES]:
        remove_file(old)


def kept_reply(home: SiteHome, ask: Ask) -> Signed | None:
    """What was answered to this very request, or None: nothing, or a file that this site's key did not sign."""
    try:
        data = _file(home, ask).read_bytes()
        ends = SIZES.unpack_from(data)
        start, middle = SIZES.size + ends[0], SIZES.size + ends[0] + ends[1]
        header, buffer, signature = data[SIZES.size : start].decode(), data[start:middle], data[middle:]
    except (OSError, struct.error, UnicodeDecodeError):
        return None
    whole = len(signature) == ends[2] and home.key.public.holds(signed_bytes(header, buffer), signature)
    return (header, buffer, signature) if whole else None


def _file(home: SiteHome, ask: Ask) -> Path:
    """By everything that was asked, and by who had withdrawn then: whoever has since is in no answer any more."""
    words = [use_of(ask), ask.nonce, sorted(withdrawn_patients(home))]
    name = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]
    return home.runs / ask.run / "replies" / f"{ask.round:04d}-{name}.reply"  # so that the oldest round sorts first
