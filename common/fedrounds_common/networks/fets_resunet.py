"""The FeTS study's own 3D ResU-Net (Pati et al. 2022): 29,135,703 parameters at 4 channels and 3 regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from fedrounds_common.network import Network
from fedrounds_common.study.tables import Count, Positive

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class FetsResUNet(Network):
    """`base`: width of the first of five levels. `multiplier`: the study takes sigmoid(20 x).

    The study's instance norms keep running statistics; here only when asked, since they are averaged
    over hospitals like weights and rule private training out.
    """

    base: Count = 30
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    multiplier: Positive = 20.0
    running_statistics: bool = False

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from fedrounds_common import layers
        from fedrounds_common.errors import UsageError

        if dims != 3:
            raise UsageError("FR-U46", f"fets_resunet for cases of {dims} dimensions", wanted="3", do="take unet")
        return layers.FetsResUNet(
            inputs,
            outputs,
            self.base,
            dropout=self.dropout,
            multiplier=self.multiplier,
            running_statistics=self.running_statistics,
        )
