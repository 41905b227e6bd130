"""Sums between hospitals: asked of every site, signed, waited for, and gone on from after a crash."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from village import (
    ATTACKS,
    COORDINATOR,
    SITES,
    START,
    Behaves,
    Killed,
    Made,
    Make,
    Says,
    Village,
    refusal,
    well,
)

from fedrounds_common.arrays import Array, Arrays, digest
from fedrounds_common.errors import TooFewSites
from fedrounds_common.leaving import (
    Ask,
    signed_bytes,
)
from fedrounds_common.tasks.segmentation import Segmentation


@dataclass(frozen=True)
class Summed(Segmentation):
    """The weights are moved by what all sites' sums amount to, before round 1 and after the last."""

    before: Any = ("first",)
    after: Any = ("last",)

    def network(self, network: Any, form: Any) -> Any:
        return None

    def gather(self, purpose: str, network: Any, cases: Any, form: Any, training: Any) -> Any:
        return {"sum": np.zeros(2), "cases": np.zeros(1)}

    def settle(self, purpose: str, total: Any, arrays: Arrays, form: Any) -> Arrays:
        return {**arrays, "w": (total["sum"] / total["cases"]).astype(np.float32)}


def summed(sites: str, start: Array) -> Array:
    """What the sums of these sites amount to."""
    total, cases = np.zeros(2), 0
    for site in sites:
        total = total + SITES[site][0] * (start.astype(np.float64) + SITES[site][1] / 7)
        cases += SITES[site][0]
    return (total / cases).astype(np.float32)


def rounds_from(start: Array, rounds: int) -> Array:
    w = start
    for _ in range(rounds):
        step = sum(SITES[s][0] * (np.float32(SITES[s][1]) * np.cos(w)).astype(np.float64) for s in "ABC") / 8
        w = (w.astype(np.float64) + step).astype(np.float32)
    return w


def whole_run(first: str = "ABC", last: str = "ABC", rounds: int = 2) -> Array:
    return summed(last, rounds_from(summed(first, START["w"]), rounds))


@pytest.fixture
def summing(made: Make) -> Make:
    def make(*overrides: str, rounds: int = 2, **more: Any) -> Made:
        run = made(*overrides, rounds=rounds, **more)
        return Made(replace(run.plan, task=Summed()), run.time)

    return make


def asked_sums(grid: Village, purpose: str) -> list[str]:
    return sorted(name for name, ask, _ in grid.asked if ask.purpose == purpose)


def at_purpose(purpose: str, says: Behaves) -> Behaves:
    return lambda site, ask: says(site, ask) if ask.purpose == purpose else well(site, ask)


def test_sums_are_asked_of_every_training_site_signed_and_settle_the_model(summing: Make) -> None:
    run = summing()
    grid = run.village()
    run.run(grid)
    np.testing.assert_array_equal(run.consensus["w"], whole_run())
    assert asked_sums(grid, "first") == asked_sums(grid, "last") == ["A", "B", "C"]
    assert all(COORDINATOR.public.holds(signed_bytes(h, b), s) for h, b, s in grid.signatures)
    assert [(line.kind, line.round) for line in run.lines] == [
        ("statistics", 0), ("round", 1), ("round", 2), ("statistics", 2),
    ]  # fmt: skip
    assert run.status["exit"] == 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_sums_that_their_site_did_not_sign_are_not_added(attack: str, summing: Make) -> None:
    changes, state = ATTACKS[attack]
    run = summing()
    before = run.village(changes={"B": changes})
    run.run(before)
    assert run.states[0] == {"A": "ok", "B": state, "C": "ok"}
    train = next(ask for _, ask, _ in before.asked if ask.kind == "train")
    np.testing.assert_array_equal(train.arrays["w"], summed("AC", START["w"]))


def test_signed_sums_for_one_purpose_are_not_taken_for_another(summing: Make) -> None:
    said: list[tuple[str, bytes, bytes]] = []

    def replayed(header: str, buffer: bytes, signature: bytes) -> tuple[str, bytes, bytes]:
        if "statistics" in header:
            said.append((header, buffer, signature))
            return said[0]
        return header, buffer, signature

    run = summing()
    run.run(run.village(changes={"B": replayed}))
    assert [states["B"] for states in run.states] == ["ok", "ok", "ok", "error:FR-R18"]
    np.testing.assert_array_equal(run.consensus["w"], whole_run(last="AC"))


def test_no_site_claims_more_cases_for_its_sums_than_it_enrolled_with(summing: Make) -> None:
    run = summing()
    run.run(run.village({"B": at_purpose("first", lambda site, ask: replace(well(site, ask), cases=4))}))  # type: ignore[type-var]
    assert run.states[0]["B"] == "error:FR-R19"


def test_sums_short_of_sites_are_waited_for_and_nobody_is_asked_twice(summing: Make) -> None:
    run = summing("cohort.minimum=3")
    away: list[float] = []

    def online(site: str, t: float) -> bool:
        return site != "B" or not away or not away[0] < t < away[0] + 120

    def go(site: str, ask: Ask) -> Says:
        away.append(run.time.t)
        return well(site, ask)

    grid = run.village(
        {"A": at_purpose("last", go)}, online=online, takes=lambda site, ask: 5.0 if (site, ask.purpose) == ("B", "last") else 1.0,
    )  # fmt: skip
    run.run(grid)
    np.testing.assert_array_equal(run.consensus["w"], whole_run())
    asked = asked_sums(grid, "last")
    assert (asked.count("A"), asked.count("C")) == (1, 1)
    assert asked.count("B") > 1


def test_sums_past_their_deadline_count_while_the_others_are_waited_for_and_else_not(summing: Make) -> None:
    def takes(site: str, ask: Ask) -> float:
        return 40.0 if (site, ask.purpose) == ("B", "first") else 1.0

    run = summing("cohort.minimum=3")
    grid = run.village(takes=takes)
    run.run(grid)
    assert run.states[0] == {"A": "ok", "B": "ok", "C": "ok"}
    assert asked_sums(grid, "first") == ["A", "B", "C"]
    fewer = summing("cohort.minimum=2", name="fewer")
    fewer.run(fewer.village(takes=takes))
    assert fewer.states[0] == {"A": "ok", "B": "late", "C": "ok"}
    np.testing.assert_array_equal(fewer.consensus["w"], whole_run(first="AC"))
    assert fewer.status["failed"] == {"B": "late"}


def test_broken_data_are_not_waited_for_and_the_run_goes_on_once_they_are_mended(summing: Make) -> None:
    run = summing("cohort.minimum=3")
    with pytest.raises(TooFewSites, match=r"FR-R40 2 sites sent the sums for last.*B \(error:FR-D12\)"):
        run.run(run.village({"B": at_purpose("last", refusal("FR-D12"))}))
    assert run.time.t < 1200
    run.run(run.village(), resume=True)
    np.testing.assert_array_equal(run.consensus["w"], whole_run())


def test_who_withholds_its_sums_is_named_and_has_not_failed(summing: Make) -> None:
    run = summing()
    run.run(run.village({"B": at_purpose("first", refusal("FR-C19", refused=True))}))
    assert (run.status["exit"], run.status["failed"], run.status["withheld"]) == (0, {}, {"B": "too few cases"})
    np.testing.assert_array_equal(run.consensus["w"], whole_run(first="AC"))
    assert any("B withholds its sums for first" in line for line in run.status["warnings"])


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.slow
def test_a_crash_at_any_write_of_a_run_with_sums_is_gone_on_from_to_the_same_bits(
    call: str, summing: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = summing(name="whole", rounds=1)
    real_fsync, real_replace = os.fsync, Path.replace
    count = [0, -1]

    def crash() -> None:
        count[0] += 1
        if count[0] == count[1]:
            raise Killed

    def fsync(handle: int) -> None:
        crash()
        real_fsync(handle)

    def replaced(self: Path, target: Path) -> Path:
        crash()
        return real_replace(self, target)

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fsync)
    else:
        monkeypatch.setattr(Path, "replace", replaced)
    whole.run(whole.village())
    wanted, writes = digest(whole.consensus), count[0]
    assert writes > 12
    for at in range(1, writes + 1):
        run = summing(name=f"{at}", rounds=1)
        count[:] = [0, at]
        with pytest.raises(Killed):
            run.run(run.village())
        count[1] = -1
        run.run(run.village(), resume=True)
        assert digest(run.consensus) == wanted, f"after a crash at {call} {at}"
        assert [(line.kind, line.purpose) for line in run.lines] == [
            ("statistics", "first"), ("round", ""), ("statistics", "last"),
        ]  # fmt: skip
        assert run.states == whole.states
