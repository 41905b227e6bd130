"""Rounds between hospitals: what a crash, a full disk and a damaged checkpoint leave."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from village import (
    COORDINATOR,
    KEYS,
    NODES,
    SITES,
    START,
    Behaves,
    Entry,
    Killed,
    Make,
    Says,
    both,
    by_hand,
    keys,
    only,
    register,
    slow,
    trained,
    well,
)

from fedrounds_common.arrays import digest
from fedrounds_common.disk import SystemSteps, through
from fedrounds_common.errors import RunFileError
from fedrounds_common.leaving import (
    Ask,
    signed_bytes,
    to_wire,
)
from fedrounds_server.keys import Keys

# ---------------------------------------------------------------- what a crash leaves


class NoRoom:
    """A disk that has room for small files and for no update."""

    def __init__(self) -> None:
        self.system = SystemSteps()

    def open(self, file: Path, flags: int, mode: int) -> int:
        if ".answer" in file.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return self.system.open(file, flags, mode)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.system, name)


def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(made: Make) -> None:
    run = made()
    with through(NoRoom()), pytest.raises(OSError, match="No space left"):
        run.run(run.village())
    assert (run.status["state"], run.status["exit"], run.status["code"]) == ("failed", 5, "FR-E01")
    assert "the disk is full" in run.status["message"]
    run.run(run.village(), resume=True)
    assert run.status["state"] == "done"
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


def kill_at(round_: int, after: int, counted: list[str]) -> Callable[[str], Behaves]:
    """Dies while reading the answer that comes when `after` were read in this round."""

    def of(site: str) -> Behaves:
        def says(name: str, ask: Ask) -> Says:
            if (ask.kind, ask.round) == ("train", round_):
                if len(counted) == after:
                    raise Killed
                counted.append(name)
            return well(name, ask)

        return says

    return of


@pytest.mark.parametrize("after", [0, 1, 2])
def test_killed_in_mid_round_it_goes_on_with_what_it_had_and_asks_only_the_others(after: int, made: Make) -> None:
    run, counted = made(), list[str]()
    dying = kill_at(2, after, counted)
    first = run.village(
        {name: dying(name) for name in "ABC"}, takes=lambda site, ask: {"A": 1.0, "B": 2.0, "C": 3.0}[site]
    )
    with pytest.raises(Killed):
        run.run(first)
    had = "ABC"[:after]
    assert sorted(file.stem for file in run.folder.updates(2).glob("*.answer")) == list(had)
    again = run.village()
    run.run(again, resume=True)
    assert trained(again, 2) == sorted(set("ABC") - set(had))
    nonces = {ask.nonce for grid in (first, again) for _, ask, _ in grid.asked if (ask.kind, ask.round) == ("train", 2)}
    assert len(nonces) == 1, "the same request, so that a site that answered already answers the same"
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}] * 3
    assert not list(run.folder.rounds.glob("*"))


def test_an_update_had_counts_though_its_site_has_left(made: Make) -> None:
    run, counted = made("cohort.minimum=3", rounds=2), list[str]()
    dying = kill_at(2, 1, counted)
    with pytest.raises(Killed):
        run.run(run.village({name: dying(name) for name in "ABC"}, takes=lambda site, ask: 1.0 if site == "A" else 2.0))
    # the minimum must be there to begin with: D stands by and A is gone
    entries = register(D=Entry(KEYS["D"].public, SITES["D"][0], NODES["D"]))
    run.run(run.village(sites="BCD"), resume=True, keys=Keys(COORDINATOR, lambda: entries))
    assert run.states[1] == {"A": "ok", "B": "ok", "C": "ok", "D": "ok"}
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC", "ABCD"]))


@pytest.mark.parametrize("harm", ["cut", "forged", "revoked", "of another round", "older"])
def test_what_was_kept_is_checked_as_if_it_had_just_come(harm: str, made: Make) -> None:
    run, counted = made(), list[str]()
    dying = kill_at(2, 2, counted)
    with pytest.raises(Killed):
        run.run(
            run.village(
                {name: dying(name) for name in "ABC"}, takes=lambda site, ask: {"A": 1.0, "B": 2.0, "C": 3.0}[site]
            )
        )
    file = run.folder.updates(2) / "A.answer"
    changed_keys = keys()
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "older":  # as before an answer said how many bytes it answers
        says, buffer = file.read_bytes().split(b"\n", 1)
        table = {name: value for name, value in json.loads(says).items() if name != "bytes_down"} | {"format": 1}
        file.write_bytes(json.dumps(table).encode() + b"\n" + buffer)
    elif harm == "forged":
        says, buffer = file.read_bytes().split(b"\n", 1)
        file.write_bytes(json.dumps(json.loads(says) | {"signature": ""}).encode() + b"\n" + buffer)
    elif harm == "revoked":
        changed_keys = keys(A=Entry(KEYS["A"].public, 1, NODES["A"], revoked=True))
    else:
        other = replace(well("A", Ask("train", "0001-run", 1, "n", "", run.plan.digest, arrays=START)), nonce="n")  # type: ignore[type-var]
        header, buffer = to_wire(other)  # type: ignore[arg-type]
        from fedrounds_server.midround import keep

        keep(file, (header, buffer, KEYS["A"].sign(signed_bytes(header, buffer))))
    again = run.village()
    run.run(again, resume=True, keys=changed_keys)
    (told,) = (line for line in run.status["warnings"] if "FR-R59" in line and "A" in line)
    assert ("has format 1; format 2" in told, "damaged" in told) == (harm == "older", harm == "cut")
    if harm == "revoked":
        np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC", "BC", "BC"]))
    else:
        assert trained(again, 2) == ["A", "C"]
        np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


def test_a_late_update_that_was_had_stands_in_after_a_crash_too(made: Make) -> None:
    def dies(site: str, ask: Ask) -> Says:
        raise Killed

    takes = both(slow("B", 1, 40.0), slow("B", 2, 500.0), slow("C", 2, 25.0))
    whole, run = made('cohort.late="next"', name="whole", rounds=2), made('cohort.late="next"', rounds=2)
    whole.run(whole.village(takes=takes))
    with pytest.raises(Killed):
        run.run(run.village({"C": only("train", 2, dies)}, takes=takes))
    run.run(run.village({"B": only("train", 2, lambda site, ask: None)}), resume=True)
    assert run.lines[1].sites[1].part == "round-1"
    assert digest(run.consensus) == digest(whole.consensus)


def test_updates_that_do_not_fit_in_memory_are_read_from_where_they_were_kept(made: Make) -> None:
    small, large = made(name="small", update_budget_bytes=0), made(name="large")
    written: list[str] = []

    def look(event: str, facts: Mapping[str, Any]) -> None:
        if event == "site":
            written.extend(file.name for file in small.folder.rounds.glob("*/updates/*"))

    small.run(small.village(), listen=look)
    large.run(large.village())
    assert digest(small.consensus) == digest(large.consensus)
    assert set(written) == {"A.answer", "B.answer", "C.answer"}, "nothing is written twice"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.slow
def test_a_crash_at_any_write_is_gone_on_from_to_the_same_bits(
    call: str, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(name="whole", rounds=2)
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
    assert writes > 15
    for at in range(1, writes + 1):
        run = made(name=f"{at}", rounds=2)
        count[:] = [0, at]
        with pytest.raises(Killed):
            run.run(run.village())
        count[1] = -1
        run.run(run.village(), resume=True)
        assert digest(run.consensus) == wanted, f"after a crash at {call} {at}"
        assert [line.round for line in run.lines] == [1, 2]
        assert run.states == whole.states


# ---------------------------------------------------------------- checkpoints


def test_where_every_checkpoint_is_damaged_the_run_is_not_begun_anew_in_silence(made: Make) -> None:
    run = made()
    run.run(run.village())
    for file in run.folder.checkpoints.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    grid = run.village()
    with pytest.raises(RunFileError, match="FR-R57 .*3 damaged checkpoints and none that is whole, after 3 rounds"):
        run.run(grid, resume=True)
    assert trained(grid, 1) == []
    assert len(run.states) == 3, "what is known of the rounds is still there"
    run.run(grid, resume=True, anew=True)
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


def test_where_the_checkpoints_are_gone_it_is_not_either(made: Make) -> None:
    run = made()
    run.run(run.village())
    for file in run.folder.checkpoints.iterdir():
        file.unlink()
    with pytest.raises(RunFileError, match="FR-R57 .*0 damaged"):
        run.run(run.village(), resume=True)


def test_of_a_damaged_checkpoint_the_one_before_is_used_and_said(made: Make) -> None:
    run = made()
    run.run(run.village())
    newest = run.folder.checkpoints / "round-0003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    grid = run.village()
    run.run(grid, resume=True)
    assert (trained(grid, 2), trained(grid, 3)) == ([], ["A", "B", "C"])
    assert any("round-0003" in line for line in run.status["warnings"])
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))
