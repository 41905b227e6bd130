"""A codec: how an update's arrays travel. One file in `codecs/` each; its fields are the study's `[wire]`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fedrounds_common.arrays import Arrays


class Codec(ABC):
    """A frozen dataclass. What rounding loses may be kept at the site and added next round (error feedback)."""

    @abstractmethod
    def encode(self, arrays: Arrays, residual: Arrays) -> tuple[Arrays, Arrays]:
        """Site: (the arrays that travel, the residual that stays for its next round).

        Args:
            arrays: the difference that leaves; float32, and integer buffers.
            residual: what this site's last `encode` kept; empty before the first.
        """

    @abstractmethod
    def decode(self, arrays: Arrays) -> Arrays:
        """Coordinator: the difference again, in the names, shapes and dtypes that `encode` was given.

        Raises:
            UpdateError: the arrays are not what `encode` makes. They come from outside: check before use.
        """
