"""MONAI's UNETR (Hatamizadeh et al. 2022, arXiv:2103.10504)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field, model_validator

from fedrounds_common.network import Network
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class UNETR(Network):
    """`patch`: the one input size it takes; it must be `training.patch`, in multiples of 16.

    `hidden`: the transformer's width, a multiple of `heads`; `mlp`: of its feed-forward layers.
    """

    patch: tuple[Annotated[int, Field(ge=16, multiple_of=16)], ...] = (96, 96, 96)
    width: Count = 16
    hidden: Count = 768
    mlp: Count = 3072
    heads: Count = 12
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> UNETR:
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden}: a multiple of heads = {self.heads} wanted")
        return self

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.unetr import UNETR as MonaiUNETR

        from fedrounds_common import layers
        from fedrounds_common.errors import UsageError

        if len(self.patch) != dims:
            raise UsageError("FR-U45", f"model.patch = {list(self.patch)}", wanted=f"{dims} numbers, one a dimension")
        network = MonaiUNETR(
            in_channels=inputs,
            out_channels=outputs,
            img_size=self.patch,
            feature_size=self.width,
            hidden_size=self.hidden,
            mlp_dim=self.mlp,
            num_heads=self.heads,
            norm_name=("instance", {"affine": True}),
            dropout_rate=self.dropout,
            spatial_dims=dims,
        )
        return layers.without_in_place(network)
