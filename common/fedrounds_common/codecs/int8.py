"""A quarter of the bytes: each value one of 255 levels of its block, rounded by chance; what is lost stays for next time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import numpy as np
from pydantic import Field

from fedrounds_common.arrays import Arrays
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
from fedrounds_common.rng import generator

LEVELS, SCALES, SMALL = "levels", "scales", "small"


@final
@dataclass(frozen=True)
class Int8(Codec):
    """A value loses less than one level, 1/126 of the largest of its block. `block`: values that share a scale.

    Tensors of one axis (biases, norms, running means and variances) travel in float16: they are few, and a variance
    must not come out below 0. Downwards the difference from what a site holds travels, and what rounding lost is in
    the next difference: the coordinator's error feedback.

    Source: QSGD (arXiv:1610.02132) with error feedback (arXiv:1901.09847), both ways as DoubleSqueeze
    (arXiv:1905.05957) and EF21-BC (arXiv:2110.03294).
    """

    differences: ClassVar[bool] = True

    block: Annotated[int, Field(ge=8, le=65536)] = 128

    def encode(self, arrays: Arrays, residual: Arrays, seed: int) -> tuple[Arrays, Arrays]:
        total = with_residual(arrays, residual)
        levels, scales = pack_levels([total[name] for name in large(arrays)], self.block, generator(seed, "rounding"))
        travelling: Packed = {
            LEVELS: levels,
            SCALES: scales,
            **pack_halves(total, small(arrays), SMALL),
            **pack_counts(arrays),
        }
        return travelling, left_over(total, self.decode(travelling, arrays))

    def decode(self, arrays: Arrays, like: Arrays) -> Arrays:
        only(arrays, [LEVELS, SCALES, SMALL, f"{SMALL}.exponents", *count_keys(like)])
        names = large(like)
        sizes = [like[name].size for name in names]
        levels = take(arrays, LEVELS, np.int8, size_of(like, names))
        scales = take(arrays, SCALES, np.uint16, blocks_in(sizes, self.block))
        values = parted(unpack_levels(levels, scales, sizes, self.block), like, names)
        few = unpack_halves(arrays, like, small(like), SMALL)
        return ordered({**values, **few, **unpack_counts(arrays, like)}, like)
