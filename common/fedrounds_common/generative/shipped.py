"""The file of the feature network as it comes with fedrounds, and its digest. Needs no torch."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files

FILE = "features.safetensors"


def content() -> bytes:
    return (files("fedrounds_common.generative") / FILE).read_bytes()


@lru_cache(maxsize=1)
def digest() -> str:
    """The first twelve hexadecimal digits of the file's SHA-256: what a study names it by."""
    return hashlib.sha256(content()).hexdigest()[:12]
