"""A vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) of MONAI, for pictures and for volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field, model_validator

from fedrounds_common.network import ScoresNetwork
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class ViT(ScoresNetwork):
    """`size`: the one size of image it takes; `token`: of the patches it is cut into, which must divide it.

    `width` of the transformer, a multiple of `heads`; `mlp` of its feed-forward layers. The defaults are DeiT-Ti's
    (Touvron et al. 2020, arXiv:2012.12877); ViT-B is width 768, mlp 3072, heads 12. `pool`: the head judges by
    the class token, or by the mean over the others, which then are maps for Grad-CAM.
    """

    size: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] = (224, 224)
    token: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] = (16, 16)
    width: Count = 192
    mlp: Count = 768
    heads: Count = 3
    layers: Count = 12
    pool: Literal["class-token", "mean"] = "class-token"

    @model_validator(mode="after")
    def _shares_evenly(self) -> ViT:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width}: a multiple of heads = {self.heads} wanted")
        if len(self.size) != len(self.token):
            raise ValueError(f"token = {list(self.token)}: {len(self.size)} numbers wanted, one for each of size")
        if any(size % token for size, token in zip(self.size, self.token, strict=True)):
            raise ValueError(f"size = {list(self.size)}: multiples of token = {list(self.token)} wanted")
        return self

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.vit import ViT as MonaiViT

        from fedrounds_common import scores, tokens
        from fedrounds_common.errors import UsageError

        if len(self.size) != dims:
            raise UsageError("FR-U45", f"model.size = {list(self.size)}", wanted=f"{dims} numbers, one a dimension")
        built = MonaiViT(
            in_channels=inputs,
            img_size=self.size,
            patch_size=self.token,
            hidden_size=self.width,
            mlp_dim=self.mlp,
            num_layers=self.layers,
            num_heads=self.heads,
            classification=self.pool == "class-token",
            num_classes=outputs,
            dropout_rate=self.dropout,
            spatial_dims=dims,
            qkv_bias=True,
        )
        head = scores.head(self.head, self.width, self.hidden, outputs, self.dropout)
        return tokens.TokenScorer(built, head, self.dropout, self.size, self.token)

    def first_layers(self) -> tuple[str, ...]:
        """What makes tokens, and the first third of the transformer."""
        blocks = tuple(f"body.blocks.{number}." for number in range(-(-self.layers // 3)))
        return ("body.patch_embedding.", "body.cls_token", *blocks)
