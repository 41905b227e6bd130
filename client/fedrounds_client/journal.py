"""The site's journal: a chain of what was asked, allowed, refused, done and stopped here. No patient stands in it."""

from __future__ import annotations

import json
from typing import Any

from fedrounds_client.home import SiteHome
from fedrounds_common import chain
from fedrounds_common.disk import last_line


def note(home: SiteHome, event: str, **facts: Any) -> None:
    """Add a line. Raises RunFileError: the chain is broken, and a site that cannot keep its journal does nothing."""
    chain.append(home.journal, event, facts)


def note_once(home: SiteHome, event: str, **facts: Any) -> None:
    """As `note`, unless the last line says the very same: a coordinator that keeps asking fills no disk."""
    if _last(home) != (event, dict(facts)):
        note(home, event, **facts)


def _last(home: SiteHome) -> tuple[object, object] | None:
    text = last_line(home.journal)
    try:
        line = json.loads(text) if text else {}
    except ValueError:
        return None
    return (line.get("event"), line.get("facts")) if isinstance(line, dict) else None


def head(home: SiteHome) -> list[Any]:
    """Number and sum of the last line: what a permit signs, so that what stood before it cannot be rewritten."""
    text = last_line(home.journal)
    line = json.loads(text) if text else {"n": 0, "sum": chain.START}
    return [line["n"], line["sum"]]


def read_journal(home: SiteHome) -> list[dict[str, Any]]:
    """Every line. Raises RunFileError: one is not as it was written."""
    return list(chain.read(home.journal))
