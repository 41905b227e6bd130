"""A network that regresses one affine map for a pair of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, final

from pydantic import Field

from fedrounds_common.network import Makes, Network
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class AffineNet(Network):
    """`channels`: widths from half resolution downwards. The map never mirrors: it is the flow of a velocity."""

    makes: ClassVar[Makes] = "fields"

    channels: Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)] = (16, 32, 64)

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from fedrounds_common.registration import nets

        return nets.AffineNet(dims, inputs, outputs, self.channels)

    def divisor(self, dims: int) -> int:
        return int(2 ** len(self.channels))
