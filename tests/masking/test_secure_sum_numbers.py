"""The arithmetic: fixed point, secret sharing, masks and the graph, over anything they may be given."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrounds_common.arrays import packed
from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.errors import UpdateError
from fedrounds_common.masking.field import Field
from fedrounds_common.masking.graph import graph_of, is_connected, needed
from fedrounds_common.masking.masks import add_masks, key_of
from fedrounds_common.masking.shares import PRIME, join, split
from fedrounds_common.masking.site import mask_keys

QUICK = settings(max_examples=60, deadline=None)
FIELDS = st.builds(
    Field,
    sites=st.integers(2, 300), weight=st.sampled_from([1.0, 70.7, 5000.0]),
    limit=st.sampled_from([0.5, 8.0, 64.0, 1000.0]), precision=st.integers(16, 30),
).filter(lambda field: field.width <= 8)  # fmt: skip


@QUICK
@given(field=FIELDS, seed=st.integers(0, 2**32), sites=st.integers(2, 12))
def test_a_sum_of_any_updates_is_within_its_rounding_of_the_exact_one(field: Field, seed: int, sites: int) -> None:
    draw = np.random.default_rng(seed)
    sites = min(sites, field.sites)
    updates = [
        packed({
            "w": draw.uniform(-field.limit, field.limit, (3, 2)).astype(np.float32),
            "n": draw.integers(-5, 5, 2),
        })
        for _ in range(sites)
    ]  # fmt: skip
    weights = [float(draw.integers(1, int(field.weight) + 1)) for _ in range(sites)]
    total = np.zeros(1 + 8, np.uint64)
    for update, weight in zip(updates, weights, strict=True):
        field.add_packed(total, field.packed(field.numbers(update, weight)))
    signed, layout = field.signed(total), updates[0].layout
    assert field.weights(signed) == sum(weights)
    # each site rounds once, by at most half a step
    exact = sum(weight * update["w"].astype(float) for update, weight in zip(updates, weights, strict=True)).ravel()
    assert np.abs(field.values(signed, layout, "w", 0, 6) - exact).max() <= sites * field.step / 2 * (1 + 1e-9)
    whole = sum(weight * update["n"] for update, weight in zip(updates, weights, strict=True))
    np.testing.assert_array_equal(field.values(signed, layout, "n", 0, 2), whole)


@QUICK
@given(field=FIELDS, sign=st.sampled_from([1, -1]))
def test_the_largest_sum_that_a_study_allows_has_room(field: Field, sign: int) -> None:
    limit = float(np.nextafter(np.float32(field.limit), np.float32(0)))
    numbers = field.numbers({"w": np.full(1, sign * limit, np.float32)}, field.weight)
    total = np.zeros(2, np.uint64)
    for _ in range(field.sites):
        field.add_packed(total, field.packed(numbers))
    exact = field.sites * field.weight * sign * limit
    assert math.isclose(field.signed(total)[1] * field.step, exact, rel_tol=1e-6, abs_tol=field.sites * field.step)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 64.5, -1e9])
def test_what_the_field_has_no_room_for_is_refused_and_not_cut_off(value: float) -> None:
    field = SecureSum().numbers
    with pytest.raises(UpdateError, match="FR-R80"):
        field.numbers({"w": np.array([0, value], np.float32)}, 1.0)
    with pytest.raises(UpdateError, match="FR-R80 a site that weighs 5001"):
        field.numbers({"w": np.zeros(1, np.float32)}, 5001.0)


def test_a_counter_of_a_normalisation_layer_is_summed_exactly_though_it_is_above_the_limit() -> None:
    field = SecureSum().numbers
    numbers = field.numbers({"steps": np.array(100_000), "w": np.zeros(2, np.float32)}, 5000.0)
    total = field.signed(numbers)
    layout = packed({"steps": np.array(100_000), "w": np.zeros(2, np.float32)}).layout
    assert field.values(total, layout, "steps", 0, 1)[0] == 5000 * 100_000


def test_by_default_two_hundred_sites_of_five_thousand_cases_take_six_bytes_a_number() -> None:
    # 200 · 5000 · 64 · 2^21 is 2^46.9, and a sign
    assert (SecureSum().numbers.bits, SecureSum().numbers.width) == (48, 6)


@QUICK
@given(
    secret=st.binary(min_size=32, max_size=32), holders=st.sets(st.integers(1, 1000), min_size=1, max_size=12),
    data=st.data(),
)  # fmt: skip
def test_any_enough_shares_give_the_secret_back(secret: bytes, holders: set[int], data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, len(holders)))
    shares = split(secret, sorted(holders), threshold)
    chosen = data.draw(st.permutations(sorted(holders)))[: data.draw(st.integers(threshold, len(holders)))]
    assert join({holder: shares[holder] for holder in chosen}, threshold) == secret
    if threshold > 1:
        with pytest.raises(UpdateError, match="FR-R81"):
            join({holder: shares[holder] for holder in chosen[: threshold - 1]}, threshold)


@QUICK
@given(one=st.binary(min_size=32, max_size=32), other=st.binary(min_size=32, max_size=32))
def test_fewer_shares_fit_every_secret(one: bytes, other: bytes) -> None:
    # two shares of a secret that takes three: a third share exists with which they give any other secret
    assume(one != other)
    shares = split(one, [1, 2, 3], 3)
    y1, y2 = (int.from_bytes(shares[holder], "big") for holder in (1, 2))
    # a polynomial of degree 2 through (0, other), (1, y1), (2, y2): its value at 3 is other − 3·y1 + 3·y2
    third = (int.from_bytes(other, "big") - 3 * y1 + 3 * y2) % PRIME
    assert join({1: shares[1], 2: shares[2], 3: third.to_bytes(33, "big")}, 3) == other


def test_the_field_of_the_shares_is_a_prime_above_every_secret() -> None:
    assert PRIME > 2**256
    rest, twos = PRIME - 1, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    for base in range(2, 66):  # Miller and Rabin: a composite passes each of these with a chance below 1/4
        value = pow(base, rest, PRIME)
        passes = value in (1, PRIME - 1) or any((value := value * value % PRIME) == PRIME - 1 for _ in range(twos - 1))
        assert passes


@pytest.mark.parametrize(("secret", "holders", "threshold"), [(b"x", [1], 1), (bytes(32), [0, 1], 1), (bytes(32), [1, 1], 1), (bytes(32), [1], 2)])  # fmt: skip
def test_what_cannot_be_shared_is_refused(secret: bytes, holders: list[int], threshold: int) -> None:
    with pytest.raises(ValueError, match="holder"):
        split(secret, holders, threshold)


@QUICK
@given(count=st.integers(0, 200_000), keys=st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.sampled_from([1, -1])), max_size=3))  # fmt: skip
def test_masks_that_are_put_on_and_taken_off_leave_nothing(count: int, keys: list[tuple[bytes, int]]) -> None:
    vector = np.arange(count, dtype=np.uint64)
    add_masks(vector, keys)
    add_masks(vector, [(key, -sign) for key, sign in keys])
    np.testing.assert_array_equal(vector, np.arange(count))


def test_a_mask_is_the_key_stream_of_aes_256_in_counter_mode() -> None:
    # NIST SP 800-38A counts from another block; of an all-zero key the first block is AES-256 of the block of zeros
    vector = np.zeros(2, np.uint64)
    add_masks(vector, [(bytes(32), 1)])
    assert vector.tobytes().hex() == "dc95c078a2408989ad48a21492842087"


def test_keys_of_one_secret_differ_by_purpose_and_by_round() -> None:
    found = {key_of(b"s" * 32, purpose, session) for purpose in ("a", "b") for session in (b"1", b"2")}
    assert len(found) == 4


def test_one_masked_update_cannot_be_told_from_uniform_bytes(village) -> None:
    # an update that is nearly nothing but zeros, the worst case: every byte of what is sent is uniform all the same
    round_ = village(3, 50_000)
    for numbers in round_.numbers.values():
        numbers[:] = 0
    round_.keys()
    round_.shares()
    round_.mask()
    for sent in round_.masked.values():
        columns = sent.reshape(-1, round_.rules.field.width)
        for column in columns.T:
            assert stats.chisquare(np.bincount(column, minlength=256)).pvalue > 1e-6
        words = columns.astype(np.float64) @ 256.0 ** np.arange(columns.shape[1]) / 256.0 ** columns.shape[1]
        assert stats.kstest(words, "uniform").pvalue > 1e-6
        assert abs(np.corrcoef(words[:-1], words[1:])[0, 1]) < 5 / math.sqrt(len(words))
    one, two, three = (round_.masked[name].astype(float) for name in sorted(round_.masked))
    assert max(abs(np.corrcoef(a, b)[0, 1]) for a, b in ((one, two), (one, three), (two, three))) < 5 / math.sqrt(
        one.size
    )


def test_taking_off_the_masks_between_sites_leaves_each_under_its_own(village) -> None:
    # a coordinator that calls a site lost, and keeps its update, has those masks: the site's own hides it still
    round_ = village(3, 50_000)
    round_.numbers["s002"][:] = 0
    round_.keys()
    round_.shares()
    _, keys = mask_keys(round_.states["s002"], round_.rules, round_.coordinator.sealed_for("s002"))
    vector = np.zeros(50_000, np.uint64)
    add_masks(vector, keys)
    add_masks(vector, [(key, -sign) for key, sign in keys[1:]])
    assert stats.kstest(vector / 2.0**64, "uniform").pvalue > 1e-6


@QUICK
@given(sites=st.integers(2, 60), half=st.integers(0, 10), lot=st.binary(max_size=8))
def test_every_site_has_as_many_neighbours_and_is_theirs(sites: int, half: int, lot: bytes) -> None:
    names = [f"s{number}" for number in range(sites)]
    graph = graph_of(names, 2 * half, lot)
    wanted = 2 * half if 0 < 2 * half < sites - 1 else sites - 1
    assert {len(near) for near in graph.values()} == {wanted}
    assert all(name in graph[other] and name != other for name, near in graph.items() for other in near)
    assert is_connected(graph, names)
    assert graph == graph_of(names[::-1], 2 * half, lot)


def test_who_masks_with_whom_changes_with_the_rounds_keys() -> None:
    names = [f"s{number}" for number in range(40)]
    assert graph_of(names, 4, b"1") != graph_of(names, 4, b"2")


@pytest.mark.parametrize(("of", "share", "wanted"), [(3, 2 / 3, 3), (10, 2 / 3, 7), (71, 2 / 3, 48), (200, 2 / 3, 134), (3, 0.5, 2), (4, 0.5, 3)])  # fmt: skip
def test_more_than_the_share_is_needed(of: int, share: float, wanted: int) -> None:
    assert needed(of, share) == wanted
