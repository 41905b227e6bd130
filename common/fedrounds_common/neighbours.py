"""How many workers of a simulation share this machine, where the study does not say: what starts them tells them."""

from __future__ import annotations

import os

VARIABLE = "FEDROUNDS_WORKERS_HERE"


def workers_here(otherwise: int) -> int:
    """As this process was told; `otherwise` where nobody told it."""
    told = os.environ.get(VARIABLE, "")
    return int(told) if told.isdigit() else otherwise
