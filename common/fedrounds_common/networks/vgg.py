"""VGG (Simonyan and Zisserman 2014, arXiv:1409.1556) with global average pooling in place of its wide layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from fedrounds_common.network import ScoresNetwork

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class VGG(ScoresNetwork):
    """`depth`: layers with weights as the paper counts them, of which the last three are our head.

    `norms = false` is the paper's network, as public files hold it; without norms it hardly learns from the start.
    """

    depth: Literal[11, 13, 16, 19] = 19
    norms: bool = True
    running_statistics: bool = False

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from fedrounds_common import bodies, scores

        body = bodies.vgg(dims, inputs, self.depth, norms=self.norms, running_statistics=self.running_statistics)
        head = scores.head(self.head, bodies.VGG_WIDTHS[-1], self.hidden, outputs, self.dropout)
        return scores.Scorer(body, head, self.dropout, name="vgg")

    def first_layers(self) -> tuple[str, ...]:
        """The first two of the five blocks."""
        counts = {11: (1, 1), 13: (2, 2), 16: (2, 2), 19: (2, 2)}[self.depth]
        entries = sum(counts) * (3 if self.norms else 2) + len(counts)
        return tuple(f"body.{number}." for number in range(entries))

    def public_names(self) -> tuple[tuple[str, str], ...]:
        return ((r"^features\.", "body."),)
