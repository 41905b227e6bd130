"""A network that needs no training: what is brighter than a threshold belongs to the region. For tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from fedrounds_common.network import Network

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class Threshold(Network):
    """`at`: a threshold of the first channel for each region or label."""

    at: tuple[float, ...] = (130.0,)
    steep: float = 1.0

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        import torch
        from torch import nn

        layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(inputs, outputs, 1)
        with torch.no_grad():
            layer.weight.zero_()
            assert layer.bias is not None
            layer.bias.zero_()
            # a softmax has the background in front, which stays 0 everywhere
            for output, at in enumerate(self.at, start=outputs - len(self.at)):
                layer.weight[output, 0] = self.steep
                layer.bias[output] = -self.steep * at
        return layer

    def divisor(self, dims: int) -> int:
        return 1
