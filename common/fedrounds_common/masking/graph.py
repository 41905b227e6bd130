"""Who masks with whom. With few sites everybody with everybody; with many, each with `neighbours` others.

The graph is a ring with chords (Harary's) over an order that follows from every site's keys of this round, so all work it
out alike and nobody picks his neighbours, unless he knows all others' notices before he sends his own, and tries keys.
Source: Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead"
(doi:10.1145/3372297.3417885), section 3, where the coordinator draws the order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping

Graph = Mapping[str, frozenset[str]]


def graph_of(sites: Collection[str], neighbours: int, lot: bytes) -> dict[str, frozenset[str]]:
    """Site → its neighbours, never itself.

    Args:
        neighbours: of each, an even number; 0, or as many as there are others or more: all others.
        lot: what the order is drawn by.
    """
    everybody = frozenset(sites)
    if not neighbours or neighbours >= len(everybody) - 1:
        return {site: everybody - {site} for site in everybody}
    row = sorted(everybody, key=lambda site: hashlib.sha256(lot + site.encode()).digest())
    reach = range(1, neighbours // 2 + 1)
    return {
        site: frozenset(row[(at + step * way) % len(row)] for step in reach for way in (1, -1))
        for at, site in enumerate(row)
    }


def is_connected(graph: Graph, sites: Collection[str]) -> bool:
    """Whether these sites hang together by masks between them alone. If not, the sum of each part could be told."""
    left, seen = set(sites), list(sites)[:1]
    left -= set(seen)
    while seen:
        near = graph[seen.pop()] & left
        left -= near
        seen += near
    return not left


def needed(of: int, share: float) -> int:
    """The least whole number above this share of so many: of 3, 10, 71 and 200 by two thirds 3, 7, 48 and 134."""
    return math.floor(of * share + 1e-9) + 1
