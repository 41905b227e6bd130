"""A federation of two hospitals, one of them dishonest, and a stranger in its network: one run of real processes.

The dishonest one runs `evil/`: another lie in every round. The stranger runs `stranger.py`. Each attempt is
refused and named, and the model that comes out is the very one of the honest hospital alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fedworld import World, may_be_apart, wait_until

import fedrounds
from fedrounds_common.chain import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4000)]
HERE = Path(__file__).parent
STUDY = HERE.parents[1] / "studies" / "three-hospitals.toml"
HONEST, EVIL = "s1", "s2"
# in the order of `evil/`: what it does in each round, and what the history says of it
STATES = {
    "no signature": "error:FR-R50",
    "one bit of the arrays": "error:FR-R53",
    "an answer of an earlier round": "error:FR-R18",
    "another's name": "error:FR-R53",
    "another shape": "error:FR-R11",
    "another dtype": "error:FR-R11",
    "not finite": "error:FR-R12",
    "a thousand times as large": "error:FR-R13",
    "more cases than it enrolled with": "error:FR-R19",
    "10 GB declared": "error:FR-R10",
    "a pickled object": "error:FR-R10",
    "announced and never uploaded": "late",
}
SMALL = {
    "training.rounds": str(len(STATES)), "training.local_steps": "2", "cohort.minimum": "1", "cohort.deadline_s": "90",
    "cohort.wait_s": "300", "evaluation.every": "0", "simulation.pictures": "0",
}  # fmt: skip


Record = Callable[[str, object], None]


class Infiltrated(World):
    """One hospital runs a changed fedrounds."""

    def environment(self, who: str) -> dict[str, str]:
        changed = {"PYTHONPATH": str(HERE / "evil")} if who == EVIL else {}
        return {**super().environment(who), **changed}


@dataclass(frozen=True)
class Outcome:
    """`strange`: what `stranger.py` says. `grown_mb`: by how much coordinator processes grew, at most, meanwhile."""

    world: World
    run: Path
    status: dict[str, Any]
    rounds: list[dict[str, Any]]
    strange: dict[str, Any]
    grown_mb: float


def settings(**more: str) -> list[str]:
    """As words of a command line. `more`: with _ for the dot."""
    chosen = {**SMALL, **{name.replace("__", "."): text for name, text in more.items()}}
    return [word for name, text in chosen.items() for word in ("--set", f"{name}={text}")]


def words(site: str) -> tuple[str, ...]:
    return (
        "--reader", "phantom_glioma", "--set", "data.profile=eight", "--set", "data.scale=0.3",
        "--set", "data.spacing_mm=5.0", "--set", f"data.only={site}", "--cases", "20",
        "--set", "policy.minimum_cases=1", "--set", 'policy.networks=["tiny_unet"]',
    )  # fmt: skip


def memory_mb(world: World, what: str) -> float:
    """VmRSS or VmHWM of the SuperLink and the front together."""
    total = 0
    for name in ("superlink", "front"):
        pid = int((world.coordinator / "state" / f"{name}.pid").read_text())
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith(what))
    return total / 1024


def come_as_a_stranger(world: World) -> dict[str, Any]:
    """From the dishonest hospital's own network, with the certificate authority that every hospital has."""
    said = world.inside(
        EVIL, [sys.executable, str(HERE / "stranger.py"), world.host, str(world.port),
               str(world.coordinator / "keys" / "ca.pem"), str(world.home(EVIL) / "keys" / "node.key")],
    )  # fmt: skip
    found = json.loads(said.stdout)
    assert isinstance(found, dict)
    return found


def history_of(run: Path) -> list[dict[str, Any]]:
    file = run / "history.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("attacked")
    with Infiltrated(folder, (HONEST, EVIL), may_be_apart()) as world:
        world.open({site: words(site) for site in world.sites})
        run = world.submit(str(STUDY), *settings(cohort__sites='["s1", "s2"]'))
        for site in world.sites:
            world.allow(site)
        wait_until(lambda: history_of(run), "the first round", 600)
        before = memory_mb(world, "VmRSS")
        strange = come_as_a_stranger(world)
        grown = memory_mb(world, "VmRSS") - before
        status = world.ended(run, 2400)
        yield Outcome(world, run, status, history_of(run), strange, grown)


def test_every_lie_is_named_in_its_round_and_the_honest_hospital_is_in_each(outcome: Outcome) -> None:
    said = [{site["site"]: site["state"] for site in line["sites"]} for line in outcome.rounds]
    assert dict(zip(STATES, [states[EVIL] for states in said], strict=True)) == STATES
    assert [states[HONEST] for states in said] == ["ok"] * len(STATES)


def test_what_comes_out_is_the_model_of_the_honest_hospital_alone(outcome: Outcome, tmp_path: Path) -> None:
    chosen = [f"{name}={text}" for name, text in SMALL.items()]
    alone = fedrounds.simulate(
        STUDY, overrides=[*chosen, 'cohort.sites=["s1"]', "simulation.report=false"], runs=tmp_path
    )
    assert outcome.status["consensus"] == alone.status["consensus"]
    assert outcome.status["failed"] == {EVIL: next(iter(STATES.values()))}


def test_the_books_of_the_honest_hospital_and_of_the_coordinator_are_whole(outcome: Outcome) -> None:
    world = outcome.world
    assert verify(world.home(HONEST) / "journal.jsonl")[0] > len(STATES)
    assert verify(world.coordinator / "journal.jsonl")[0] > 0
    left = [json.loads(line) for line in (world.home(HONEST) / "outbox.jsonl").read_text().splitlines()]
    assert len([line for line in left if line["purpose"].endswith("train")]) == len(STATES)


def test_who_is_not_enrolled_is_turned_away_by_name(outcome: Outcome) -> None:
    assert outcome.strange["unenrolled"] == {"status": 401, "code": "FR-C47"}


@pytest.mark.parametrize("who", ["control", "control, enrolled"])
def test_from_a_hospitals_network_there_is_no_control_interface(who: str, outcome: Outcome) -> None:
    assert {(one["status"], one["code"]) for one in outcome.strange[who]} == {(404, "FR-C41")}


def test_the_tls_port_says_no_word_of_http_in_the_clear(outcome: Outcome) -> None:
    assert outcome.strange["plaintext"] == {"http": False}


def test_a_body_of_10_gb_is_refused_by_what_it_declares(outcome: Outcome) -> None:
    assert outcome.strange["10 GB"] == {"status": 413, "code": "FR-C42"}


def test_600_mb_from_a_stranger_cost_the_coordinator_less_than_50(outcome: Outcome, record_property: Record) -> None:
    taken = max(one["megabytes"] for one in outcome.strange["600 MB"])
    record_property("measured", f"grew by {outcome.grown_mb:.1f} MB, took {taken} MB of 600")
    assert outcome.grown_mb < 50
    assert all(one["megabytes"] < 30 and one["status"] in (0, 401, 413) for one in outcome.strange["600 MB"])


def test_a_study_that_the_site_forbids_cannot_be_allowed_and_is_refused_by_name(outcome: Outcome) -> None:
    world = outcome.world
    other = {
        "cohort__sites": '["s1"]',
        "cohort__wait_s": "600",
        "cohort__deadline_s": "120",
        "model__name": "unet",
        "model__strides": "[2]",
    }
    forbidden = world.submit(str(STUDY), *settings(**other))
    home = str(world.home(HONEST))
    wait_until(lambda: list((world.home(HONEST) / "waiting").glob("*.json")), "it was asked", 120)
    said = world.call(HONEST, "site", "allow", "--all", "--site", home, expect=None)
    assert said["status"] == 7
    assert "FR-C13" in json.dumps(said)

    def why() -> str:
        waiting = world.status(forbidden).get("waiting") or {}
        return str(waiting.get("for", {}).get(HONEST))

    wait_until(lambda: "FR-C02" in why(), "the coordinator knows why it waits", 240)
    world.call("co", "coordinator", "stop", forbidden.name, "--folder", str(world.coordinator))
    assert not history_of(forbidden)


def test_a_line_changed_in_the_journal_is_named(outcome: Outcome, tmp_path: Path) -> None:
    """Last: it spoils the dishonest site's own books, which nobody needs any more."""
    world = outcome.world
    journal = world.home(EVIL) / "journal.jsonl"
    text = journal.read_text()
    assert text.count('"refused"') or text.count('"trained"')
    journal.write_text(text.replace('"round": 1', '"round": 9', 1))
    said = world.call(EVIL, "site", "journal", "--verify", "--site", str(world.home(EVIL)), expect=None)
    assert said["status"] == 4
    assert "FR-F" in json.dumps(said)


def test_an_invitation_with_another_address_is_refused_before_anything_is_made(outcome: Outcome) -> None:
    world = outcome.world
    table = json.loads((world.folder / f"{HONEST}.invitation").read_text())
    changed = world.folder / "changed.invitation"
    changed.write_text(json.dumps({**table, "address": "10.66.6.6:443"}))
    new = world.folder / "new"
    said = world.call(HONEST, "site", "join", str(changed), "--site", str(new), *words(HONEST), expect=None)
    assert said["status"] == 6
    assert "FR-C90" in json.dumps(said)
    assert not new.exists()
