"""Randomness by label: `derive(seed, purpose, ...)` depends on what is drawn, never on call order.

The only file that may touch torch's global generator, because dropout and weight initialisation
draw from nothing else; privacy noise never comes from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Label = str | int


def derive(seed: int, *labels: Label) -> int:
    """A 63-bit seed from the study's seed and the labels of what is drawn (SHA-256).

    >>> derive(1, "split", "s01") != derive(1, "split", "s02")
    True
    """
    text = "\x1f".join([str(seed), *(f"{type(label).__name__}:{label}" for label in labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: Label) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive(seed, *labels)))


def share(seed: int, *labels: Label) -> float:
    """A number in [0, 1) that belongs to these labels for ever."""
    return derive(seed, *labels) / 2**63


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's global generator starts at `seed`; after, it is as it was."""
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    with torch.random.fork_rng(devices=list(devices)):
        # not torch.manual_seed: for each kind of device that is not there it notes the whole call stack, for ever
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


def torch_generator(seed: int, *labels: Label) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(derive(seed, *labels))
