"""A federation under one seeded scheduler: nothing is lost, counted twice, or done by too few, whatever goes wrong."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sim_bugs import BUGS
from sim_disk import Happens, Loss
from sim_federation import HELD, PLAIN, STUDIES, Result, forget_templates, play
from sim_world import RATES

HERE = Path(__file__).parent
# a seed from which each bug is found within a few dozen: the search really runs from there until it finds it
FROM = {"rename before fsync": 40, "nonce unchecked": 15, "late reply counted twice": 360}
WITHIN = 1000
CRASHED = (1, len(PLAIN))  # studies that are crashed at every step: one as ever, and one whose wires are packed
HAPPENS: tuple[tuple[Happens, Loss], ...] = (
    ("before", "least"),
    ("after", "least"),
    ("torn", "power"),
    ("after", "killed"),
)


@pytest.fixture(autouse=True, scope="module")
def _memory() -> Iterator[None]:
    yield
    forget_templates()


def told(result: Result) -> str:
    return f"seed {result.seed}: {result.violation}\n" + "\n".join(result.trace[-60:])


@pytest.mark.parametrize("number", range(len(STUDIES)))
def test_without_a_fault_every_round_is_of_every_site(number: int) -> None:
    quiet = play(0, number, faults=False)
    assert not quiet.violation, told(quiet)
    assert quiet.starts == 1
    assert not quiet.drawn


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 300, 50))
def test_no_invariant_is_violated(first: int) -> None:
    for seed in range(first, first + 50):
        result = play(seed)
        assert not result.violation, told(result)


@pytest.mark.slow
def test_every_kind_of_fault_happens() -> None:
    drawn = Counter[str]()
    for seed in range(120):
        drawn.update(play(seed).drawn)
    assert set(drawn) == {*RATES, HELD}


def traces(seeds: str, hash_seed: str) -> str:
    code = (
        "import hashlib, sys; from sim_federation import play, forget_templates\n"
        f"for seed in {seeds}: print(hashlib.sha256(chr(10).join(play(seed).trace).encode()).hexdigest())\n"
        "forget_templates()"
    )
    path = os.pathsep.join([str(HERE), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        capture_output=True, text=True, check=True, timeout=250,
    )  # fmt: skip
    return run.stdout


@pytest.mark.slow
def test_a_seed_gives_the_same_events_in_every_process() -> None:
    here = [hashlib.sha256("\n".join(play(seed).trace).encode()).hexdigest() for seed in range(20, 28)]
    assert traces("range(20, 28)", "1").split() == here
    assert traces("range(20, 28)", "2").split() == here


@pytest.mark.slow
@pytest.mark.parametrize("number", CRASHED)
@pytest.mark.parametrize(("happens", "loss"), HAPPENS)
def test_a_crash_of_the_coordinator_at_every_step_of_its_disk_goes_on_to_the_same_bits(
    happens: Happens, loss: Loss, number: int
) -> None:
    quiet = play(0, number, faults=False)
    assert quiet.steps > 100
    for step in range(1, quiet.steps + 1):
        result = play(0, number, at=("coordinator", step, happens, loss), faults=False)
        assert not result.violation, told(result)
        assert (step, result.starts, result.digest) == (step, 2, quiet.digest)


@pytest.mark.slow
@pytest.mark.parametrize("number", CRASHED)
@pytest.mark.parametrize(("happens", "loss"), HAPPENS)
def test_a_crash_of_a_site_at_every_step_of_its_disk_leaves_its_books_and_its_state_true(
    happens: Happens, loss: Loss, number: int
) -> None:
    crashed = 0
    for step in range(1, 400):
        result = play(0, number, at=("B", step, happens, loss), faults=False)
        assert not result.violation, told(result)
        if not any("FAULT" in line for line in result.trace):
            break
        crashed += 1
    assert 40 < crashed < 399


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    first = FROM.get(name, 0)
    with BUGS[name]():
        found = next((seed for seed in range(first, first + WITHIN) if play(seed).violation), None)
    assert found is not None
    # and it is the bug that was found, not the weather
    result = play(found)
    assert not result.violation, told(result)
