"""Folders that ever kept this site's prepared images from run to run: a line of `caches.jsonl` each.

`[machine] cache` can be changed or emptied, and what was kept in the folder before stays there. Whoever withdraws is
looked for in all of them, and a site that leaves empties all of them.
"""

from __future__ import annotations

import json
from pathlib import Path

from fedrounds_client.home import SiteHome
from fedrounds_common.disk import add_line


def caches(home: SiteHome, now: Path | None = None) -> tuple[Path, ...]:
    """Each such folder once, in the order of their first use; `now` last, where it is new."""
    return tuple(dict.fromkeys((*_remembered(home), *([] if now is None else [now]))))


def remember(home: SiteHome, cache: Path | None) -> None:
    """Before a case is put there: what is kept in a folder that nobody knows of could not be deleted."""
    if cache is not None and cache not in _remembered(home):
        add_line(home.caches, {"folder": str(cache)})


def not_there(home: SiteHome) -> dict[str, int]:
    """For the journal: how many of them could not be looked through; empty where all could."""
    away = sum(not folder.is_dir() for folder in caches(home))
    return {"folders_not_there": away} if away else {}


def _remembered(home: SiteHome) -> list[Path]:
    if not home.caches.exists():
        return []
    found = []
    for line in home.caches.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(Path(json.loads(line)["folder"]))
        except (ValueError, KeyError, TypeError):
            continue  # a line that a crash cut short: nothing was put there yet
    return found
