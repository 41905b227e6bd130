"""One encoder for many pictures of one case: the slices of a volume, the series of an exam, the tiles of a slide.

Shapes: x (B, C, S, H, W), S pictures a case; encoded (B, S, F); maps (B, F, S, h, w).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from fedrounds_common.scores import ScoreModule

Pooling = Literal["max", "attention", "lstm", "gru", "bigru"]


@final
class MaxPool(nn.Module):
    """(B, S, F) → (B, F): of each feature the largest, as in MRNet (Bien et al. 2018)."""

    def forward(self, encoded: Tensor) -> Tensor:
        return encoded.amax(1)


@final
class AttentionPool(nn.Module):
    """(B, S, F) → (B, F): a mean over the pictures, weighted by what two small layers make of each.

    A picture without any feature stands for none, and has no weight. Source: Ilse et al. 2018 (arXiv:1802.04712),
    equations 8 and, `gated`, 9.
    """

    def __init__(self, features: int, width: int, *, gated: bool) -> None:
        super().__init__()
        self.tanh, self.weigh = nn.Linear(features, width), nn.Linear(width, 1)
        self.gate = nn.Linear(features, width) if gated else None

    def weights(self, encoded: Tensor) -> Tensor:
        """(B, S), each row sums to 1."""
        hidden = torch.tanh(self.tanh(encoded))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(encoded))
        weight: Tensor = self.weigh(hidden).squeeze(-1)
        empty = (encoded == 0).all(-1)
        return weight.masked_fill(empty, torch.finfo(weight.dtype).min).softmax(-1)

    def forward(self, encoded: Tensor) -> Tensor:
        return torch.einsum("bs,bsf->bf", self.weights(encoded), encoded)


@final
class RecurrentPool(nn.Module):
    """(B, S, F) → (B, width), or (B, 2 width) both ways: what a recurrent layer holds after the last picture."""

    def __init__(self, kind: Literal["lstm", "gru", "bigru"], features: int, width: int) -> None:
        super().__init__()
        self.layer: nn.RNNBase
        if kind == "lstm":
            self.layer = nn.LSTM(features, width, batch_first=True)
        else:
            self.layer = nn.GRU(features, width, batch_first=True, bidirectional=kind == "bigru")

    def forward(self, encoded: Tensor) -> Tensor:
        state = self.layer(encoded)[1]
        hidden: Tensor = state[0] if isinstance(state, tuple) else state
        return hidden.transpose(0, 1).flatten(1)


def pool(kind: Pooling, features: int, width: int) -> tuple[nn.Module, int]:
    """The module, and how many features it gives."""
    if kind == "max":
        return MaxPool(), features
    if kind == "attention":
        return AttentionPool(features, width, gated=False), features
    return RecurrentPool(kind, features, width), 2 * width if kind == "bigru" else width


@final
class ExamHead(nn.Module):
    """(B, N F) → (B, K): each series has scores of its own, and a logistic regression of their sigmoids joins them.

    `weights` (K, N) is the regression's: how much a series' score from 0 to 1 adds to the logit of each class. It
    starts with 4 shared evenly and `bias` -2, so that scores of all 0 and all 1 are logits of -2 and 2.
    """

    def __init__(self, heads: Sequence[nn.Module], outputs: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.weights = nn.Parameter(torch.full((outputs, len(heads)), 4.0 / len(heads)))
        self.bias = nn.Parameter(torch.full((outputs,), -2.0))

    def scores(self, features: Tensor) -> Tensor:
        """(B, N, K) in 0 to 1: what each series says by itself."""
        parts = features.chunk(len(self.heads), dim=1)
        return torch.stack([head(part) for head, part in zip(self.heads, parts, strict=True)], dim=1).sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        return torch.einsum("bnk,kn->bk", self.scores(features), self.weights) + self.bias


@final
class Bag(ScoreModule):
    """Encoders for single pictures, a pool over the pictures of a case, and a head.

    `encoders` and `pools`: one of each, or one a channel. `separate`: how many channels are series by themselves;
    0 where all channels are one series. `axis`: which of a volume's axes counts the pictures. `skip_empty`: a
    picture of zeros only stands for none, so that bags of different sizes may be filled up with such.
    """

    takes_stacks = True  # a task hands it a case's pictures together, and not one by one

    def __init__(
        self,
        encoders: Sequence[ScoreModule],
        pools: Sequence[nn.Module],
        head: nn.Module,
        dropout: float,
        *,
        axis: int = 0,
        separate: int = 0,
        skip_empty: bool = False,
    ) -> None:
        super().__init__()
        self.encoders, self.pools = nn.ModuleList(encoders), nn.ModuleList(pools)
        self.head, self.dropout = head, nn.Dropout(dropout)
        self.axis, self.separate, self.skip_empty = axis, separate, skip_empty

    def _series(self, x: Tensor) -> list[Tensor]:
        """(B, C, S, H, W) of each series; a single picture is a bag of one."""
        x = x.unsqueeze(2) if x.ndim == 4 else x.movedim(2 + self.axis, 2)
        return list(x.chunk(x.shape[1], dim=1)) if self.separate else [x]

    def _each(self, number: int, pictures: Tensor, encode: Callable[[ScoreModule, Tensor], Tensor]) -> Tensor:
        """(B, C, S, H, W) → (B, S, ...): what the encoder makes of each picture."""
        encoder = self.encoders[number % len(self.encoders)]
        assert isinstance(encoder, ScoreModule)
        flat = pictures.transpose(1, 2).flatten(0, 1)
        encoded = encode(encoder, flat)
        if self.skip_empty:
            there = (flat != 0).flatten(1).any(1)
            encoded = encoded * there.view(-1, *(1,) * (encoded.ndim - 1))
        return encoded.reshape(len(pictures), -1, *encoded.shape[1:])

    def encoded(self, x: Tensor) -> list[Tensor]:
        """(B, S, F) of each series."""
        return [
            self._each(number, series, lambda encoder, flat: encoder.features(flat))
            for number, series in enumerate(self._series(x))
        ]

    def _pooled(self, encoded: Sequence[Tensor]) -> Tensor:
        pools = [self.pools[number % len(self.pools)] for number in range(len(encoded))]
        return torch.cat([pool(each) for pool, each in zip(pools, encoded, strict=True)], dim=1)

    def features(self, x: Tensor) -> Tensor:
        return self._pooled(self.encoded(x))

    def last_maps(self, x: Tensor) -> Tensor:
        """(B, N F, *small): of N series, the maps of each; along the axis of the pictures as long as the image."""
        maps = [
            self._each(number, series, lambda encoder, flat: encoder.last_maps(flat)).transpose(1, 2)
            for number, series in enumerate(self._series(x))
        ]
        return torch.cat(maps, dim=1).movedim(2, 2 + self.axis)

    def pooled(self, maps: Tensor) -> Tensor:
        def one(number: int, part: Tensor) -> Tensor:
            encoder = self.encoders[number % len(self.encoders)]
            assert isinstance(encoder, ScoreModule)
            flat = part.transpose(1, 2).flatten(0, 1)
            return encoder.pooled(flat).reshape(len(part), part.shape[2], -1)

        parts = maps.movedim(2 + self.axis, 2).chunk(max(self.separate, 1), dim=1)
        return self._pooled([one(number, part) for number, part in enumerate(parts)])

    def attention(self, x: Tensor) -> Tensor:
        """(B, N, S): how much each picture of each series counts; of a bag that pools by attention."""
        pools = [self.pools[number % len(self.pools)] for number in range(max(self.separate, 1))]
        weights = [
            pool.weights(each)
            for pool, each in zip(pools, self.encoded(x), strict=True)
            if isinstance(pool, AttentionPool)
        ]
        return torch.stack(weights, dim=1)
