"""Our safetensors files are the library's own, byte for byte; only the copies on the way are missing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from fedrounds_common.arrays import digest
from fedrounds_common.tensorfile import file_parts

KINDS = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


@settings(max_examples=80, deadline=None)
@given(
    tensors=st.dictionaries(
        st.text("abz.|_0é", min_size=1, max_size=6),
        st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 4), max_size=3)),
        max_size=8,
    ),
    says=st.text(max_size=40),
)
def test_a_file_is_the_librarys_byte_for_byte(tensors: dict[str, tuple[str, list[int]]], says: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, shape).astype(kind) for name, (kind, shape) in tensors.items()}
    mine = b"".join(file_parts(arrays, {"fedrounds": says}))
    assert mine == save(arrays, metadata={"fedrounds": says})
    assert digest(load(mine)) == digest(arrays)


def test_nothing_is_copied_of_an_array_in_c_order_and_one_that_is_not_is_put_in_it() -> None:
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    _, plain, turned = file_parts({"a": whole, "b": whole.T}, {})
    assert np.shares_memory(np.frombuffer(plain, np.float32), whole)
    np.testing.assert_array_equal(np.frombuffer(turned, np.float32), whole.T.ravel())


@pytest.mark.parametrize("odd", [np.zeros(2, np.complex64), np.zeros(2, ">f4"), np.array(["a"])])
def test_what_the_format_has_not_is_refused(odd: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"w is .*, which safetensors has not"):
        file_parts({"w": odd}, {})
