"""MONAI's Swin UNETR (Hatamizadeh et al. 2022, arXiv:2201.01266)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from fedrounds_common.network import Network
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class SwinUNETR(Network):
    """`width`: features of the first stage. The deepest level is at 1/32: train on patches of 64 or more."""

    width: Annotated[int, Field(ge=12, multiple_of=12)] = 24
    depths: tuple[Count, Count, Count, Count] = (2, 2, 2, 2)
    window: Count = 7
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR

        from fedrounds_common import layers

        network = MonaiSwinUNETR(
            in_channels=inputs,
            out_channels=outputs,
            depths=self.depths,
            window_size=self.window,
            feature_size=self.width,
            norm_name=("instance", {"affine": True}),
            drop_rate=self.dropout,
            spatial_dims=dims,
        )
        return layers.without_in_place(network)

    def divisor(self, dims: int) -> int:
        return 32
