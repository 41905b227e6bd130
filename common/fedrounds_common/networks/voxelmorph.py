"""A U-Net that gives a velocity field, in the manner of VoxelMorph (Balakrishnan et al. 2019, Dalca et al. 2019)."""

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
class VoxelMorph(Network):
    """`channels`: widths from half resolution, where the velocity lies, downwards.

    `affine`: a linear velocity from the coarsest features is added, so that a shift or a turn of the whole need
    not be put together from local pieces.
    """

    makes: ClassVar[Makes] = "fields"

    channels: Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)] = (16, 32, 64)
    affine: bool = True

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from fedrounds_common.registration import nets

        return nets.FieldUNet(dims, inputs, outputs, self.channels, linear=self.affine)

    def divisor(self, dims: int) -> int:
        return int(2 ** len(self.channels))
