"""Finds a text in bytes, however it was written there: other encodings, hexadecimal, base64, escaped, reversed."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Iterable, Mapping
from urllib.parse import quote


def forms(text: str) -> Mapping[str, bytes]:
    """Every way of writing it that is looked for, by its name; those of letters in small letters."""
    found: dict[str, bytes] = {}
    for shape, said in (
        ("as it is", text),
        ("backwards", text[::-1]),
        ("accents apart", unicodedata.normalize("NFD", text)),
    ):
        for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le"):
            try:
                found[f"{shape}, {encoding}"] = said.encode(encoding).lower()
            except UnicodeEncodeError:
                continue
    plain = text.encode()
    found["url"] = quote(text, safe="").encode().lower()
    found["json"] = json.dumps(text)[1:-1].encode().lower()
    found["repr"] = repr(plain)[2:-1].encode().lower()
    for encoding in ("utf-8", "utf-16-le"):
        found[f"hex, {encoding}"] = text.encode(encoding).hex().encode()
    return found


def exact_forms(text: str) -> Mapping[str, bytes]:
    """Those in which small and capital letters differ: base64, wherever in its groups of three the text begins."""
    found = {}
    for encoding in ("utf-8", "utf-16-le"):
        for before in range(3):
            code = base64.b64encode(b"\0" * before + text.encode(encoding))
            # the letters at either end hold bits of what stands beside
            found[f"base64, {encoding}, {before} before"] = code[(0, 2, 3)[before] : -4]
    return found


def hits(data: bytes, texts: Iterable[str]) -> list[str]:
    """How and where a text stands in `data`; empty: it does not."""
    small = data.lower()
    found = []
    for text in texts:
        for where, each in ((small, forms(text)), (data, exact_forms(text))):
            found += [f"{text}: {name} at {where.find(code)}" for name, code in each.items() if code in where]
    return found
