"""The consensus on its way down: in what form it travels, and what a site then holds, to the same bits at both ends.

    whole        packed by the study's codec, of itself
    difference   the same from what the site holds, which both ends name by its digest
    opening      packed of itself, by what the codec names for sites that hold nothing yet
    half         what all others hold, in float16, for a site that missed something
    held         nothing: the site has it already
    ""           as it is

With a codec of differences, what sites hold is always rounded to float16, and so anybody can be brought to the very same
bits with half a model. What rounding leaves out is in the next difference, since the coordinator takes that from what
the sites hold and not from what it meant to send: its error feedback.

Source: EF21-BC, Fatkhullin et al. 2021 (arXiv:2110.03294); DoubleSqueeze, Tang et al. 2019 (arXiv:1905.05957).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedrounds_common.arrays import Array, Arrays
from fedrounds_common.codec import Codec
from fedrounds_common.codec_parts import to_halves
from fedrounds_common.codecs.float16 import Float16

Form = Literal["", "whole", "difference", "opening", "half", "held"]
HALF = Float16()


def pack_down(codec: Codec, arrays: Arrays, held: Arrays | None, seed: int) -> tuple[Form, Arrays, Arrays]:
    """How the consensus travels, what travels, and what a site holds that has received it.

    Args:
        held: what the sites hold of the round before, with a codec of differences; None: nothing.
        seed: of what is drawn, from the label of the round.
    """
    form: Form = "whole" if not codec.differences else "opening" if held is None else "difference"
    packs = codec.opening() if form == "opening" else codec
    # from where rounding would bring it: what float16 cannot hold would else be among the largest for ever
    what = arrays if form != "difference" or held is None else _less(to_halves(arrays), held)
    coded, _ = packs.encode(what, {}, seed)
    return form, coded, unpack_down(form, codec, coded, held, arrays)


def pack_half(arrays: Arrays) -> Arrays | None:
    """What sites hold, in float16; None where that would not give the very same bits."""
    coded, left = HALF.encode(arrays, {}, 0)
    return None if any(array.any() for array in left.values()) else coded


def unpack_down(form: str, codec: Codec, coded: Arrays, held: Arrays | None, like: Arrays) -> Arrays:
    """What a site holds that has received this: the inverse of `pack_down` and `pack_half`.

    Args:
        held: what the difference is from; other forms need none.
        like: arrays of the model; only their names, shapes and dtypes are looked at.

    Raises:
        UpdateError: FR-R11 what came is not what the codec makes.
    """
    if form == "":
        return coded
    if form == "half":
        return HALF.decode(coded, like)
    if form == "whole":
        return codec.decode(coded, like)
    if form == "opening":
        return to_halves(codec.opening().decode(coded, like))
    assert held is not None
    return held if form == "held" else to_halves(_plus(held, codec.decode(coded, like)))


def _less(arrays: Arrays, held: Arrays) -> dict[str, Array]:
    return {name: np.asarray(array - held[name]) for name, array in arrays.items()}


def _plus(held: Arrays, step: Arrays) -> dict[str, Array]:
    return {name: np.asarray(array + held[name]) for name, array in step.items()}
