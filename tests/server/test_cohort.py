"""Who takes part: by name and seed, never by who answered first, and never fewer than the study says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrounds_common.errors import TooFewSites
from fedrounds_common.leaving import Hello
from fedrounds_common.study.tables import Cohort
from fedrounds_server.cohort import Roster, choose, need, roster

NAMES = tuple(f"s{number:02d}" for number in range(1, 9))


def hello(name: str, training: int = 5, held_out: int = 0) -> Hello:
    return Hello(name, {}, training, 2, held_out, 10, {})


def roster_of(hellos: dict[str, Hello], faults: dict[str, str] | None = None, **cohort: Any) -> Roster:
    return roster({name: 2 + n for n, name in enumerate(hellos)}, hellos, faults or {}, Cohort(**cohort))


def all_there(*names: str) -> dict[str, Hello]:
    return {name: hello(name) for name in names}


def test_whoever_is_there_trains_unless_it_is_held_out() -> None:
    found = roster_of({**all_there("c", "a"), "b": hello("b", training=0, held_out=4)}, held_out=("b",))
    assert (found.training, found.held_out, dict(found.absent)) == (("a", "c"), ("b",), {})
    assert found.planned == ("a", "c")


def test_of_a_study_that_lists_its_sites_nobody_else_trains() -> None:
    found = roster_of(all_there("a", "b", "stranger"), sites=("a", "b"))
    assert found.training == ("a", "b")
    assert found.planned == ("a", "b")


def test_a_listed_site_that_is_not_there_is_absent_and_still_planned() -> None:
    found = roster_of(all_there("a"), sites=("a", "b"))
    assert (found.training, dict(found.absent), found.planned) == (("a",), {"b": "absent"}, ("a", "b"))


def test_a_site_whose_hello_went_wrong_is_absent_with_the_reason() -> None:
    found = roster_of(all_there("a"), {"b": "error:FR-D12", "c": "late"})
    assert dict(found.absent) == {"b": "error:FR-D12", "c": "late"}
    assert found.planned == ("a", "b", "c")


def test_a_site_without_a_case_to_train_on_says_so() -> None:
    found = roster_of({**all_there("a"), "b": hello("b", training=0)})
    assert (found.training, dict(found.absent)) == (("a",), {"b": "error:FR-H01"})


def test_a_held_out_site_that_is_not_there_is_missed() -> None:
    found = roster_of(all_there("a"), held_out=("z",))
    assert dict(found.absent) == {"z": "absent"}
    assert found.held_out == ()
    assert found.planned == ("a",)  # and never stands among those that should have trained


def test_a_run_does_not_start_on_fewer_sites_than_the_study_says() -> None:
    assert roster_of(all_there("a", "b"), minimum=2).training == ("a", "b")
    with pytest.raises(
        TooFewSites, match=r"FR-R40 1 sites are ready to train; at least 2 .*missing: b \(late\)"
    ) as caught:
        roster_of(all_there("a"), {"b": "late"}, minimum=2)
    assert caught.value.exit_status == 11


def test_held_out_sites_do_not_count_as_training_sites() -> None:
    with pytest.raises(TooFewSites):
        roster_of({**all_there("a"), "b": hello("b", held_out=3)}, held_out=("b",), minimum=2)


def test_nobody_at_all_is_too_few() -> None:
    with pytest.raises(TooFewSites, match="0 sites are ready to train; at least 1"):
        roster_of({})


def test_a_message_names_eight_missing_sites_at_most() -> None:
    with pytest.raises(TooFewSites) as caught:
        need(0, 1, "answered", {f"s{number:02d}": "late" for number in range(30)})
    assert str(caught.value).count("(late)") == 8


def test_without_a_number_or_with_a_larger_one_all_take_part() -> None:
    for per_round in (0, 8, 99):
        assert choose(NAMES[::-1], Cohort(per_round=per_round), 1, 1) == NAMES


@settings(max_examples=50, deadline=None)
@given(
    names=st.lists(st.from_regex(r"[a-z]{1,4}", fullmatch=True), min_size=3, max_size=12, unique=True),
    shuffled=st.randoms(use_true_random=False),
    seed=st.integers(0, 10**9),
    round_=st.integers(1, 50),
)
def test_the_draw_depends_on_names_seed_and_round_alone(
    names: list[str], shuffled: Any, seed: int, round_: int
) -> None:
    drawn = choose(names, Cohort(per_round=2), seed, round_)
    again = list(names)
    shuffled.shuffle(again)
    assert choose(again, Cohort(per_round=2), seed, round_) == drawn
    assert len(set(drawn)) == 2
    assert list(drawn) == sorted(drawn)
    assert set(drawn) <= set(names)


def test_a_site_that_leaves_takes_nobody_elses_place() -> None:
    cohort = Cohort(per_round=3)
    for round_ in range(1, 20):
        drawn = choose(NAMES, cohort, 1, round_)
        left = drawn[0]
        without = choose([name for name in NAMES if name != left], cohort, 1, round_)
        # the two others are drawn as before, and one more comes in
        assert set(drawn[1:]) < set(without)
    for round_ in range(1, 20):
        idle = next(name for name in NAMES if name not in choose(NAMES, cohort, 1, round_))
        assert choose([name for name in NAMES if name != idle], cohort, 1, round_) == choose(NAMES, cohort, 1, round_)


def test_over_many_rounds_every_site_has_its_turn() -> None:
    # 400 rounds of 2 of 8 sites: 100 turns each, with a standard deviation of sqrt(400 * 1/4 * 3/4) = 8.7
    turns = Counter(name for round_ in range(400) for name in choose(NAMES, Cohort(per_round=2), 7, round_))
    assert set(turns) == set(NAMES)
    assert all(60 < count < 140 for count in turns.values())
    assert choose(NAMES, Cohort(per_round=2), 7, 1) != choose(NAMES, Cohort(per_round=2), 8, 1)
