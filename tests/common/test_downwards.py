"""The consensus on its way down: both ends come to the same bits, whatever a site holds, and nothing adds up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrounds_common.arrays import Array, Arrays, digest, manifest
from fedrounds_common.codec import Codec
from fedrounds_common.codec_parts import to_halves
from fedrounds_common.codecs.float16 import Float16
from fedrounds_common.codecs.int8 import Int8
from fedrounds_common.codecs.top_k import TopK
from fedrounds_common.downwards import pack_down, pack_half, unpack_down

DIFFERENCES = [Int8(), TopK(), TopK(share=0.05)]


def consensus(round_: int = 0) -> dict[str, Array]:
    draws = np.random.default_rng(round_)
    return {
        "weight": draws.normal(0, 0.1, (24, 8, 3, 3)).astype(np.float32),
        "bias": draws.normal(0, 1e-4, 24).astype(np.float32),
        "double": draws.normal(0, 3, (5, 7)),
        "seen": np.array(7 * round_, np.int64),
        "marks": np.arange(4, dtype=np.uint8) + np.uint8(round_ % 200),
    }


def moved(arrays: Arrays, round_: int, by: float) -> dict[str, Array]:
    step = consensus(1000 + round_)
    return {
        name: np.asarray(array + by * step[name], array.dtype)
        if array.dtype.kind == "f"
        else array + array.dtype.type(3)
        for name, array in arrays.items()
    }


@pytest.mark.parametrize("codec", [Float16(), *DIFFERENCES], ids=str)
def test_a_site_that_takes_part_in_every_round_holds_what_the_coordinator_thinks(codec: Codec) -> None:
    arrays, held, there = consensus(), None, None
    for round_ in range(8):
        form, coded, held = pack_down(codec, arrays, held if codec.differences else None, round_)
        there = unpack_down(form, codec, coded, there, arrays)
        assert digest(there) == digest(held)
        assert manifest(there) == manifest(arrays)
        np.testing.assert_array_equal(there["seen"], arrays["seen"])
        np.testing.assert_array_equal(there["marks"], arrays["marks"])
        arrays = moved(arrays, round_, 0.1)


@pytest.mark.parametrize("codec", DIFFERENCES, ids=str)
def test_who_missed_rounds_is_brought_to_the_same_bits_by_half_a_model(codec: Codec) -> None:
    arrays, held = consensus(), None
    for round_ in range(6):
        _, _, held = pack_down(codec, arrays, held, round_)
        whole = pack_half(held)
        assert whole is not None
        assert digest(unpack_down("half", codec, whole, None, arrays)) == digest(held)
        arrays = moved(arrays, round_, 0.1)


@pytest.mark.parametrize(("codec", "rounds"), [(Int8(), 4), (TopK(share=0.3), 25)], ids=str)
def test_what_a_round_leaves_out_comes_with_the_next(codec: Codec, rounds: int) -> None:
    # the consensus stands still: each difference is of what was left of the last, down to what float16 can hold
    arrays, held = consensus(), None
    for round_ in range(rounds):
        _, _, held = pack_down(codec, arrays, held, round_)
    assert held is not None
    for name in ("weight", "bias", "double"):
        error = np.abs(held[name] - arrays[name])
        assert (error <= 2.0**-10 * np.abs(arrays[name]) + 1e-5 * np.abs(arrays[name]).max()).all(), name


def test_whoever_holds_nothing_is_sent_a_whole_model_first() -> None:
    form, coded, held = pack_down(TopK(share=0.01), consensus(), None, 1)
    assert form == "opening"
    assert set(coded) >= {"levels", "scales"}  # of all weights, and not of one in a hundred
    assert np.abs(held["weight"] - consensus()["weight"]).max() < 0.01


@given(
    st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
        min_size=1,
        max_size=9,
    )
)
@settings(max_examples=300, deadline=None)
def test_what_was_rounded_once_is_rounded_to_itself(values: list[float]) -> None:
    once = to_halves({"w": np.array(values, np.float32)})
    assert digest(to_halves(once)) == digest(once)
    coded = pack_half(once)
    assert coded is not None
    assert digest(unpack_down("half", Int8(), coded, None, once)) == digest(once)


def test_a_largest_value_that_is_rounded_up_to_a_power_of_two_is_packed_by_that_one() -> None:
    # 2047.9 of 2^11 is nearer to 2^11 than to 2047: then 2^-25 of it, which the first scale still held, is dropped
    once = to_halves({"w": np.array([2047.9, 2.0**-28 * 1.5], np.float32)})
    assert once["w"][0] == 2048
    assert digest(to_halves(once)) == digest(once)
