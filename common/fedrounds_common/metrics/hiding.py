"""What a real hospital does to its replicates before they leave, so that no score of a patient can be worked out of them.

Replicates are sums in which a patient counts a whole number of times. Whoever knew the numbers would solve for every
patient's score, so a hospital draws them from a secret of its own. That is not enough: sums with unknown small whole
numbers give the terms away too, for two replicates that differ by one patient differ by that patient's scores. So the
replicates are then turned: multiplied by an orthogonal matrix that is drawn evenly from those that leave their mean as
it is, from the same secret, the same for every model and round, so differences between models stay paired.

What is left is known. Two sets of replicates with the same means and the same sums of products differ by such a turn,
and the turned ones are equally likely for both. So all replicates of all models and rounds together tell of means and of
sums of products over patients, and of nothing else, however they are looked at.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from fedrounds_common.case import F64
from fedrounds_common.task import CaseScore, Tally

PREFIX = "replicate_"  # arrays of a tally whose names begin so hold one row a replicate
FEWEST = 10  # patients. Sums and products fix two patients' scores, and with marks of single ones those of a few more
BLOCK = 200  # replicates turned together: the time to draw a turn grows with the cube
WHOLE = "hospital"  # the only name that stands behind the replicates of a hospital of fewer
Tallied = Callable[[Sequence[CaseScore], int], Tally]


def in_secret(tallied: Tallied, scores: Sequence[CaseScore], secret: bytes, site: str) -> Tally:
    """The tally of one site's cases, its replicates drawn from the site's secret and turned.

    A site of fewer than FEWEST patients is resampled as one: all its cases come and go together, so that its replicates
    are multiples of its plain sums and tell nothing more. By itself it has no interval then, as a single patient has none.

    Args:
        tallied: the task's, of scores and the seed of the patients' weights.
    """
    seed = int.from_bytes(_key(secret, f"weights\0{site}"), "big")
    if not any(name.startswith(PREFIX) for name in tallied((), 0)):
        return tallied(scores, seed)
    if len({score.patient for score in scores}) < FEWEST:
        return tallied([replace(score, patient=WHOLE) for score in scores], seed)
    found = tallied(scores, seed)
    return {name: turned(array, secret) if name.startswith(PREFIX) else array for name, array in found.items()}


def turned(replicates: F64, secret: bytes) -> F64:
    """(B, ...) → (B, ...): of the same means and sums of products, in blocks of at most BLOCK replicates."""
    if not replicates.size:
        return replicates
    flat, parts = replicates.reshape(len(replicates), -1), []
    for start in range(0, len(flat), BLOCK):
        part = flat[start : start + BLOCK]
        parts.append(_turn(len(part), _key(secret, f"turn\0{start}\0{len(part)}")) @ part)
    return np.concatenate(parts).reshape(replicates.shape)


@lru_cache(maxsize=16)  # every array of a tally is turned alike
def _turn(size: int, key: bytes) -> F64:
    """(size, size), drawn evenly from the orthogonal matrices that leave a column of ones as it is.

    Source: Stewart 1980, on QR of normal numbers (doi:10.1137/0717034); a reflection takes the first axis to the ones.
    """
    normal = _normal(size * size, key).reshape(size, size)
    normal[:, 0] = 1.0
    frame, upper = np.linalg.qr(normal)
    frame *= np.sign(np.diag(upper))
    away = -np.full(size, size**-0.5)
    away[0] += 1.0
    if not away.any():  # of one replicate
        return frame
    turn: F64 = frame - np.outer(frame @ away, away) * (2.0 / (away @ away))
    return turn


def _normal(count: int, key: bytes) -> F64:
    """Standard normal numbers of a stream that cannot be gone on from without its key (SHAKE-256; Box and Muller 1958)."""
    words = np.frombuffer(hashlib.shake_256(key).digest(16 * count), np.uint64).reshape(2, count)
    even, angle = ((words >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53
    made: F64 = np.sqrt(-2.0 * np.log(even)) * np.cos(2.0 * np.pi * angle)
    return made


def _key(secret: bytes, purpose: str) -> bytes:
    return hmac.new(secret, f"replicates\0{purpose}".encode(), hashlib.sha256).digest()
