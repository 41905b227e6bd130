"""What leaves arrives as it was, and a message that is not one of ours is refused before any of it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fedrounds_common.arrays import Arrays
from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import Ask, Hello, Leaving, Refusal, Scores, Statistics, Update, from_wire, to_wire

ARRAYS: Arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(5, np.int64), "e": np.zeros((0, 2))}
UPDATE = Update("a", "run", 3, "nonce", "digest", 12, 5, 0.25, 1.5, "float32", ARRAYS)
MESSAGES: list[Ask | Leaving] = [
    Ask("train", "run", 3, "nonce", "study", "digest", arrays=ARRAYS, shared={"w": np.ones(2, np.float32)}),
    Hello("a", {"fedrounds": "0.1.0"}, 10, 2, 0, 50, {"FR-D20": 1}),
    UPDATE,
    Scores("a", "run", 3, "nonce", "consensus", "held-out", 4, {"sum": np.ones((2, 5)), "count": np.zeros(3)}),
    Ask("statistics", "run", 0, "nonce", "study", "digest", arrays=ARRAYS, purpose="classes"),
    Statistics("a", "run", 0, "nonce", "digest", "classes", 4, {"sum": np.ones((2, 5)), "count": np.zeros(3)}),
    Refusal("a", "run", 3, "nonce", "FR-P02", "ref", refused=True),
]


def plain(message: object) -> dict[str, Any]:
    """Its fields, with arrays as nested lists beside their dtype."""
    return {
        name: {key: (str(array.dtype), array.tolist()) for key, array in value.items()}
        if isinstance(value, Mapping) and any(isinstance(each, np.ndarray) for each in value.values())
        else value
        for name, value in vars(message).items()
    }


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_left(message: Ask | Leaving) -> None:
    arrived = from_wire(*to_wire(message))
    assert type(arrived) is type(message)
    assert plain(arrived) == plain(message)


def test_the_header_is_readable_and_the_buffer_holds_nothing_but_the_arrays() -> None:
    header, buffer = to_wire(UPDATE)
    told = json.loads(header)
    assert (told["format"], told["type"], told["site"], told["cases"]) == (1, "update", "a", 12)
    assert told["arrays"][0] == ["w", "<f4", [2, 3]]
    # 6 float32, 1 int64, nothing
    assert len(buffer) == 6 * 4 + 8
    assert header == json.dumps(told, sort_keys=True)


def test_two_groups_of_arrays_may_use_one_name() -> None:
    ask = MESSAGES[0]
    arrived = from_wire(*to_wire(ask))
    assert isinstance(arrived, Ask)
    np.testing.assert_array_equal(arrived.shared["w"], [1, 1])
    np.testing.assert_array_equal(arrived.arrays["w"], ARRAYS["w"])


def test_arrays_that_arrived_cannot_be_changed() -> None:
    arrived = from_wire(*to_wire(UPDATE))
    assert isinstance(arrived, Update)
    with pytest.raises(ValueError, match="read-only"):
        arrived.arrays["w"][0, 0] = 1


def spoilt(**changed: Any) -> str:
    return json.dumps({**json.loads(to_wire(UPDATE)[0]), **changed})


def without(name: str) -> str:
    told = json.loads(to_wire(UPDATE)[0])
    del told[name]
    return json.dumps(told)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "null",
        '"update"',
        spoilt(format=2),
        spoilt(type="share"),
        without("format"),
        without("type"),
        without("nonce"),
        without("arrays"),
        spoilt(arrays=None),
        spoilt(arrays=[["w", "<f4"]]),
        spoilt(arrays=[["w", "|O", [4]]]),
        spoilt(arrays=[["w", "no such dtype", [8]]]),
        spoilt(arrays=[["w", "<f4", [-8]]]),
        spoilt(arrays=[["w", "<f4", [2, -4]]]),
        spoilt(arrays=[["w", "<f4", [4]], ["w", "<f4", [4]]]),
        spoilt(arrays=[["w", "<f4", [7]]]),
        spoilt(arrays=[["w", "<f4", [9]]]),
    ],
)
def test_a_message_that_is_not_ours_is_refused(header: str) -> None:
    buffer = to_wire(UPDATE)[1]
    with pytest.raises(UpdateError, match=r"FR-R10 a message that cannot be read .*; one of leaving.py"):
        from_wire(header, buffer)


@pytest.mark.parametrize("buffer", [b"", to_wire(UPDATE)[1][:-1], to_wire(UPDATE)[1] + b"\0"])
def test_a_buffer_of_another_length_is_refused(buffer: bytes) -> None:
    with pytest.raises(UpdateError, match="FR-R10"):
        from_wire(to_wire(UPDATE)[0], buffer)
