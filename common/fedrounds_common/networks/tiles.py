"""A bag of tiles, weighed by attention: multiple-instance learning (Ilse et al. 2018, arXiv:1802.04712)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from pydantic import model_validator

from fedrounds_common.network import ScoresNetwork, encoder_of
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class Tiles(ScoresNetwork):
    """A case is a bag of pictures (C, S, H, W) without an order; one of zeros only stands for no tile.

    `encoder`: a network for pictures that makes scores. `width` of the attention; `gated`: the paper's gate.
    """

    encoder: dict[str, Any] = field(default_factory=lambda: {"name": "tiny_cnn"})
    width: Count = 128
    gated: bool = True

    @model_validator(mode="after")
    def _encoder_makes_scores(self) -> Tiles:
        encoder_of(self.encoder)
        return self

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from fedrounds_common import bags, scores
        from fedrounds_common.errors import UsageError

        if dims != 2:
            raise UsageError(
                "FR-U46", f"tiles for cases of {dims} dimensions", wanted="dims = 2 and cases that are bags of pictures",
                do="take series, or a network for volumes",
            )  # fmt: skip
        encoder, features = scores.made(encoder_of(self.encoder), 2, inputs)
        return bags.Bag(
            [encoder],
            [bags.AttentionPool(features, self.width, gated=self.gated)],
            scores.head(self.head, features, self.hidden, outputs, self.dropout),
            self.dropout,
            skip_empty=True,
        )

    def first_layers(self) -> tuple[str, ...]:
        return tuple(f"encoders.*.{name}" for name in encoder_of(self.encoder).first_layers())

    def last_layers(self) -> tuple[str, ...]:
        return ("head.", "pools.")

    def public_names(self) -> tuple[tuple[str, str], ...]:
        return (*encoder_of(self.encoder).public_names(), (r"^(?=body\.)", "encoders.*."))
