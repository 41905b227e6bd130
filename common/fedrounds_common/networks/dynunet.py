"""MONAI's DynUNet, the network of nnU-Net (Isensee et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field, model_validator

from fedrounds_common.network import Network
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class DynUNet(Network):
    """`channels` and `strides`: one entry a level, from full resolution down; the first stride is 1 as a rule."""

    channels: Annotated[tuple[Count, ...], Field(min_length=3)] = (32, 64, 128, 256, 320)
    strides: tuple[Count, ...] = (1, 2, 2, 2, 2)
    residual: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    running_statistics: bool = False

    @model_validator(mode="after")
    def _one_stride_a_level(self) -> DynUNet:
        if len(self.strides) != len(self.channels):
            raise ValueError(f"strides = {list(self.strides)}: {len(self.channels)} wanted, one a level of channels")
        return self

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet

        return MonaiDynUNet(
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            kernel_size=[3] * len(self.channels),
            strides=self.strides,
            upsample_kernel_size=self.strides[1:],
            filters=self.channels,
            dropout=self.dropout or None,
            norm_name=("instance", {"affine": True, "track_running_stats": self.running_statistics}),
            act_name=("leakyrelu", {"inplace": False, "negative_slope": 0.01}),
            res_block=self.residual,
        )

    def divisor(self, dims: int) -> int:
        return prod(self.strides)
