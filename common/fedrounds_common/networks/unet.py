"""MONAI's residual U-Net (Kerfoot et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field, model_validator

from fedrounds_common.network import Network
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class UNet(Network):
    """`channels`: widths from the first level down; `strides`: one fewer, the step between each two."""

    channels: Annotated[tuple[Count, ...], Field(min_length=2)] = (16, 32, 64, 128)
    strides: tuple[Count, ...] = (2, 2, 2)
    residual_units: Annotated[int, Field(ge=0)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    activation: Literal["prelu", "leakyrelu", "relu"] = "prelu"
    running_statistics: bool = False

    @model_validator(mode="after")
    def _one_stride_between(self) -> UNet:
        wanted = len(self.channels) - 1
        if len(self.strides) != wanted:
            raise ValueError(f"strides = {list(self.strides)}: {wanted} wanted, one between two channels")
        return self

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.unet import UNet as MonaiUNet

        from fedrounds_common import layers

        network = MonaiUNet(
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            channels=self.channels,
            strides=self.strides,
            num_res_units=self.residual_units,
            act=self.activation,
            norm=("instance", {"affine": True, "track_running_stats": self.running_statistics}),
            dropout=self.dropout,
        )
        return layers.without_in_place(network)

    def divisor(self, dims: int) -> int:
        return prod(self.strides)
