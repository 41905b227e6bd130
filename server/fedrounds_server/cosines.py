"""How far each update points where the consensus went, from a few thousand weights of each.

To the whole update one would have to come back once the consensus is known; by then it is in the sum and gone. Of
weights spread evenly over the model, n tell a cosine to about 1/√n: 16,384 to about 0.01. Of a smaller network all
are looked at. Past 256 sites a round, fewer are: all sites' samples share 16 MiB, down to 1,024 weights each from 4,096
sites on, which tell it to about 0.03. The report says how near its cosines are.
"""

from __future__ import annotations

import math

import numpy as np

from fedrounds_common.arrays import Arrays, packed
from fedrounds_common.case import F32

MOST, LEAST = 2**14, 2**10  # weights of one update
TOGETHER = 2**22  # of all sites' updates of a round: 16 MiB


def sampled_of(sites: int) -> int:
    """How many weights of each update are looked at, in a round of so many sites."""
    return min(max(TOGETHER // max(sites, 1), LEAST), MOST)


def nearness(weights: int) -> float:
    """How far from the whole update's a cosine may be that so many weights tell: its standard deviation at most."""
    return 1 / math.sqrt(weights)


def sample(arrays: Arrays, most: int) -> F32:
    """At most so many of the float entries, evenly spread: the same ones of every update of a model."""
    flat = packed(arrays)
    runs = [run for run in flat.layout.runs if run.is_float]
    step = max(-(-sum(run.count for run in runs) // most), 1)
    found, before = [np.empty(0, np.float32)], 0
    for run in runs:
        found.append(flat.read(run)[-before % step :: step])
        before += run.count
    return np.concatenate(found, dtype=np.float32, casting="same_kind")


def cosine(update: F32, before: F32, after: F32) -> float | None:
    """Of an update and the step from one consensus to the next, −1 … 1; None where one of them does not move."""
    update, step = np.asarray(update, np.float64), np.asarray(after, np.float64) - before
    scale = float(np.linalg.norm(update) * np.linalg.norm(step))
    return float(np.dot(update, step)) / scale if scale > 0 else None
