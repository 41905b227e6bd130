"""A tenth of the bytes: the largest values only, with their places; all others stay and add up until they are large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from fedrounds_common.arrays import Array, Arrays
from fedrounds_common.codec import Codec
from fedrounds_common.codec_parts import (
    Packed,
    blocks_in,
    count_keys,
    large,
    left_over,
    only,
    ordered,
    pack_counts,
    pack_halves,
    pack_levels,
    parted,
    size_of,
    small,
    take,
    unpack_counts,
    unpack_halves,
    unpack_levels,
    with_residual,
)
from fedrounds_common.codec_places import BITMAP, GAPS, how_many, largest, most, pack_places, unpack_places
from fedrounds_common.codecs.int8 import Int8
from fedrounds_common.errors import UpdateError
from fedrounds_common.rng import generator

LEVELS, SCALES, SMALL, VALUES = "levels", "scales", "small", "values"


@final
@dataclass(frozen=True)
class TopK(Codec):
    """`share` of the values travel each round: of the whole model (`of`), or of each tensor by itself.

    `values`: how these travel. `block`: values that share a scale, with `int8`. Tensors of one axis travel whole, in
    float16. Downwards the difference from what a site holds travels, and whoever holds nothing gets the consensus in
    int8, since a model of its largest weights only is none.

    Source: Deep Gradient Compression (arXiv:1712.01887); error feedback, without which it does not converge:
    Stich et al. 2018 (arXiv:1809.07599), and for both ways EF21-BC (arXiv:2110.03294).
    """

    differences: ClassVar[bool] = True

    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    of: Literal["model", "tensor"] = "model"
    values: Literal["int8", "float16"] = "int8"
    block: Annotated[int, Field(ge=8, le=65536)] = 128

    def encode(self, arrays: Arrays, residual: Arrays, seed: int) -> tuple[Arrays, Arrays]:
        total = with_residual(arrays, residual)
        names = large(arrays)
        flat = _flat([total[name] for name in names])
        places = self._chosen(flat, [arrays[name].size for name in names])
        travelling = {
            **pack_places(places, flat.size),
            **self._packed(flat[places], seed),
            **pack_halves(total, small(arrays), SMALL),
            **pack_counts(arrays),
        }
        return travelling, left_over(total, self.decode(travelling, arrays))

    def decode(self, arrays: Arrays, like: Arrays) -> Arrays:
        mine = [LEVELS, SCALES] if self.values == "int8" else [VALUES, f"{VALUES}.exponents"]
        only(arrays, [*mine, BITMAP if BITMAP in arrays else GAPS, SMALL, f"{SMALL}.exponents", *count_keys(like)])
        names = large(like)
        chosen = self._unpacked(arrays, [like[name].size for name in names])
        size = size_of(like, names)
        places = unpack_places(arrays, chosen.size, size)
        flat = np.zeros(size, np.float32)
        flat[places] = chosen
        few = unpack_halves(arrays, like, small(like), SMALL)
        return ordered({**parted(flat, like, names), **few, **unpack_counts(arrays, like)}, like)

    def opening(self) -> Codec:
        return Int8(self.block)

    def _chosen(self, flat: Array, sizes: list[int]) -> Array:
        if self.of == "model":
            return largest(flat, how_many(flat.size, self.share))
        starts = np.cumsum([0, *sizes])
        parts = [
            start + largest(flat[start : start + size], how_many(size, self.share))
            for start, size in zip(starts.tolist(), sizes, strict=False)
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _packed(self, chosen: Array, seed: int) -> Packed:
        if self.values == "float16":
            return pack_halves({VALUES: chosen}, [VALUES], VALUES)
        levels, scales = pack_levels([chosen], self.block, generator(seed, "rounding"))
        return {LEVELS: levels, SCALES: scales}

    def _unpacked(self, arrays: Arrays, sizes: list[int]) -> Array:
        """The values that travelled, in the order of their places."""
        key = LEVELS if self.values == "int8" else VALUES
        came, bound = arrays.get(key), most(sizes, self.share, self.of == "tensor")
        if came is None or came.ndim != 1 or came.size > bound:
            raise UpdateError("FR-R11", f"{key} is missing, or more than {bound}", wanted="what the codec packs")
        if self.values == "float16":
            return unpack_halves(arrays, {VALUES: np.broadcast_to(np.float32(0), came.shape)}, [VALUES], VALUES)[VALUES]
        levels = take(arrays, LEVELS, np.int8, came.size)
        scales = take(arrays, SCALES, np.uint16, blocks_in([came.size], self.block))
        return unpack_levels(levels, scales, [came.size], self.block)


def _flat(tensors: list[Array]) -> Array:
    return np.concatenate([np.zeros(0, np.float32), *(np.ravel(tensor) for tensor in tensors)]).astype(np.float32)
