"""A codec: how a difference travels. One file in `codecs/` each; its fields are the study's `[wire]` or `[wire.down]`.

Upwards it packs a site's update, and what rounding loses stays at the site for its next round (error feedback).
Downwards it packs the consensus, or where the codec says so its difference from what the sites hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from fedrounds_common.arrays import Arrays


class Codec(ABC):
    """A frozen dataclass.

    `exact`: every value arrives as it is, unpacked. `differences`: downwards this codec packs the difference from what a
    site holds; else the consensus itself.
    """

    exact: ClassVar[bool] = False
    differences: ClassVar[bool] = False

    @abstractmethod
    def encode(self, arrays: Arrays, residual: Arrays, seed: int) -> tuple[Arrays, Arrays]:
        """(The arrays that travel, the residual that stays for the next time).

        Args:
            arrays: the difference that leaves, or the consensus; floats, and integer buffers, which arrive unchanged.
            residual: what the last `encode` kept; empty before the first. Only floats are in it.
            seed: of what is drawn, from the labels of round and site: what is packed twice is packed the same.

        Raises:
            UpdateError: FR-R12 a value is not finite, or too large to be packed.
        """

    @abstractmethod
    def decode(self, arrays: Arrays, like: Arrays) -> Arrays:
        """The arrays again, in the names, order, shapes and dtypes that `encode` was given.

        Args:
            arrays: as they came, from outside: nothing about them is believed.
            like: arrays of the model; only their names, shapes and dtypes are looked at. Nothing larger than they
                are is made before what came is known to fit them.

        Raises:
            UpdateError: FR-R11 the arrays are not what `encode` makes of such a model.
        """

    def opening(self) -> Codec:
        """What packs the consensus for sites that hold nothing yet: another codec where this one leaves too much out."""
        return self
