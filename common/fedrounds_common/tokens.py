"""A vision transformer as a module that makes scores. Shapes: x (B, C, *grid); tokens (B, T, F)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from fedrounds_common.errors import UsageError
from fedrounds_common.scores import ScoreModule


@final
class TokenScorer(ScoreModule):
    """MONAI's ViT with a head of ours: by its class token where it has one, else by the mean over all tokens.

    `size` of the images in voxels, and of the patch that becomes one `token`.
    """

    def __init__(self, body: Any, head: nn.Module, dropout: float, size: Sequence[int], token: Sequence[int]) -> None:
        super().__init__()
        self.body, self.head, self.dropout = body, head, nn.Dropout(dropout)
        self.size, self.grid = tuple(size), tuple(a // b for a, b in zip(size, token, strict=True))
        self.class_token = hasattr(body, "cls_token")
        if self.class_token:
            del body.classification_head
        for block in body.blocks:
            block.norm_cross_attn = nn.Identity()  # no gradient would ever reach it: there is nothing to attend to

    def tokens(self, x: Tensor) -> Tensor:
        """(B, T, F) behind the last layer; the class token, where there is one, stands first.

        Raises:
            UsageError: FR-U47 an image of another size.
        """
        if tuple(x.shape[2:]) != self.size:
            raise UsageError(
                "FR-U47", f"an image of {' x '.join(map(str, x.shape[2:]))} voxels for vit",
                wanted=" x ".join(map(str, self.size)), do="set model.size, or training.patch, to the size of the images",
            )  # fmt: skip
        tokens: Tensor = self.body.patch_embedding(x)
        if self.class_token:
            tokens = torch.cat([self.body.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.body.blocks:
            tokens = block(tokens)
        normed: Tensor = self.body.norm(tokens)
        return normed

    def last_maps(self, x: Tensor) -> Tensor:
        if self.class_token:
            return super().last_maps(x)
        tokens = self.tokens(x).transpose(1, 2)
        return tokens.reshape(*tokens.shape[:2], *self.grid)

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).mean(2)

    def features(self, x: Tensor) -> Tensor:
        return self.tokens(x)[:, 0] if self.class_token else super().features(x)

    def attention(self, x: Tensor) -> Tensor:
        """(layers, B, heads, T, T): how much each token takes from each other; every row sums to 1. No gradient."""
        blocks = [block.attn for block in self.body.blocks]
        for attn in blocks:
            attn.save_attn = True
        try:
            with torch.no_grad():
                self.tokens(x)
            return torch.stack([attn.att_mat for attn in blocks])
        finally:
            for attn in blocks:
                attn.save_attn, attn.att_mat = False, torch.Tensor()
