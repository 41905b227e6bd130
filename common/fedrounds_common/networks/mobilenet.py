"""MobileNet V2 (Sandler et al. 2018, arXiv:1801.04381), for pictures and for volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from fedrounds_common.network import ScoresNetwork
from fedrounds_common.study.tables import Positive

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class MobileNet(ScoresNetwork):
    """`width`: multiplies every layer's channels. `stem = "small"`: an eighth of the size at the end, not 1/32."""

    width: Positive = 1.0
    stem: Literal["standard", "small"] = "standard"
    running_statistics: bool = False

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from fedrounds_common import bodies, scores

        body = bodies.mobilenet(
            dims, inputs, self.width, small=self.stem == "small", running_statistics=self.running_statistics
        )
        head = scores.head(self.head, bodies.mobile_features(self.width), self.hidden, outputs, self.dropout)
        return scores.Scorer(body, head, self.dropout, name="mobilenet")

    def first_layers(self) -> tuple[str, ...]:
        """Down to a quarter of the size."""
        return tuple(f"body.{number}." for number in range(4))

    def public_names(self) -> tuple[tuple[str, str], ...]:
        return ((r"^features\.", "body."),)
