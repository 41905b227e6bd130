"""Arrays in one buffer: nothing is copied that need not be, and no manifest makes us read or allocate what is not there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrounds_common.arrays import BLOCK, Arrays, digest, manifest, norm, pack, packed, size_bytes, unpack
from fedrounds_common.flat import Entry, Flat, layout_of
from fedrounds_common.leaving import Update, from_wire, to_wire

ARRAYS: Arrays = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(2, np.float32),
    "n": np.array(5, np.int64),
    "none": np.zeros((0, 4), np.float32),
    "last": np.array(-2.0, np.float32),
}


def test_what_is_unpacked_is_what_was_packed() -> None:
    found = unpack(pack(ARRAYS), manifest(ARRAYS))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert not found[name].flags.writeable
    assert digest(found) == digest(ARRAYS)
    assert manifest(found) == manifest(ARRAYS)
    assert size_bytes(found) == size_bytes(ARRAYS) == 6 * 4 + 2 * 4 + 8 + 0 + 4


def test_what_was_unpacked_is_packed_without_a_copy() -> None:
    buffer = pack(ARRAYS)
    found = unpack(buffer, manifest(ARRAYS))
    assert pack(found) is buffer
    assert packed(found) is found
    assert np.shares_memory(found["w"], np.frombuffer(buffer, np.uint8))


def test_a_digest_is_worked_out_once_of_bytes_and_anew_of_what_can_be_written_into() -> None:
    fixed, open_ = packed(ARRAYS), unpack(bytearray(pack(ARRAYS)), manifest(ARRAYS))
    assert digest(fixed) == digest(fixed) == digest(open_) == digest(dict(ARRAYS))
    open_["w"][0, 0] = 7
    assert digest(open_) == digest({**ARRAYS, "w": np.float32([[7, 1, 2], [3, 4, 5]])})
    assert digest(open_) != digest(fixed)


def test_an_update_goes_through_a_message_with_one_copy() -> None:
    update = Update("a", "r", 1, "n", "d", 3, 1, 0.1, 0.1, "float32", ARRAYS)
    header, buffer = to_wire(update)
    arrived = from_wire(header, buffer)
    assert isinstance(arrived, Update)
    assert isinstance(arrived.arrays, Flat)
    assert arrived.arrays.buffer is buffer
    assert to_wire(arrived)[1] is buffer


def test_neighbours_of_one_dtype_are_one_run() -> None:
    runs = layout_of(tuple(manifest(ARRAYS))).runs
    assert [(run.dtype.str, run.start, run.count, run.first) for run in runs] == [
        ("<f4", 0, 8, 0), ("<i8", 32, 1, 8), ("<f4", 40, 1, 9),
    ]  # fmt: skip
    flat = packed(ARRAYS)
    np.testing.assert_array_equal(flat.read(runs[0], 5), [5, 1, 1])
    np.testing.assert_array_equal(flat.read(runs[0], 1, 2), [1, 2])


@pytest.mark.parametrize(
    "entry",
    [
        ("w", "O", (2,)), ("w", "V0", (2,)), ("w", "(2,)f4", (2,)), ("w", "<f4", (-1,)), ("w", "<f4", (2**62, 4, 0)),
        ("w", "<f4", (1,) * 40), ("w", "nonsense", (1,)), ("w", "<f4", (2**40,)), ("w", "(2,", (1,)), ("w", ",", (1,)),
    ],
)  # fmt: skip
def test_an_entry_that_is_no_array_of_ours_is_refused_before_anything_is_made_of_it(entry: Entry) -> None:
    with pytest.raises((ValueError, TypeError)):
        unpack(b"\0" * 8, [entry])


def test_a_buffer_too_short_or_too_long_and_one_name_twice_are_refused() -> None:
    for buffer in (pack(ARRAYS)[:-1], pack(ARRAYS) + b"\0"):
        with pytest.raises(ValueError, match=r"\d+ bytes, where the manifest describes 44"):
            unpack(buffer, manifest(ARRAYS))
    with pytest.raises(ValueError, match="one name twice"):
        unpack(b"\0" * 8, [("w", "<f4", (1,)), ("w", "<f4", (1,))])


def pieces(draws: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    for number in range(int(draws.integers(1, 6))):
        shape = tuple(int(n) for n in draws.integers(0, 4, size=int(draws.integers(0, 4))))
        kind = draws.choice(["<f4", "<f8", "<i8", "<f2"])
        yield f"t{number}", draws.normal(0, 9, shape).astype(kind)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_one_buffer_and_many_arrays_have_one_norm_and_one_digest(seed: int) -> None:
    arrays = dict(pieces(np.random.default_rng(seed)))
    flat = packed(arrays)
    assert digest(flat) == digest(arrays)
    wanted = np.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in arrays.values() if a.dtype.kind == "f"))
    assert norm(flat) == pytest.approx(wanted, rel=1e-12)
    assert norm(arrays) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 6])
def test_one_value_that_is_not_finite_shows_in_the_norm_wherever_it_stands(bad: float, where: int) -> None:
    array = np.ones(2 * BLOCK + 7, np.float32)
    # (2 * 131072 + 7) ones
    assert norm({"w": array}) == pytest.approx(np.sqrt(2 * BLOCK + 7), rel=1e-15)
    array[where] = bad
    assert not np.isfinite(norm({"w": array}))
    assert not np.isfinite(norm(packed({"w": array})))
