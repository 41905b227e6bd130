"""One 2D encoder over the slices of a volume, in the manner of MRNet (Bien et al. 2018, PLOS Medicine 15:e1002699)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

from pydantic import model_validator

from fedrounds_common.network import ScoresNetwork, encoder_of
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn

    from fedrounds_common.arrays import Arrays
    from fedrounds_common.study.tables import CaseForm


@final
@dataclass(frozen=True)
class Series(ScoresNetwork):
    """A case is a stack of slices (C, S, H, W), or in a study of volumes the slices along `axis`.

    `encoder`: a network for pictures that makes scores, e.g. `{ name = "resnet", depth = 18 }`. `pooling` over the
    slices; `width` of its recurrent or attention layer. `exam`: the channels are one series ("one"), or series by
    themselves with one encoder for all ("shared") or one each ("each"), whose scores a logistic regression joins;
    its weights are the tensor `head.weights`, classes by series.
    """

    encoder: dict[str, Any] = field(default_factory=lambda: {"name": "tiny_cnn"})
    pooling: Literal["max", "attention", "lstm", "gru", "bigru"] = "max"
    width: Count = 64
    exam: Literal["one", "shared", "each"] = "one"
    axis: Literal[0, 1, 2] = 2

    @model_validator(mode="after")
    def _encoder_makes_scores(self) -> Series:
        encoder_of(self.encoder)
        return self

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from fedrounds_common import bags, scores

        encoder, separate = encoder_of(self.encoder), 0 if self.exam == "one" else inputs
        count = inputs if self.exam == "each" else 1
        encoders = [scores.made(encoder, 2, 1 if separate else inputs) for _ in range(count)]
        pools = [bags.pool(self.pooling, found, self.width) for _, found in encoders]
        features = pools[0][1]
        heads = [scores.head(self.head, features, self.hidden, outputs, self.dropout) for _ in range(separate or 1)]
        return bags.Bag(
            [made for made, _ in encoders],
            [pool for pool, _ in pools],
            bags.ExamHead(heads, outputs) if separate else heads[0],
            self.dropout,
            axis=self.axis if dims == 3 else 0,
            separate=separate,
        )

    def told(self, arrays: Arrays, form: CaseForm) -> tuple[str, ...]:
        """The weights by which the series of an exam are joined, by the names of classes and channels."""
        if self.exam == "one":
            return ()
        joined = [
            f"{label}: "
            + ", ".join(f"{series} {weight:+.2f}" for series, weight in zip(form.channels, row, strict=True))
            for label, row in zip(form.classes, arrays["head.weights"], strict=True)
        ]
        begun = 4 / len(form.channels)
        return (f"A series' own score of 1 adds to the logit of {'; of '.join(joined)} (all began at {begun:+.2f}).",)

    def first_layers(self) -> tuple[str, ...]:
        return tuple(f"encoders.*.{name}" for name in encoder_of(self.encoder).first_layers())

    def last_layers(self) -> tuple[str, ...]:
        return ("head.", "pools.")

    def public_names(self) -> tuple[tuple[str, str], ...]:
        return (*encoder_of(self.encoder).public_names(), (r"^(?=body\.)", "encoders.*."))
