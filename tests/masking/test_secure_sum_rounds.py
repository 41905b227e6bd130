"""Whole rounds: the sum is the plain sum to the bit, whoever is lost and whenever, up to the threshold and not past it."""

from __future__ import annotations

import numpy as np
import pytest

from fedrounds_common.errors import RefusedError, RoundError

# in each step some more; of those that are lost before they sent a masked update nothing is in the sum
LOSSES = {
    "keys": ["s001"], "shares": ["s002", "s003"], "mask": ["s004", "s005", "s006"],
    "agree": ["s007", "s008", "s009"], "reveal": ["s010", "s011", "s012"],
}  # fmt: skip


@pytest.mark.parametrize("sites", [3, 10])
def test_the_sum_without_masks_is_the_plain_sum(village, plain_sum, sites) -> None:
    round_ = village(sites)
    np.testing.assert_array_equal(round_.play(), plain_sum(round_, round_.numbers))


@pytest.mark.timeout(900)  # 200 sites on a busy machine
@pytest.mark.parametrize(
    ("sites", "table", "lost"),
    [
        (3, {}, {}),
        (10, {}, {"mask": ["s002", "s003"], "agree": ["s009"]}),
        pytest.param(71, {}, LOSSES, marks=pytest.mark.slow),
        pytest.param(200, {}, LOSSES, marks=pytest.mark.slow),
        pytest.param(200, {"neighbours": 40}, LOSSES, marks=pytest.mark.slow),
    ],
)
def test_the_mean_of_sites_of_1_to_5000_cases_is_the_plain_mean_to_the_step(updated, sites, table, lost) -> None:
    entries = 100_000
    round_, updates, cases = updated(sites, entries, **table)
    total = round_.play(**lost)
    stayed = [
        name for name in updates if name not in {*lost.get("keys", ()), *lost.get("shares", ()), *lost.get("mask", ())}
    ]
    weight = sum(cases[name] for name in stayed)
    numbers = round_.channel.numbers
    assert numbers.weights(total) == weight
    plain = sum(cases[name] * updates[name].astype(np.float64) for name in stayed) / weight
    found = total[1:] * numbers.step / weight
    # each of those who stayed rounds by half a step at most, before all is divided by their cases
    most = len(stayed) * numbers.step / 2 / weight
    assert 0 < np.abs(found - plain).max() <= most * (1 + 1e-6)
    assert most <= numbers.step / 2


@pytest.mark.parametrize("phase", ["keys", "shares", "mask", "agree", "reveal"])
def test_sites_lost_in_any_phase_leave_the_sum_of_the_others(village, plain_sum, phase) -> None:
    # of ten sites seven are needed: three can be lost; who has masked before is in the sum
    round_ = village(10)
    lost = sorted(round_.numbers)[2:5]
    stayed = sorted(round_.numbers) if phase in ("agree", "reveal") else [n for n in round_.numbers if n not in lost]
    if phase == "keys":  # so that seven of the seven who took part are there
        assert round_.rules.needed(7) == 5
    np.testing.assert_array_equal(round_.play(**{phase: lost}), plain_sum(round_, stayed))


@pytest.mark.parametrize("phase", ["shares", "mask", "agree", "reveal"])
def test_one_more_lost_than_the_threshold_allows_ends_in_no_sum(village, phase) -> None:
    round_ = village(10)
    lost = sorted(round_.numbers)[2:6]
    with pytest.raises((RoundError, RefusedError)) as raised:
        round_.play(**{phase: lost})
    assert raised.value.code in ("FR-C77", "FR-C78", "FR-R82")


def test_the_coordinator_says_how_many_were_lost(village) -> None:
    round_ = village(10)
    round_.keys()
    round_.coordinator.check_enough(7, "sent shares")
    with pytest.raises(RoundError, match="FR-R82 no sum: 6 of 10 sites sent shares; at least 7"):
        round_.coordinator.check_enough(6, "sent shares")


def test_a_graph_of_neighbours_gives_the_same_sum_with_fewer_masks(village, plain_sum) -> None:
    round_ = village(30, neighbours=8)
    lost = sorted(round_.numbers)[4:6]
    np.testing.assert_array_equal(round_.play(mask=lost), plain_sum(round_, set(round_.numbers) - set(lost)))
    assert {len(state.partners) for state in round_.states.values() if state.masked} == {8}


def test_two_of_three_are_enough_where_the_study_says_so(village, plain_sum) -> None:
    # more than half of three is two; by default all three are needed
    round_ = village(3, minimum=2, threshold=0.5)
    np.testing.assert_array_equal(round_.play(mask=["s002"]), plain_sum(round_, ["s001", "s003"]))
    with pytest.raises(RefusedError, match="FR-C78 2 of 3 sites stayed"):
        village(3).play(mask=["s002"])


def test_the_same_message_again_gets_the_same_answer(village) -> None:
    round_ = village(4)
    round_.keys()
    round_.shares()
    sealed = {name: dict(boxes) for name, boxes in round_.coordinator.sealed.items()}
    round_.shares()
    assert round_.coordinator.sealed == sealed
    np.testing.assert_array_equal(round_.mask_one("s001"), round_.mask_one("s001"))


def test_a_site_that_was_started_again_goes_on_from_what_it_wrote(village, plain_sum) -> None:
    round_ = village(4)
    for phase in ("keys", "shares", "mask", "agree", "reveal"):
        getattr(round_, phase)()
        round_.states = {name: type(state).of_bytes(state.to_bytes()) for name, state in round_.states.items()}
    np.testing.assert_array_equal(round_.coordinator.sum(), plain_sum(round_, round_.numbers))


def test_two_rounds_of_the_same_update_have_nothing_in_common(village) -> None:
    first, second = village(3), village(3)
    for round_ in (first, second):
        round_.keys()
        round_.shares()
        round_.mask()
    assert not np.array_equal(first.masked["s001"], second.masked["s001"])
