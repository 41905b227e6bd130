"""Secret randomness: from the operating system's own, never from a study's seed, and never written down.

Whoever knew the noise could take it off, and whoever knew who was drawn would have no sampling to hide in. So the
key is drawn by the operating system, lives in the cipher only, and no method gives it away.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from fedrounds_common.case import F64

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2**16  # numbers drawn at a time: half a MiB, which stays in a core's own cache
UNIT = 2.0**-53  # of the numbers in (0, 1] that float64 holds evenly


@final
class Secret:
    """One stream of secret numbers, keyed anew each time one is made: AES-256 in counter mode.

    It belongs to the process that made it: a copy in a forked one draws a key of its own, or both would add the same
    noise, and their difference would be free of it.
    """

    def __init__(self) -> None:
        self._renew()

    def __repr__(self) -> str:
        return "Secret()"

    def __reduce__(self) -> str:
        raise TypeError("a secret stream stays in its process")

    def _renew(self) -> None:
        self._process = os.getpid()
        self._stream = Cipher(AES256(os.urandom(32)), CTR(os.urandom(16))).encryptor()

    def _words(self, count: int) -> NDArray[np.uint64]:
        if os.getpid() != self._process:
            self._renew()
        return np.frombuffer(self._stream.update(bytes(8 * count)), np.uint64)

    def seed(self) -> int:
        """63 bits, to seed what may be drawn by a common generator but must not be known outside."""
        return int(self._words(1)[0] >> np.uint64(1))

    def uniform(self, count: int) -> F64:
        """Numbers in (0, 1], each of 2^53 equally likely ones."""
        return ((self._words(count) >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * UNIT

    def normal(self, count: int) -> F64:
        """Standard normal numbers, by Box and Muller (1958), in float64. They end at 8.6 standard deviations."""
        import torch

        half = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log(self.uniform(half)))
        angle = torch.from_numpy(2.0 * np.pi * self.uniform(half))
        made = np.empty(2 * half)
        # torch's are as exact, to the last bit or two, and take a fifth of NumPy's time
        np.multiply(radius, torch.cos(angle).numpy(), out=made[:half])
        np.multiply(radius, torch.sin(angle).numpy(), out=made[half:])
        return made[:count]

    def add_to(self, tensor: Tensor, deviation: float) -> None:
        """Add normal noise of this standard deviation to every entry, in place."""
        import torch

        flat = tensor.view(-1)
        for start in range(0, flat.numel(), BLOCK):
            part = flat[start : start + BLOCK]
            part += torch.from_numpy(deviation * self.normal(part.numel())).to(part.device, part.dtype)
