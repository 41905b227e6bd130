"""Which rounds saw which patients: one line in `lineage.jsonl` for every answer made with their images.

The file holds no pseudonym: each is written as a keyed hash, whose key stays in the site's folder. So who
knows a pseudonym and holds the key can ask, and the file alone tells nobody who was treated here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, final

from fedrounds_client.home import SiteHome
from fedrounds_common.arrays import digest
from fedrounds_common.disk import add_line, settle
from fedrounds_common.errors import UsageError
from fedrounds_common.leaving import Ask, Kind

FORMAT = 1
EVENTS: dict[Kind, str] = {"train": "trained", "score": "judged", "statistics": "summed"}


@final
@dataclass(frozen=True)
class Sight:
    """One use of a patient's images: to train in a round, to judge a model, or in a sum. `received`: digest of its
    weights. `event`: one of `EVENTS`."""

    event: str
    time: str
    run: str
    round: int
    study: str
    received: str
    model: str
    cohort: str


def use_of(ask: Ask) -> str:
    """What makes a request the same one, asked again: run, round and the very weights, in whatever form they came."""
    words = [
        ask.kind, ask.digest, ask.run, ask.round, ask.model, ask.trained_at, ask.cohort, ask.purpose,
        _weights(ask), digest(ask.shared),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def _weights(ask: Ask) -> str:
    """Digest of the weights that the site has once it received them: as the request says, where that is held against them.

    Only of a round is it (`receiving.received`); taken at its word elsewhere, any number of models would count as one.
    """
    return (ask.holds if ask.kind == "train" else "") or digest(ask.arrays)


def see(home: SiteHome, ask: Ask, patients: Iterable[str], now: datetime) -> None:
    """Write down that this answer was made with these patients' images; once, however often it is asked."""
    use = use_of(ask)
    if any(line["use"] == use for line in _lines(home)):
        settle(home.lineage)  # a try that failed may have left it in memory only, and now the answer leaves
        return
    key = _key(home)
    line = {
        "format": FORMAT,
        "event": EVENTS[ask.kind],
        "time": now.astimezone(UTC).isoformat(timespec="microseconds"),
        "run": ask.run, "round": ask.round, "study": ask.digest, "received": _weights(ask),
        "model": ask.model, "cohort": ask.cohort, "use": use,
        "patients": sorted({_hidden(key, patient) for patient in patients}),
    }  # fmt: skip
    add_line(home.lineage, line)


def uses(home: SiteHome, study: str, event: str, since: str = "") -> frozenset[str]:
    """The distinct uses of that kind that a study has made so far, or since then (ISO, UTC, microseconds)."""
    return frozenset(
        line["use"]
        for line in _lines(home)
        if line["study"] == study and line["event"] == event and line["time"] >= since
    )


def sights(home: SiteHome, patient: str) -> tuple[Sight, ...]:
    """Every use of this patient's images, in order.

    Raises:
        UsageError: the key is missing, without which nobody can tell.
    """
    # readers put the group before the patient: `p1` of the group a is their a_p1
    group = home.read_settings().only
    names = {patient, f"{group}_{patient}"} if group else {patient}
    key = _key(home)
    hidden = {_hidden(key, name) for name in names}
    entries = [entry.name for entry in fields(Sight)]
    return tuple(
        Sight(**{entry: line[entry] for entry in entries}) for line in _lines(home) if hidden & set(line["patients"])
    )


def secret_of(home: SiteHome, purpose: str) -> bytes:
    """32 bytes that belong to this site and purpose for ever, and tell nothing of the key they are made with.

    Raises:
        UsageError: FR-C26 the key is missing.
    """
    return hmac.new(_key(home), f"fedrounds secret\0{purpose}".encode(), hashlib.sha256).digest()


def _lines(home: SiteHome) -> Iterator[dict[str, Any]]:
    if not home.lineage.exists():
        return
    for text in home.lineage.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # cut short by a crash, before its answer left
        if isinstance(line, dict) and "use" in line:
            yield line


def _hidden(key: bytes, patient: str) -> str:
    return hmac.new(key, patient.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:20]


def _key(home: SiteHome) -> bytes:
    try:
        return home.lineage_key.read_bytes()
    except OSError as error:
        raise UsageError(
            "FR-C26", f"the key of the lineage cannot be read ({type(error).__name__})", wanted="as `site init` made it",
            do="restore it: without it no line can be told from another", where=str(home.lineage_key),
        ) from error  # fmt: skip
