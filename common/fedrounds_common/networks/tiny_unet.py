"""A small U-Net of our own, fast on one core, that starts without importing MONAI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from fedrounds_common.network import Network

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class TinyUNet(Network):
    """`channels`: widths from half resolution downwards; multiples of 16 are fast on CPU."""

    channels: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=6)] = (16, 32, 64)

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from fedrounds_common import layers

        return layers.TinyUNet(dims, inputs, outputs, self.channels)

    def first_layers(self) -> tuple[str, ...]:
        return ("stem.", "down.0.")

    def last_layers(self) -> tuple[str, ...]:
        return ("head.",)

    def divisor(self, dims: int) -> int:
        return int(2 ** len(self.channels))
