"""The guard: what is averaged is what was asked for, from whom it was asked, once, finite and bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrounds_common.arrays import Arrays
from fedrounds_common.codec import Codec
from fedrounds_common.codecs.float32 import Float32
from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import MAX_CASES, Ask, Hello, Refusal, Scores, Update, check_update
from fedrounds_server.guard import Guard, norms_of
from fedrounds_server.history import RoundLine, SiteLine

MODEL: Arrays = {"w": np.zeros((2, 2), np.float32), "n": np.array([7], np.int64)}
ASK = Ask("train", "run", 3, "nonce", "study", "d" * 64, arrays=MODEL)
SCORE = Ask("score", "run", 3, "nonce", "study", "d" * 64, model="pooled", cohort="local-val")


class Halves(Codec):
    """Travels as half of what it was: only a guard that decodes sees the real values."""

    def encode(self, arrays: Arrays, residual: Arrays, seed: int) -> tuple[Arrays, Arrays]:
        return {name: (array / 2).astype(array.dtype) for name, array in arrays.items()}, {}

    def decode(self, arrays: Arrays, like: Arrays) -> Arrays:
        return {name: (array * 2).astype(array.dtype) for name, array in arrays.items()}


def guard(max_norm: float = 10.0, codec: Codec | None = None, **agreed: int) -> Guard:
    return Guard(agreed or {"a": 20, "b": 20}, max_norm, codec or Float32())


def update(**changed: Any) -> Update:
    arrays = {"w": np.array([[1, 2], [2, 4]], np.float32), "n": np.array([1], np.int64)}  # norm 5
    good = Update("a", "run", 3, "nonce", "d" * 64, 12, 5, 0.25, 1.5, "float32", arrays)
    return replace(good, **changed)


def scores(**changed: Any) -> Scores:
    good = Scores("a", "run", 3, "nonce", "pooled", "local-val", 4, {"sum": np.ones(2)})
    return replace(good, **changed)


def with_w(value: float) -> Arrays:
    array = np.ones((2, 2), np.float32)
    array[1, 0] = value
    return {"w": array, "n": np.array([1], np.int64)}


def test_a_good_update_goes_through_as_it_is() -> None:
    admitted = guard().admit(update(), ASK, "a")
    assert (admitted.site, admitted.cases) == ("a", 12)
    np.testing.assert_array_equal(admitted.arrays["w"], [[1, 2], [2, 4]])
    np.testing.assert_array_equal(admitted.arrays["n"], [1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_enough(value: float) -> None:
    with pytest.raises(UpdateError, match="FR-R12 w has 1 values that are not finite; finite numbers"):
        guard().admit(update(arrays=with_w(value)), ASK, "a")


def test_the_norm_is_bounded_and_the_bound_itself_may_leave() -> None:
    assert guard(max_norm=5.0).admit(update(), ASK, "a").cases == 12
    with pytest.raises(UpdateError, match="FR-R13 the update's norm is 5; at most 4.9"):
        guard(max_norm=4.9).admit(update(), ASK, "a")


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"w": MODEL["w"]}, r"1 tensors missing \['n'\], 0 unknown \[\]"),
        ({**MODEL, "v": MODEL["w"]}, r"0 tensors missing \[\], 1 unknown \['v'\]"),
        ({"w": np.zeros((2, 3), np.float32), "n": MODEL["n"]}, r"w is float32 \(2, 3\), not float32 \(2, 2\)"),
        ({"w": np.zeros((2, 2), np.float64), "n": MODEL["n"]}, r"w is float64 \(2, 2\), not float32 \(2, 2\)"),
        ({"n": MODEL["n"], "w": MODEL["w"]}, "the tensors come in another order"),
    ],
)
def test_an_update_of_another_network_is_refused(arrays: Arrays, found: str) -> None:
    with pytest.raises(UpdateError, match=f"FR-R11 {found}; the model's own tensors"):
        guard().admit(update(arrays=arrays), ASK, "a")


@pytest.mark.parametrize("cases", [0, -1, True, 2.0, "12", MAX_CASES + 1])
def test_cases_must_be_a_believable_whole_number(cases: object) -> None:
    with pytest.raises(UpdateError, match=f"FR-R14 cases = {cases!r}; a whole number of 1 or more"):
        guard(a=10**9).admit(update(cases=cases), ASK, "a")


@pytest.mark.parametrize("cases", [1, MAX_CASES])
def test_the_ends_of_believable_are_believed(cases: int) -> None:
    check_update(update(cases=cases), MODEL, 10.0)


@pytest.mark.parametrize("loss", [np.nan, np.inf, "0.1", None])
def test_the_loss_must_be_a_finite_number(loss: object) -> None:
    with pytest.raises(UpdateError, match="FR-R15 loss = .*; a finite number"):
        guard().admit(update(loss=loss), ASK, "a")


@pytest.mark.parametrize("seconds", [np.nan, np.inf])
def test_so_must_the_seconds_it_took_or_the_history_would_be_no_json(seconds: float) -> None:
    with pytest.raises(UpdateError, match="FR-R15 seconds = .*; a finite number"):
        guard().admit(update(seconds=seconds), ASK, "a")


def test_a_site_counts_no_more_cases_than_it_agreed_to() -> None:
    assert guard(a=12).admit(update(), ASK, "a").cases == 12
    with pytest.raises(UpdateError, match="FR-R19 a claims 12 cases; at most the 11 it agreed to"):
        guard(a=11).admit(update(), ASK, "a")


def test_a_site_that_agreed_to_nothing_weighs_nothing() -> None:
    with pytest.raises(UpdateError, match="FR-R19 a claims 12 cases; at most the 0 it agreed to"):
        guard(b=20).admit(update(), ASK, "a")


def test_nobody_answers_in_anothers_name() -> None:
    with pytest.raises(UpdateError, match="FR-R17 b answered as 'a'; its own name"):
        guard().admit(update(), ASK, "b")


@pytest.mark.parametrize("changed", [{"run": "other"}, {"round": 2}, {"nonce": "old"}])
def test_an_answer_to_another_request_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(
        UpdateError, match=f"FR-R18 a answered another request .round {changed.get('round', 3)}.; round 3"
    ):
        guard().admit(update(**changed), ASK, "a")


def test_an_update_of_another_study_is_refused() -> None:
    with pytest.raises(UpdateError, match=f"FR-R16 a trained another study; {'d' * 12}$"):
        guard().admit(update(study="e" * 64), ASK, "a")


def test_the_same_answer_counts_once() -> None:
    watching = guard()
    watching.admit(update(), ASK, "a")
    with pytest.raises(UpdateError, match="FR-R18 a answered twice; one answer a round"):
        watching.admit(update(), ASK, "a")
    assert watching.admit(update(site="b"), ASK, "b").site == "b"
    asked_again = replace(ASK, nonce="later")
    assert watching.admit(update(nonce="later"), asked_again, "a").site == "a"
    next_round = replace(ASK, round=4)
    assert watching.admit(update(round=4), next_round, "a").site == "a"


def test_a_refused_update_does_not_use_up_the_sites_turn() -> None:
    watching = guard()
    with pytest.raises(UpdateError, match="FR-R12"):
        watching.admit(update(arrays=with_w(np.nan)), ASK, "a")
    assert watching.admit(update(), ASK, "a").cases == 12


def test_two_guards_do_not_share_what_they_saw() -> None:
    guard().admit(update(), ASK, "a")
    assert guard().admit(update(), ASK, "a").cases == 12


def test_what_is_checked_and_averaged_is_the_decoded_update() -> None:
    halves = Halves()
    travelling = update(arrays=halves.encode(update().arrays, {}, 0)[0])
    np.testing.assert_array_equal(guard(codec=halves).admit(travelling, ASK, "a").arrays["w"], [[1, 2], [2, 4]])
    # 2.5 as it travels, 5 as it is
    with pytest.raises(UpdateError, match="FR-R13"):
        guard(max_norm=4.0, codec=halves).admit(travelling, ASK, "a")


@pytest.mark.parametrize(
    "answer",
    [
        Refusal("a", "run", 3, "nonce", "FR-D20", "ref"),
        Hello("a", {}, 1, 1, 0, 1, {}),
        scores(),
    ],
    ids=lambda answer: answer.kind,
)
def test_only_an_update_answers_a_request_to_train(answer: Any) -> None:
    with pytest.raises(UpdateError, match=f"FR-R10 a answered with {answer.kind}; an update"):
        guard().admit(answer, ASK, "a")


def test_good_scores_go_through_as_they_are() -> None:
    given = scores()
    assert guard().admit_scores(given, SCORE, "a") is given


def test_only_scores_answer_a_request_to_score() -> None:
    with pytest.raises(UpdateError, match="FR-R10 a answered with update; scores"):
        guard().admit_scores(update(), SCORE, "a")


def test_scores_in_anothers_name_are_refused() -> None:
    with pytest.raises(UpdateError, match="FR-R17 b answered as 'a'"):
        guard().admit_scores(scores(), SCORE, "b")


@pytest.mark.parametrize("changed", [{"run": "other"}, {"round": 2}, {"nonce": "old"}])
def test_scores_for_another_request_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(UpdateError, match="FR-R18 a answered another request"):
        guard().admit_scores(scores(**changed), SCORE, "a")


@pytest.mark.parametrize("changed", [{"model": "consensus"}, {"cohort": "train"}])
def test_scores_of_another_model_or_cohort_are_refused(changed: dict[str, Any]) -> None:
    given = scores(**changed)
    with pytest.raises(UpdateError, match=f"FR-R16 a scored {given.model} on {given.cohort}; pooled"):
        guard().admit_scores(given, SCORE, "a")


class Stumbling(Codec):
    def encode(self, arrays: Arrays, residual: Arrays, seed: int) -> tuple[Arrays, Arrays]:
        return arrays, {}

    def decode(self, arrays: Arrays, like: Arrays) -> Arrays:
        raise KeyError("scale")


def test_a_codec_that_stumbles_over_what_came_costs_that_site() -> None:
    with pytest.raises(UpdateError, match=r"FR-R11 what a sent cannot be decoded \(KeyError\)"):
        guard(codec=Stumbling()).admit(update(), ASK, "a")


def grown(factor: float) -> Update:
    return update(arrays={"w": np.full((2, 2), factor, np.float32), "n": np.array([1], np.int64)})  # norm 2 × factor


def test_an_update_a_thousand_times_too_large_is_refused_of_a_small_network_too() -> None:
    # a model of norm 20, as a U-Net of 250,000 weights has it, and updates as large as real ones of it
    ask = replace(ASK, arrays={"w": np.full((2, 2), 10, np.float32), "n": np.array([7], np.int64)})
    for honest in (0.04, 0.2, 2.0, 7.0):
        # of what this site did in the round before, or the others if it was not there; in a first round of the model
        for last in ({2: {"a": honest}}, {1: {"b": honest}}, *([{}] if honest * 1000 > 210 else [])):
            believing = Guard({"a": 20}, 1e4, Float32(), dict(last))
            with pytest.raises(UpdateError, match="FR-R13"):
                believing.admit(grown(500 * honest), ask, "a")
            assert believing.admit(grown(honest / 2), ask, "a").cases == 12


def test_a_site_that_did_little_in_one_round_may_do_much_in_the_next() -> None:
    ask = replace(ASK, arrays={"w": np.full((2, 2), 10, np.float32), "n": np.array([7], np.int64)})
    believing = Guard({"a": 20}, 1e4, Float32(), {2: {"a": 1e-6}})
    assert believing.admit(grown(5.0), ask, "a").cases == 12
    with pytest.raises(UpdateError, match=r"FR-R13 the update's norm is 12; at most 10.5"):
        believing.admit(replace(grown(6.0), nonce="next"), replace(ask, nonce="next"), "a")


def test_what_is_believed_does_not_depend_on_who_answers_first() -> None:
    ask = replace(ASK, arrays={"w": np.full((2, 2), 10, np.float32), "n": np.array([7], np.int64)})
    for small_first in (True, False):
        believing = Guard({"a": 20, "b": 20}, 1e4, Float32(), {1: {"c": 1.0}})
        order = [("a", 0.001), ("b", 40.0)]  # b: norm 80, below 100 times c's
        for site, size in order if small_first else order[::-1]:
            assert believing.admit(replace(grown(size), site=site), ask, site).site == site


def test_what_each_site_sent_last_is_known_again_after_an_interruption() -> None:
    lines = [
        RoundLine(1, 1.0, "", (SiteLine("a", "ok", norm=3.0), SiteLine("b", "ok", norm=4.0))),
        RoundLine(2, 1.0, "", (SiteLine("a", "ok", norm=2.0), SiteLine("b", "error:FR-R12"))),
        RoundLine(3, 1.0, "", (SiteLine("a", "absent"), SiteLine("b", "late"))),
    ]
    assert norms_of(lines) == {1: {"a": 3.0, "b": 4.0}, 2: {"a": 2.0}}
