"""MONAI's BasicUNet: a plain U-Net of five levels (Falk et al. 2019)."""

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
class BasicUNet(Network):
    """`channels`: widths of the five levels from full resolution down, then of the last layer."""

    channels: tuple[Count, Count, Count, Count, Count, Count] = (32, 32, 64, 128, 256, 32)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    running_statistics: bool = False

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.basic_unet import BasicUNet as MonaiBasicUNet

        return MonaiBasicUNet(
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            features=self.channels,
            act=("LeakyReLU", {"negative_slope": 0.1, "inplace": False}),
            norm=("instance", {"affine": True, "track_running_stats": self.running_statistics}),
            dropout=self.dropout,
        )
