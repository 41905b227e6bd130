"""Every file in `codecs/`: what it loses, that nothing is lost for good, and that nothing from outside gets past it."""

from __future__ import annotations

import tracemalloc
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fedrounds_common.arrays import Array, Arrays, digest, manifest, size_bytes
from fedrounds_common.codec import Codec
from fedrounds_common.codec_parts import pack_levels, unpack_levels
from fedrounds_common.codec_places import largest, pack_places, unpack_places
from fedrounds_common.codecs.float16 import Float16
from fedrounds_common.codecs.int8 import Int8
from fedrounds_common.codecs.top_k import TopK
from fedrounds_common.errors import UpdateError
from fedrounds_common.rng import generator
from fedrounds_common.shelves import CODECS

SHAPES: dict[str, tuple[int, ...]] = {
    "stem.weight": (16, 4, 3, 3, 3), "stem.bias": (16,), "norm.variance": (16,), "deep.weight": (32, 16, 3, 3, 3),
    "temperature": (), "nothing": (0, 4), "head.weight": (2, 32),
}  # fmt: skip
# of a value's own size, of its tensor's largest, and of its block's largest: what a codec may lose in one go
BOUNDS = {"float32": (0.0, 0.0), "float16": (2.0**-11, 2.0**-38), "int8": (0.0, 1 / 126), "top_k": (0.0, 1.0)}


def difference(seed: int = 1) -> dict[str, Array]:
    """As a round leaves it: tensors of very different sizes, and counters."""
    draws = np.random.default_rng(seed)
    sizes = [1e-3, 1e-6, 30.0, 1e-2, 1e-5, 1.0, 1e-9]
    floats = {
        name: np.asarray(draws.normal(0, size, shape), np.float32)
        for (name, shape), size in zip(SHAPES.items(), sizes, strict=True)
    }
    return {**floats, "seen": np.array(2**40 + 1, np.int64), "marks": np.arange(9, dtype=np.uint8)}


MODEL = difference()


def every_codec() -> list[Any]:
    more = [
        TopK(share=0.05),
        TopK(share=0.05, of="tensor"),
        TopK(values="float16"),
        TopK(share=1.0, values="float16"),
        Int8(8),
    ]
    made = [pytest.param(CODECS.load({"name": name}), id=name) for name in CODECS.names()]
    return made + [pytest.param(codec, id=str(codec)) for codec in more]


each = pytest.mark.parametrize("codec", every_codec())


def name_of(codec: Codec) -> str:
    return type(codec).__module__.rsplit(".", 1)[1]


# ---------------------------------------------------------------- what arrives


@each
def test_names_shapes_dtypes_and_order_arrive_and_integers_as_they_were(codec: Codec) -> None:
    values = {**difference(), "wide": np.linspace(0.1, 3, 40).reshape(4, 10), "half": np.ones((2, 3), np.float16)}
    decoded = codec.decode(codec.encode(values, {}, 1)[0], values)
    assert manifest(decoded) == manifest(values)
    np.testing.assert_array_equal(decoded["seen"], values["seen"])
    np.testing.assert_array_equal(decoded["marks"], values["marks"])


@each
def test_no_value_loses_more_than_the_codec_says(codec: Codec) -> None:
    values = difference()
    decoded = codec.decode(codec.encode(values, {}, 1)[0], values)
    of_itself, of_largest = BOUNDS[name_of(codec)]
    for name in SHAPES:
        largest_value = np.abs(values[name]).max(initial=0.0)
        lost = np.abs(decoded[name] - values[name].astype(np.float64))
        small = values[name].ndim < 2 and name_of(codec) != "float32"  # few, and float16 in every codec of ours
        bound = 2.0**-11 * np.abs(values[name]) + 2.0**-38 * largest_value if small else np.asarray(0.0)
        bound = np.maximum(bound, of_itself * np.abs(values[name]) + of_largest * largest_value * (not small))
        assert (lost <= bound).all(), name


@each
def test_over_many_rounds_nothing_is_lost(codec: Codec) -> None:
    # what arrived in all rounds and what is kept add up to what was sent, whatever each round left out
    arrived = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    sent = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    residual: Arrays = {}
    for round_ in range(40):
        values = difference(round_)
        travelling, residual = codec.encode(values, residual, round_)
        decoded = codec.decode(travelling, values)
        for name in SHAPES:
            arrived[name] += decoded[name]
            sent[name] += values[name]
    for name in SHAPES:
        # float32 sums of 40 rounds: 40 · 2^-24 of the largest that was ever summed
        scale = 40 * 40 * 2.0**-24 * max(np.abs(difference(round_)[name]).max(initial=0) for round_ in range(40))
        np.testing.assert_allclose(arrived[name] + residual.get(name, 0), sent[name], rtol=0, atol=scale)


@each
def test_the_same_seed_packs_the_same_bytes(codec: Codec) -> None:
    once, again = (codec.encode(difference(), {}, 5)[0] for _ in range(2))
    assert digest(once) == digest(again)


@each
def test_zeros_arrive_as_zeros_and_leave_nothing_behind(codec: Codec) -> None:
    zeros = {name: np.zeros_like(array) for name, array in difference().items()}
    travelling, residual = codec.encode(zeros, {}, 1)
    assert digest(codec.decode(travelling, zeros)) == digest(zeros)
    assert not any(array.any() for array in residual.values())


@pytest.mark.parametrize(("name", "most"), [("float16", 0.52), ("int8", 0.27), ("top_k", 0.1)])
def test_a_network_takes_so_much_of_its_bytes(name: str, most: float) -> None:
    values = {
        f"conv{n}.weight": np.random.default_rng(n).normal(size=(32, 32, 3, 3, 3)).astype(np.float32) for n in range(4)
    }
    values |= {f"conv{n}.bias": np.ones(32, np.float32) for n in range(4)}
    travelling, _ = CODECS.load({"name": name}).encode(values, {}, 1)
    assert size_bytes(travelling) <= most * size_bytes(values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", [Float16(), Int8(), TopK()], ids=str)
def test_what_is_not_finite_is_not_packed(codec: Codec, bad: float) -> None:
    values = difference()
    values["deep.weight"][3, 2, 1, 0, 2] = bad
    with pytest.raises(UpdateError, match=r"FR-R12 deep\.weight has 1 values that are not finite"):
        codec.encode(values, {}, 1)


# ---------------------------------------------------------------- rounding by chance


def test_rounding_by_chance_is_right_on_average() -> None:
    # 10^5 draws of one value between two levels: 0.3 of 2/127 a level. The mean's own error is
    # sqrt(0.3 * 0.7 / 1e5) = 0.00145 of a level; five times that is allowed
    draws, level = 100_000, 2.0 / 127
    values = np.full(draws + 1, 5.3 * level, np.float32)
    values[-1] = 2.0
    levels, scales = pack_levels([values], values.size, generator(1, "rounding"))
    found = unpack_levels(levels, scales, [values.size], values.size)[:-1].astype(np.float64)
    assert abs(found.mean() / level - 5.3) < 5 * 0.00145
    assert len(np.unique(found)) == 2


def test_no_value_is_rounded_past_the_last_level() -> None:
    values = np.random.default_rng(1).normal(size=10_000).astype(np.float32)
    levels, scales = pack_levels([values], 1, generator(1, "rounding"))  # each is the largest of its own block
    assert np.abs(levels.astype(int)).max() <= 127
    found = unpack_levels(levels, scales, [values.size], 1)
    np.testing.assert_allclose(found, values, rtol=1 / 126)


# ---------------------------------------------------------------- places


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_places_arrive(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 5000))
    places = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=400))), np.int64)
    packed = pack_places(places, size)
    assert size_bytes(packed) <= -(-size // 8)
    np.testing.assert_array_equal(unpack_places(packed, places.size, size), places)


def test_the_largest_are_taken_and_of_equal_ones_the_first() -> None:
    assert largest(np.array([0, -3, 1, 3, 3, 0, 2]), 3).tolist() == [1, 3, 4]
    assert largest(np.array([0, -3, 1, 3, 3, 0, 2]), 2).tolist() == [1, 3]
    assert largest(np.array([0, 0, 5, 0]), 3).tolist() == [2]  # zeros say nothing


# ---------------------------------------------------------------- what comes from outside


@cache
def packed_once(codec: Codec) -> Arrays:
    return codec.encode(difference(), {}, 1)[0]


@st.composite
def hostile(draw: st.DrawFn, codec: Codec) -> Arrays:
    """What the codec makes, and then something done to it; or anything at all."""
    honest = dict(packed_once(codec))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*honest, "other"]))
        what = draw(st.sampled_from(["drop", "any", "bits", "longer", "shorter", "dtype", "shape"]))
        array = honest.get(name, np.zeros(3, np.int8))
        if what == "drop":
            honest.pop(name, None)
        elif what == "any":
            kind = draw(arrays_of.scalar_dtypes())
            honest[name] = draw(
                arrays_of.arrays(kind, draw(arrays_of.array_shapes(min_dims=0, max_dims=3, max_side=5)))
            )
        elif what == "bits" and array.size:
            raw = bytearray(array.tobytes())
            for _ in range(draw(st.integers(1, 4))):
                raw[draw(st.integers(0, len(raw) - 1))] = draw(st.sampled_from([0, 1, 127, 128, 254, 255]))
            honest[name] = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
        elif what == "longer":
            honest[name] = np.concatenate(
                [np.ravel(array), np.ravel(array), np.ones(draw(st.integers(0, 9)), array.dtype)]
            )
        elif what == "shorter":
            honest[name] = np.ravel(array)[: draw(st.integers(0, max(array.size - 1, 0)))]
        elif what == "dtype" and array.dtype.kind in "biuf":
            with np.errstate(invalid="ignore"):
                honest[name] = array.astype(draw(st.sampled_from([np.uint8, np.int64, np.float64, np.float32])))
        else:
            honest[name] = array.reshape(1, *array.shape)
    return honest


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("codec", [codec for codec in every_codec() if codec.id != "float32"])
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_whatever_comes_is_decoded_to_the_models_form_or_refused(codec: Codec, data: st.DataObject) -> None:
    came, like = data.draw(hostile(codec)), MODEL
    for array in came.values():
        array.setflags(write=False)
    try:
        decoded = codec.decode(came, like)
    except UpdateError:
        return
    assert manifest(decoded) == manifest(like)
    assert all(np.isfinite(array).all() for array in decoded.values())


@pytest.mark.parametrize("codec", [Float16(), Int8(), TopK(), TopK(values="float16"), TopK(share=0.03)], ids=str)
def test_far_too_many_bytes_are_refused_before_anything_is_made_of_them(codec: Codec) -> None:
    values = {"w": np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)}
    honest = codec.encode(values, {}, 1)[0]
    for name, array in honest.items():
        came = {**honest, name: np.ones(20_000_000, array.dtype)}
        tracemalloc.start()
        with pytest.raises(UpdateError, match="FR-R11"):
            codec.decode(came, values)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * size_bytes(values), name


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (-1, 255, "the last gap has no end"),
        (3, 254, "50 places for 50 values; as many, below 1000"),  # 3 · 255 + 254 is the first place, and 49 follow
        (10, 255, "49 places for 50 values"),  # one gap is taken for the beginning of the next
    ],
)
def test_a_gap_that_never_ends_and_places_out_of_range_are_refused(place: int, value: int, said: str) -> None:
    codec, values = TopK(share=0.05), {"w": np.arange(1, 1001, dtype=np.float32).reshape(10, 100)}
    honest = codec.encode(values, {}, 1)[0]
    # the largest 50 stand at 950 … 999, and 950 is 3 · 255 + 185
    assert honest["gaps"].tolist() == [255, 255, 255, 185, *[0] * 49]
    changed = honest["gaps"].copy()
    changed[place] = value
    with pytest.raises(UpdateError, match=f"FR-R11 {said}"):
        codec.decode({**honest, "gaps": changed}, values)
