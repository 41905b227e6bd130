"""MONAI's SegResNet (Myronenko 2018, arXiv:1810.11654), without its autoencoder branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field, model_validator

from fedrounds_common.network import Network
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class SegResNet(Network):
    """`width`: channels of the first level, doubled at each further one; `blocks_up`: one entry fewer.

    `norm = "group"` is the paper's: groups of 8 channels, within each example.
    """

    width: Annotated[int, Field(ge=8, multiple_of=8)] = 16
    blocks_down: Annotated[tuple[Count, ...], Field(min_length=2)] = (1, 2, 2, 4)
    blocks_up: tuple[Count, ...] = (1, 1, 1)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    norm: Literal["group", "instance"] = "group"

    @model_validator(mode="after")
    def _one_fewer_up(self) -> SegResNet:
        wanted = len(self.blocks_down) - 1
        if len(self.blocks_up) != wanted:
            raise ValueError(f"blocks_up = {list(self.blocks_up)}: {wanted} wanted, one fewer than blocks_down")
        return self

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.segresnet import SegResNet as MonaiSegResNet

        from fedrounds_common import layers

        network = MonaiSegResNet(
            spatial_dims=dims,
            init_filters=self.width,
            in_channels=inputs,
            out_channels=outputs,
            dropout_prob=self.dropout or None,
            norm=("group", {"num_groups": 8}) if self.norm == "group" else ("instance", {"affine": True}),
            blocks_down=self.blocks_down,
            blocks_up=self.blocks_up,
        )
        return layers.without_in_place(network)

    def divisor(self, dims: int) -> int:
        return int(2 ** (len(self.blocks_down) - 1))
