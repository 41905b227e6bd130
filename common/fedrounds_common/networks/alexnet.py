"""AlexNet (Krizhevsky 2014, arXiv:1404.5997) with global average pooling in place of its wide layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from fedrounds_common.network import ScoresNetwork

if TYPE_CHECKING:
    from torch import nn

LEAST = 35  # voxels along an axis, of which its strides and pools leave one


@final
@dataclass(frozen=True)
class AlexNet(ScoresNetwork):
    """`stem = "small"`: a first convolution of 5 without stride and pools of 2, for small images.

    `norms = false` is the paper's network, as public files hold it; without norms it learns slowly from the start.
    """

    stem: Literal["standard", "small"] = "standard"
    norms: bool = True
    running_statistics: bool = False

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from fedrounds_common import bodies, scores

        small = self.stem == "small"
        body = bodies.alexnet(dims, inputs, small=small, norms=self.norms, running_statistics=self.running_statistics)
        head = scores.head(self.head, 256, self.hidden, outputs, self.dropout)
        return scores.Scorer(body, head, self.dropout, 1 if small else LEAST, "alexnet")

    def first_layers(self) -> tuple[str, ...]:
        return ("body.0.", "body.0_norm.", "body.3.", "body.3_norm.")

    def public_names(self) -> tuple[tuple[str, str], ...]:
        return ((r"^features\.", "body."),)
