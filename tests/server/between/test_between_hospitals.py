"""Rounds over a network that is not ours: who said it, who is there, and who is waited for."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from flwr.app import Error
from village import (
    ATTACKS,
    COORDINATOR,
    KEYS,
    NODES,
    START,
    Make,
    Says,
    Village,
    as_another,
    by_hand,
    keys,
    only,
    refusal,
    register,
    trained,
    well,
)

from fedrounds_common.arrays import digest
from fedrounds_common.errors import TooFewSites, UpdateError
from fedrounds_common.leaving import (
    Ask,
    Hello,
    Refusal,
    Update,
    signed_bytes,
    to_wire,
)
from fedrounds_server.greeting import own_versions
from fedrounds_server.keys import Keys

# ---------------------------------------------------------------- who said it


def test_signed_or_not_the_same_sites_make_the_same_consensus(made: Make) -> None:
    signed, unsigned = made(name="signed"), made('cohort.sites=["A","B","C"]', name="unsigned", keys=None)
    signed.run(signed.village())
    unsigned.run(unsigned.village(signs=False))
    np.testing.assert_array_equal(signed.consensus["w"], by_hand(["ABC"] * 3))
    assert digest(signed.consensus) == digest(unsigned.consensus)
    assert signed.status["exit"] == 0


def test_every_request_is_signed_by_the_coordinator(made: Make) -> None:
    run = made()
    grid = run.village()
    run.run(grid)
    assert {ask.kind for _, ask, _ in grid.asked} == {"hello", "train", "score"}
    assert all(COORDINATOR.public.holds(signed_bytes(h, b), s) for h, b, s in grid.signatures)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_its_site_did_not_sign_costs_that_site_and_no_other(attack: str, made: Make) -> None:
    changes, state = ATTACKS[attack]
    run = made(rounds=1)
    run.run(run.village(changes={"B": changes}))
    assert run.states == [{"A": "ok", "B": state, "C": "ok"}]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC"]))
    assert run.status["failed"] == {"B": state}


def test_a_site_whose_node_is_not_known_is_bound_by_its_key_and_the_request(made: Make) -> None:
    # without node numbers in the register A's stolen key is not seen through, and yet B cannot answer for A
    loose = {name: replace(entry, node_id=None) for name, entry in register().items()}
    run = made(rounds=1, keys=Keys(COORDINATOR, lambda: loose))
    run.run(run.village(changes={"B": as_another}))
    assert run.states == [{"A": "ok", "B": "error:FR-R17", "C": "ok"}]


def test_of_ten_thousand_changed_letters_none_is_believed() -> None:
    update = well("B", Ask("train", "run", 1, "n", "text", "d", arrays=START))
    assert isinstance(update, Update)
    header, buffer = to_wire(update)
    signature = KEYS["B"].sign(signed_bytes(header, buffer))
    guardian, draw = keys(), random.Random(1)
    assert guardian.check(header, buffer, signature, NODES["B"]) == "B"
    for _ in range(10_000):
        parts = [bytearray(header.encode()), bytearray(buffer), bytearray(signature)]
        part = draw.choice(parts)
        part[draw.randrange(len(part))] ^= 1 << draw.randrange(8)
        with pytest.raises(UpdateError, match="FR-R5[134]"):
            guardian.check(parts[0].decode("utf-8", "replace"), bytes(parts[1]), bytes(parts[2]), NODES["B"])


def test_last_rounds_signed_update_is_not_taken_again(made: Make) -> None:
    said: list[tuple[str, bytes, bytes]] = []

    def replayed(header: str, buffer: bytes, signature: bytes) -> tuple[str, bytes, bytes]:
        said.append((header, buffer, signature))
        return said[0]

    run = made(rounds=2)
    run.run(run.village(changes={"B": replayed}))
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}, {"A": "ok", "B": "error:FR-R18", "C": "ok"}]


def test_a_replayed_refusal_does_not_pass_for_one_of_this_round(made: Make) -> None:
    run = made(rounds=1)
    stale = only("train", 1, lambda site, ask: Refusal(site, ask.run, 0, "old", "FR-C02", "ab", True))
    run.run(run.village({"B": stale}))
    assert run.states == [{"A": "ok", "B": "error:FR-R18", "C": "ok"}]


def test_a_site_revoked_in_mid_run_is_out_from_its_next_answer_on(made: Make) -> None:
    entries = register()

    def revoke(site: str, ask: Ask) -> Says:
        entries["B"] = replace(entries["B"], revoked=True)
        return well(site, ask)

    run = made(keys=Keys(COORDINATOR, lambda: entries))
    grid = run.village({"A": only("train", 2, revoke)}, takes=lambda site, ask: 1.0 if site == "A" else 2.0)
    run.run(grid)
    assert [states["B"] for states in run.states] == ["ok", "error:FR-R52", "error:FR-R52"]
    assert trained(grid, 3) == ["A", "C"]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC", "AC", "AC"]))


def test_a_node_of_nobody_is_no_site_of_the_study(made: Make) -> None:
    run = made(rounds=1)
    grid = run.village(sites="ABCD")  # D has a key, and is not enrolled
    run.run(grid)
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}]
    assert trained(grid, 1) == ["A", "B", "C"]
    assert run.status["exit"] == 0


@pytest.mark.parametrize(("kind", "fields"), [("hello", {"training_cases": 500}), ("train", {"cases": 4})])
def test_no_site_weighs_more_than_it_enrolled_with(kind: str, fields: dict[str, int], made: Make) -> None:
    # B enrolled with 3 cases
    run = made("cohort.wait_s=20", rounds=1)

    def lie(site: str, ask: Ask) -> Says:
        said = well(site, ask)
        assert isinstance(said, Hello | Update)
        return replace(said, **fields)  # type: ignore[arg-type]

    run.run(run.village({"B": only(kind, 1 if kind == "train" else 0, lie)}))
    assert run.states == [{"A": "ok", "B": "error:FR-R19", "C": "ok"}]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC"]))


# ---------------------------------------------------------------- who is there


def hellos(grid: Village, site: str) -> list[tuple[Ask, float]]:
    return [(ask, at) for name, ask, at in grid.asked if name == site and ask.kind == "hello"]


def test_a_site_that_has_not_been_permitted_yet_is_asked_again_until_it_is(made: Make) -> None:
    run = made()
    allowed = run.time.t + 60

    def asks_a_person(site: str, ask: Ask) -> Says:
        return well(site, ask) if run.time.t > allowed else refusal("FR-C02", True)(site, ask)

    grid = run.village({"B": asks_a_person})
    run.run(grid)
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}] * 3
    said = hellos(grid, "B")
    gaps = [later - at for (_, at), (_, later) in pairwise(said)]
    # each answer takes a second; between one and the next request 1, 2, 4, 8 and then 10 seconds
    assert [round(gap - 1) for gap in gaps[:6]] == [1, 2, 4, 8, 10, 10]
    assert len({ask.nonce for ask, _ in said}) == len(said) > 6
    assert len(hellos(grid, "A")) == 1
    assert (run.status["exit"], run.status["failed"]) == (0, {})


def test_a_site_that_never_comes_is_waited_for_as_the_study_says_and_then_is_absent(made: Make) -> None:
    run = made("cohort.minimum=2")
    grid = run.village(online=lambda site, t: site != "B")
    run.run(grid)
    first = min(at for _, ask, at in grid.asked if ask.kind == "train")
    assert 1600 <= first < 1620  # wait_s = 600 from 1000
    assert run.states == [{"A": "ok", "B": "absent", "C": "ok"}] * 3
    assert run.status["failed"] == {"B": "absent"}


def test_fewer_than_the_minimum_when_the_wait_is_over_make_no_run(made: Make) -> None:
    run = made("cohort.minimum=3")
    with pytest.raises(TooFewSites, match=r"FR-R40 2 sites are ready to train; at least 3 .*B \(refused:FR-C02\)"):
        run.run(run.village({"B": refusal("FR-C02", True)}))
    assert 1600 <= run.time.t < 1630
    assert run.status["exit"] == 11


def test_a_site_that_joins_late_takes_part_from_then_on(made: Make) -> None:
    run = made('cohort.sites=["A","B","C"]', "cohort.wait_s=5", rounds=4)
    grid = run.village(online=lambda site, t: site != "B" or t > 1013, takes=lambda site, ask: 4.0)
    run.run(grid)
    states = [each["B"] for each in run.states]
    assert states[0] == "absent"
    assert states[-1] == "ok"
    assert states == sorted(states), "once it is there, it stays"
    joined = states.index("ok")
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC"] * joined + ["ABC"] * (4 - joined)))


def test_a_site_that_leaves_for_good_is_absent_and_nobody_waits_for_it(made: Make) -> None:
    run = made(rounds=3)
    left: list[float] = []

    def last_answer(site: str, ask: Ask) -> Says:
        left.append(run.time.t)
        return well(site, ask)

    grid = run.village(
        {"B": only("train", 1, last_answer)}, online=lambda site, t: site != "B" or not left or t < left[0]
    )
    run.run(grid)
    assert [each["B"] for each in run.states] == ["ok", "absent", "absent"]
    assert [line.seconds < 10 for line in run.lines] == [True] * 3
    assert trained(grid, 3) == ["A", "C"]


def test_a_site_that_is_slow_to_say_hello_holds_up_no_other(made: Make) -> None:
    run = made("cohort.wait_s=30", "cohort.deadline_s=900")
    grid = run.village(
        takes=lambda site, ask: 45.0 if (site, ask.kind) == ("B", "hello") else 20.0 if ask.kind == "train" else 1.0
    )
    run.run(grid)
    # greeted once; its answer came while round 1 was under way
    assert len(hellos(grid, "B")) == 1
    assert [each["B"] for each in run.states] == ["late", "ok", "ok"]


def test_without_a_list_and_without_keys_those_who_are_there_begin_once_nobody_new_comes(made: Make) -> None:
    run = made(keys=None, rounds=1)
    grid = run.village(online=lambda site, t: t >= {"A": 1000, "B": 1006, "C": 1013}[site], signs=False)
    run.run(grid)
    assert trained(grid, 1) == ["A", "B", "C"]
    assert min(at for _, ask, at in grid.asked if ask.kind == "train") < 1060


def test_another_version_is_refused_with_both_named(made: Make) -> None:
    def older(site: str, ask: Ask) -> Says:
        said = well(site, ask)
        return replace(said, versions={**own_versions(), "fedrounds": "0.0.9"}) if isinstance(said, Hello) else said

    run = made("cohort.wait_s=20", rounds=1)
    run.run(run.village({"B": older}))
    assert run.states == [{"A": "ok", "B": "error:FR-R56", "C": "ok"}]
    told = " ".join(run.status["warnings"])
    assert "B has fedrounds 0.0.9" in told
    assert f"fedrounds {own_versions()['fedrounds']}, as here" in told


def test_another_torch_is_said_and_takes_part(made: Make) -> None:
    def other(site: str, ask: Ask) -> Says:
        said = well(site, ask)
        return replace(said, versions={**own_versions(), "torch": "1.0"}) if isinstance(said, Hello) else said

    run = made(rounds=1)
    run.run(run.village({"B": other}))
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}]
    assert run.status["not_bit_exact"] == {"B": f"torch 1.0 (here {own_versions()['torch']})"}
    assert any("not bit-exact" in line for line in run.status["warnings"])


@pytest.mark.parametrize("field_", ["nonce", "run", "study"])
def test_a_hello_that_answers_something_else_is_no_hello(field_: str, made: Make) -> None:
    def stale(site: str, ask: Ask) -> Says:
        said = well(site, ask)
        return replace(said, **{field_: "old"}) if isinstance(said, Hello) else said  # type: ignore[arg-type]

    run = made("cohort.wait_s=20", rounds=1)
    run.run(run.village({"B": stale}))
    assert run.states[0]["B"] in ("error:FR-R18", "error:FR-R16")


def test_a_site_whose_answer_was_lost_says_hello_again(made: Make) -> None:
    run = made(rounds=2)
    grid = run.village({"B": only("train", 1, lambda site, ask: Error(0, "gone"))})
    run.run(grid)
    assert [each["B"] for each in run.states] == ["error:FR-R03", "ok"]
    assert len(hellos(grid, "B")) == 2


# ---------------------------------------------------------------- who is waited for


def test_status_says_who_is_waited_for_and_until_when(made: Make) -> None:
    run = made("cohort.minimum=3", 'cohort.sites=["A","B","C"]')
    seen: list[Any] = []

    def look(event: str, facts: Mapping[str, Any]) -> None:
        if event in ("waiting", "plan"):
            seen.append(run.status.get("waiting"))

    def undecided(site: str, ask: Ask) -> Says:
        return refusal("FR-C02", refused=True)(site, ask) if run.time.t < 1060 else well(site, ask)

    run.run(run.village({"B": undecided}, online=lambda site, t: site != "C" or t > 1030), listen=look)
    said = [None if each is None else each["for"] for each in seen]
    first = {"B": "has not permitted the study yet (FR-C02)", "C": "not there"}
    assert said == [first, {"B": first["B"]}, None, None]
    until = datetime.fromisoformat(seen[0]["until"])
    assert 500 < (until - datetime.now(UTC)).total_seconds() <= 600
    assert "waiting" not in run.status
    assert run.status["exit"] == 0


def test_a_run_that_nobody_joined_says_no_more_that_it_waits(made: Make) -> None:
    run = made()
    with pytest.raises(TooFewSites):
        run.run(run.village(online=lambda site, t: False))
    assert "waiting" not in run.status
