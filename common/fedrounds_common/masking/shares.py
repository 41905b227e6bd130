"""Shamir's secret sharing (1979): any `threshold` shares give the secret back, fewer say nothing about it.

A secret of 32 bytes is the value at 0 of a polynomial of degree threshold − 1 over the integers modulo a prime; a share
is its value at the holder's number, which is 1 or more. The other coefficients come from the operating system.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

from fedrounds_common.errors import UpdateError

PRIME = 2**256 + 297  # the smallest above every secret
SECRET_BYTES, SHARE_BYTES = 32, 33


def split(secret: bytes, holders: Sequence[int], threshold: int) -> dict[int, bytes]:
    """One share of 33 bytes for each holder.

    Args:
        secret: 32 bytes. holders: distinct numbers of 1 or more. threshold: from 1 to as many as there are holders.

    Raises:
        ValueError: one of these is not so.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(holders):
        raise ValueError(f"{len(secret)} bytes for {len(holders)} holders, of whom {threshold} suffice")
    if len(set(holders)) != len(holders) or min(holders) < 1:
        raise ValueError("a holder's number is 1 or more, and its own")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {holder: _value(coefficients, holder).to_bytes(SHARE_BYTES, "big") for holder in holders}


def _value(coefficients: Sequence[int], at: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * at + coefficient) % PRIME
    return value


def join(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret from `threshold` of these shares, those of the lowest numbers.

    Raises:
        UpdateError: FR-R81 there are too few, or they are no shares of one secret of 32 bytes.
    """
    if len(shares) < threshold:
        raise UpdateError("FR-R81", f"{len(shares)} shares of a secret", wanted=f"{threshold} of them")
    used = sorted(shares)[:threshold]
    weights = _weights(tuple(used))
    secret = sum(weight * _number(shares[holder]) for weight, holder in zip(weights, used, strict=True)) % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise UpdateError("FR-R81", "shares that do not belong together", wanted="shares of one secret")
    return secret.to_bytes(SECRET_BYTES, "big")


def _number(share: bytes) -> int:
    number = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or number >= PRIME:
        raise UpdateError("FR-R81", "a share that is no number of the field", wanted=f"{SHARE_BYTES} bytes")
    return number


@lru_cache(maxsize=512)  # of all secrets of one round the holders are nearly always the same
def _weights(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights for the value at 0."""
    found = []
    for one in holders:
        above, below = 1, 1
        for other in holders:
            if other != one:
                above, below = above * other % PRIME, below * (other - one) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(found)
