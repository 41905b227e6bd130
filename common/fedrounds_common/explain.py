"""What an error code means: why it happens and what to do. `codes/*.toml` holds the text, one file a letter."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import final

from fedrounds_common.errors import UsageError

FOLDER = Path(__file__).parent / "codes"


@final
@dataclass(frozen=True)
class Explanation:
    code: str
    title: str
    why: str
    do: str


@lru_cache(maxsize=1)
def explanations() -> dict[str, Explanation]:
    """Every described code, sorted."""
    tables = [tomllib.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.toml"))]
    entries = {code: text for table in tables for code, text in table.items()}
    return {
        code: Explanation(code, *(_one_line(entries[code][part]) for part in ("title", "why", "do")))
        for code in sorted(entries)
    }


def explain(code: str) -> Explanation:
    """Look a code up: "FR-D07", "fr-d07" and "d07" are the same.

    Raises:
        UsageError: no such code; the nearest is named.
    """
    known = explanations()
    wanted = _in_full(code)
    if wanted not in known:
        near = get_close_matches(wanted, [each for each in known if each[:4] == wanted[:4]] or known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`fedrounds explain` lists them all"
        raise UsageError("FR-U07", f"{code!r} is no error code", wanted="such as FR-S01", do=hint)
    return known[wanted]


def _in_full(code: str) -> str:
    short = re.fullmatch(r"(?:fr-?)?([a-z])-?(\d{1,2})", code.strip(), re.IGNORECASE)
    return f"FR-{short[1].upper()}{int(short[2]):02}" if short else code.strip().upper()


def _one_line(text: str) -> str:
    return " ".join(text.split())
