"""The permit: which studies this site takes part in, by digest. Nothing is allowed that is not listed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import final

from fedrounds_common.errors import RefusedError
from fedrounds_common.leaving import Ask


@final
@dataclass(frozen=True)
class Permit:
    """`studies`: digests of the agreed halves that a person at this site said yes to."""

    studies: frozenset[str]

    def check(self, ask: Ask) -> None:
        """Raises RefusedError unless the very text that came is permitted."""
        digest = hashlib.sha256(ask.study.encode()).hexdigest()
        if digest != ask.digest:
            raise RefusedError("FR-C01", "the study's text and its digest do not agree", wanted="one study, unchanged")
        if digest not in self.studies:
            raise RefusedError(
                "FR-C02", f"study {digest[:12]} is not permitted here", wanted="a permit for this digest"
            )
