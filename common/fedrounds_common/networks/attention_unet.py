"""MONAI's Attention U-Net (Oktay et al. 2018, arXiv:1804.03999)."""

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
class AttentionUNet(Network):
    """`channels`: widths from full resolution down; `strides`: one fewer.

    MONAI's has batch norms and no choice; here they are instance norms unless `running_statistics`.
    """

    channels: Annotated[tuple[Count, ...], Field(min_length=2)] = (16, 32, 64, 128)
    strides: tuple[Count, ...] = (2, 2, 2)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    running_statistics: bool = False

    @model_validator(mode="after")
    def _one_stride_between(self) -> AttentionUNet:
        wanted = len(self.channels) - 1
        if len(self.strides) != wanted:
            raise ValueError(f"strides = {list(self.strides)}: {wanted} wanted, one between two channels")
        return self

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.attentionunet import AttentionUnet as MonaiAttentionUnet

        from fedrounds_common import layers

        built = MonaiAttentionUnet(
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            channels=self.channels,
            strides=self.strides,
            dropout=self.dropout,
        )
        network = layers.without_in_place(built)
        return network if self.running_statistics else layers.without_batch_norm(network, dims)

    def divisor(self, dims: int) -> int:
        return prod(self.strides)
