"""Whatever a peer sends: one of our messages, or an UpdateError, and no memory that the sender did not pay for."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fedrounds_common.arrays import Arrays
from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import (
    Ask,
    Hello,
    Leaving,
    Refusal,
    Scores,
    Statistics,
    Update,
    check_update,
    from_wire,
    scalars_of,
    to_wire,
)
from fedrounds_common.wire import from_record, parts_of, record_of, to_record

# Every kind survives the trip, whatever it holds.

words = st.text(max_size=12)
sites = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
runs = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}|", fullmatch=True)
nonces = st.text("0123456789abcdef", max_size=64)
codes, references = st.from_regex(r"FR-[A-Z][0-9]{2}", fullmatch=True), st.text("0123456789abcdef", max_size=20)
purposes = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}|", fullmatch=True)
counts = st.integers(0, 10**6)
floats = st.floats(allow_nan=False, allow_infinity=False)
tensor = arrays_of.arrays(
    st.sampled_from([np.dtype("<f4"), np.dtype("<i8"), np.dtype("|u1")]), arrays_of.array_shapes(min_dims=0, max_side=4)
)
tensors = st.dictionaries(words, tensor, max_size=4)
tallies = st.dictionaries(
    words, arrays_of.arrays(np.float64, arrays_of.array_shapes(max_dims=2, max_side=3)), max_size=3
)
asks = st.builds(
    Ask,
    st.sampled_from(["hello", "train", "score", "statistics"]),
    runs,
    counts,
    nonces,
    words,
    words,
    words,
    words,
    words,
    tensors,
    tensors,
    purposes,
)
leavings = st.one_of(
    st.builds(
        Hello, sites, st.dictionaries(words, words, max_size=3), counts, counts, counts, counts,
        st.dictionaries(words, counts, max_size=3), runs, nonces, words,
    ),
    st.builds(Update, sites, runs, counts, nonces, words, counts, counts, floats, floats, words, tensors),
    st.builds(Scores, sites, runs, counts, nonces, words, words, counts, tallies, words),
    st.builds(Statistics, sites, runs, counts, nonces, words, purposes, counts, tallies),
    st.builds(Refusal, sites, runs, counts, nonces, codes, references, st.booleans()),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(message=st.one_of(asks, leavings))
def test_every_kind_of_message_comes_back_bit_for_bit(message: Ask | Leaving) -> None:
    header, buffer = to_wire(message)
    again = from_wire(header, buffer)
    # what is written of a message is all of it, so two messages that are written alike are alike
    assert type(again) is type(message)
    assert to_wire(again) == (header, buffer)


@settings(max_examples=40, deadline=None)
@given(message=leavings)
def test_the_scalars_of_a_message_hold_no_array(message: Leaving) -> None:
    scalars = scalars_of(message)
    assert "arrays" not in scalars
    assert "tally" not in scalars
    assert json.loads(json.dumps(scalars)) == scalars


# A message that came damaged, or was never one of ours.

MODEL: Arrays = {"conv.weight": np.ones((2, 3), np.float32), "conv.bias": np.zeros(2, np.float32), "count": np.array(4)}
UPDATE = Update("a", "run", 3, "nonce", "digest", 12, 5, 0.25, 1.5, "float32", MODEL)
HEADER, BUFFER = to_wire(UPDATE)


def says(**changed: Any) -> str:
    return json.dumps({**json.loads(HEADER), **changed})


def refused_or_ours(header: str, buffer: bytes) -> bool:
    """Whether it is refused; anything else than an UpdateError passes through and fails the test."""
    try:
        message = from_wire(header, buffer)
    except UpdateError as error:
        return error.code == "FR-R10"
    assert isinstance(message, Ask | Hello | Update | Scores | Statistics | Refusal)
    return False


ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**40, 1.5, 1e308, float("inf"), float("nan"), "", "x", "7", "\x00", [], [[]],
    {}, {"a": 1}, [1, 2], ["w", "<f4", [1]], [["w", "<f4", [1]]],
]  # fmt: skip


@pytest.mark.parametrize("field", sorted(json.loads(HEADER)))
def test_an_odd_value_in_any_field_is_refused_or_taken_for_what_it_is(field: str) -> None:
    for odd in ODD:
        refused_or_ours(says(**{field: odd}), BUFFER)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_odd_value_in_any_place_of_a_manifest_is_refused_or_taken_for_what_it_is(place: int) -> None:
    for odd in [
        *ODD,
        "|O",
        "O",
        "<f4,<f4",
        "(2,3)<f4",
        "|S0",
        "|V0",
        "|V8",
        "<M8[s]",
        "<U4",
        "float",
        [-1],
        [2**62, 4],
    ]:
        entries = [list(entry) for entry in json.loads(HEADER)["arrays"]]
        entries[0][place] = odd
        refused_or_ours(says(arrays=entries), BUFFER)


def test_three_hundred_mutants_of_a_message_raise_nothing_but_an_update_error() -> None:
    draws = np.random.default_rng(5)
    refused = 0
    for _ in range(300):
        header, buffer = bytearray(HEADER.encode()), bytearray(BUFFER)
        for part in (header, buffer):
            for _ in range(int(draws.integers(0, 4))):
                where = int(draws.integers(len(part)))
                match int(draws.integers(3)):
                    case 0:
                        part[where] = int(draws.integers(256))
                    case 1:
                        del part[where:]
                        part.extend(b"}")
                    case _:
                        part[where:where] = part[: int(draws.integers(9))]
        refused += refused_or_ours(header.decode("utf-8", "replace"), bytes(buffer))
    assert refused > 150  # the rest changed a value and not the form: the guard's part


@pytest.mark.parametrize(
    "header",
    [
        "[" * 200_000,
        '{"format":' * 200_000,
        "{" + '"format": 1, "type": "update", ' * 3 + "}",
        says(arrays=[["w", "<f4", [1e400]]]).replace("Infinity", "1e400"),
        says(arrays=[["w", "<f4", [10**40]]]),
        says(arrays=[["w", "<f4", [2**32, 2**32]]]),
        says(arrays=[["w", "<f4", [2**63 - 1, 2]]]),
        says(arrays=[["w", "<f4", [1] * 100]]),
        says(arrays=[["w", "<f4", "123"]]),
        says(arrays="w"),
        says(round="9" * 5000).replace('"' + "9" * 5000 + '"', "9" * 5000),
        "\ud800",
    ],
    ids=range(12),
)
def test_a_header_made_to_break_the_reader_is_refused(header: str) -> None:
    assert refused_or_ours(header, BUFFER)


def test_a_declared_size_costs_nothing_before_its_bytes_are_there() -> None:
    # 10^12 float32 elements are 4 TB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for shape in ([10**12], [10**6, 10**6], [1, 10**12, 1]):
        assert refused_or_ours(says(arrays=[["w", "<f4", shape]]), BUFFER)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 100 * 1024


def test_a_pickle_or_another_file_is_no_message() -> None:
    for text in ("\x80\x04\x95", "PK\x03\x04", "\x93NUMPY\x01\x00v\x00", HEADER[:-40], HEADER + "x"):
        assert refused_or_ours(text, BUFFER)


WRONG_TYPES: list[tuple[type[Any], Leaving, dict[str, Any]]] = [
    (Hello, Hello("a", {"torch": "2"}, 10, 2, 0, 50, {}), {"training_cases": "12", "steps": None, "versions": [], "left_out": 3}),
    (Hello, Hello("a", {"torch": "2"}, 10, 2, 0, 50, {}), {"site": ["a"], "left_out": {"FR-D01": "many"}, "held_out_cases": 1.5}),
    (Update, UPDATE, {"site": 7, "steps": "5", "cases": True, "seconds": "long", "round": "3", "nonce": None, "codec": {}}),
    (Scores, Scores("a", "r", 1, "n", "consensus", "local-val", 3, {}), {"cases": "3", "model": 1}),
    (Statistics, Statistics("a", "r", 1, "n", "s", "classes", 3, {}), {"cases": "3", "purpose": "../classes", "study": 1}),
    (Refusal, Refusal("a", "r", 1, "n", "FR-D12", "0123"), {"code": 5, "reference": [], "refused": "yes"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "message", "changed"), WRONG_TYPES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_scalar_of_another_type_is_refused_by_the_reader(
    kind: type[Any], message: Leaving, changed: dict[str, Any]
) -> None:
    header, buffer = to_wire(message)
    assert isinstance(from_wire(header, buffer), kind)
    for name, odd in changed.items():
        assert refused_or_ours(json.dumps({**json.loads(header), name: odd}), buffer), f"{name} = {odd!r} came through"


@pytest.mark.parametrize("name", ["", "../../root", "a/b", ".hidden", "a\x00", "a b", "x" * 65, "DOE^JANE"])
def test_no_site_is_called_what_cannot_be_a_file_of_its_name(name: str) -> None:
    assert refused_or_ours(says(site=name), BUFFER)


@pytest.mark.parametrize("changed", [{"code": "FR-D12 DOE^JANE"}, {"code": "/pacs"}, {"reference": "DOE^JANE 1961"}])
def test_a_refusal_says_a_code_and_a_reference_and_no_text(changed: dict[str, str]) -> None:
    header, buffer = to_wire(Refusal("a", "r", 1, "n", "FR-D12", "0123abcdef"))
    assert not refused_or_ours(header, buffer)
    assert refused_or_ours(json.dumps({**json.loads(header), **changed}), buffer)


def test_nothing_but_the_three_requests_is_asked() -> None:
    header, buffer = to_wire(Ask("train", "r", 1, "n", "study", "digest"))
    assert not refused_or_ours(header, buffer)
    assert refused_or_ours(json.dumps({**json.loads(header), "kind": "fetch"}), buffer)


@pytest.mark.parametrize("name", ["training_cases", "validation_cases", "held_out_cases", "steps"])
def test_no_site_brings_fewer_than_no_cases(name: str) -> None:
    header, buffer = to_wire(Hello("a", {}, 10, 2, 0, 50, {}))
    assert refused_or_ours(json.dumps({**json.loads(header), name: -1}), buffer)


# Flower's envelope around it.


def test_a_message_survives_flowers_record() -> None:
    again = from_record(to_record(UPDATE))
    assert to_wire(again) == (HEADER, BUFFER)
    assert parts_of(record_of(HEADER, BUFFER)) == (HEADER, BUFFER)


FLAT = Array(dtype="uint8", shape=(3,), stype="fedrounds.flat", data=b"abc")


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"fedrounds": ConfigRecord({"header": HEADER})}),
        RecordDict({"arrays": ArrayRecord({"flat": FLAT})}),
        RecordDict({"fedrounds": MetricRecord({"header": 1.0}), "arrays": ArrayRecord({"flat": FLAT})}),
        RecordDict({"fedrounds": ConfigRecord({"header": 5}), "arrays": ArrayRecord({"flat": FLAT})}),
        RecordDict({"fedrounds": ConfigRecord({"other": HEADER}), "arrays": ArrayRecord({"flat": FLAT})}),
        RecordDict({"fedrounds": ConfigRecord({"header": HEADER}), "arrays": ArrayRecord({"other": FLAT})}),
        RecordDict({"fedrounds": ConfigRecord({"header": HEADER}), "arrays": ConfigRecord({"flat": "abc"})}),
    ],
    ids=range(8),
)
def test_a_record_that_is_not_ours_is_refused(record: RecordDict) -> None:
    with pytest.raises(UpdateError, match="FR-R10"):
        parts_of(record)


# What must never be averaged: the same list at the site and at the coordinator.


def with_tensor(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Update:
    return replace(UPDATE, arrays={key: change(a) if key == name else a for key, a in MODEL.items()})


def one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def put(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[-1] = value
        return array

    return put


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("name", ["conv.weight", "conv.bias"])
def test_one_value_that_is_not_finite_is_refused_and_its_tensor_named(name: str, value: float) -> None:
    with pytest.raises(UpdateError, match=f"FR-R12 {name} has 1 values that are not finite"):
        check_update(with_tensor(name, one(value)), MODEL, 10.0)


OTHER_SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "(1,)": lambda a: a.reshape(-1)[:1],  # NumPy would broadcast it over the whole tensor
    "0-d": lambda a: a.reshape(-1)[0],
    "bigger": lambda a: np.concatenate([a, a]),
    "transposed": lambda a: a.T,
    "one axis more": lambda a: a[np.newaxis],
    "flat": lambda a: a.reshape(-1),
    "empty": lambda a: a[:0],
}


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_another_shape_is_refused_and_its_tensor_named(shape: str) -> None:
    update = with_tensor("conv.weight", lambda a: np.asarray(OTHER_SHAPES[shape](a)))
    with pytest.raises(UpdateError, match=r"FR-R11 conv\.weight is float32 \(.*\), not float32 \(2, 3\)"):
        check_update(update, MODEL, 10.0)


@pytest.mark.parametrize("dtype", ["float64", "complex64", "float16", "int32", "uint8", "bool", "U8", "S8", ">f4"])
def test_another_dtype_is_refused_and_its_tensor_named(dtype: str) -> None:
    with pytest.raises(UpdateError, match=r"FR-R11 conv\.weight is .* not float32"):
        check_update(with_tensor("conv.weight", lambda a: a.astype(dtype)), MODEL, 10.0)


def test_a_counter_may_not_come_back_as_a_float() -> None:
    with pytest.raises(UpdateError, match=r"FR-R11 count is float64 \(\), not int64 \(\)"):
        check_update(with_tensor("count", lambda a: a.astype(np.float64)), MODEL, 10.0)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["conv.weight", "conv.bias"], r"1 tensors missing \['count'\], 0 unknown"),
        (["conv.weight", "conv.bias", "count", "extra"], r"0 tensors missing \[\], 1 unknown \['extra'\]"),
        (["conv.bias", "conv.weight", "count"], "another order"),
        ([], "3 tensors missing"),
    ],
)
def test_missing_extra_and_reordered_tensors_are_refused(names: list[str], found: str) -> None:
    arrays = {name: MODEL.get(name, np.zeros(1, np.float32)) for name in names}
    with pytest.raises(UpdateError, match=f"FR-R11 .*{found}"):
        check_update(replace(UPDATE, arrays=arrays), MODEL, 10.0)


@pytest.mark.parametrize("cases", [0, -9, float("nan"), 1e12, 10**12, True, "12", None, [12], 1.0], ids=repr)
def test_an_impossible_number_of_cases_is_refused(cases: Any) -> None:
    with pytest.raises(UpdateError, match="FR-R14 cases = "):
        check_update(replace(UPDATE, cases=cases), MODEL, 10.0)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), "0.1", None, 1j], ids=repr)
def test_an_impossible_loss_is_refused(loss: Any) -> None:
    with pytest.raises(UpdateError, match="FR-R15 loss = "):
        check_update(replace(UPDATE, loss=loss), MODEL, 10.0)


def test_a_scaled_up_update_is_refused_by_its_norm_over_float_tensors_alone() -> None:
    # six ones: norm sqrt(6) = 2.449; the counter 4 is no weight
    check_update(UPDATE, MODEL, 2.45)
    with pytest.raises(UpdateError, match=r"FR-R13 the update's norm is 2449; at most 2\.45"):
        check_update(with_tensor("conv.weight", lambda a: a * np.float32(1e3)), MODEL, 2.45)


def test_a_norm_that_float32_cannot_hold_is_still_a_number() -> None:
    # (3e38)^2 overflows float32; in float64 it is 9e76
    with pytest.raises(UpdateError, match=r"FR-R13 the update's norm is 7\.3.*e\+38"):
        check_update(with_tensor("conv.weight", lambda a: a * np.float32(3e38)), MODEL, 1e4)
