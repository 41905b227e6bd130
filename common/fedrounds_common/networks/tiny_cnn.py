"""A small residual network of our own for whole images, fast on one core, that starts without importing MONAI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from fedrounds_common.network import ScoresNetwork
from fedrounds_common.study.tables import Count, OrNone

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class TinyCNN(ScoresNetwork):
    """`channels`: widths from the first level down, each at half the size of the one before.

    `stride` of the first convolution; "none": 1 for pictures, 2 for volumes, where full resolution is dear.
    """

    channels: Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)] = (32, 64, 128)
    stride: OrNone[Count] = None
    running_statistics: bool = False

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from fedrounds_common import bodies, scores

        stride = self.stride or dims - 1
        body = bodies.tiny(dims, inputs, self.channels, stride, running_statistics=self.running_statistics)
        head = scores.head(self.head, self.channels[-1], self.hidden, outputs, self.dropout)
        return scores.Scorer(body, head, self.dropout, name="tiny_cnn")

    def first_layers(self) -> tuple[str, ...]:
        return ("body.0.", "body.1.")
