"""The main claim of the real federation: what was simulated runs between machines, to the same bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fedworld import World

import fedrounds
from fedrounds_common.chain import read, verify

STUDY = Path(__file__).resolve().parents[2] / "studies" / "three-hospitals.toml"


def phantom(site: str) -> tuple[str, ...]:
    """The cases that the study's rehearsal gives this hospital."""
    return (
        "--reader", "phantom_glioma", "--set", "data.profile=eight", "--set", "data.scale=0.3",
        "--set", "data.spacing_mm=5.0", "--set", f"data.only={site}",
        "--set", "policy.minimum_cases=1", "--cases", "20",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_hospitals_over_tls_make_the_very_consensus_that_was_simulated(world: World, tmp_path: Path) -> None:
    world.open({site: phantom(site) for site in world.sites})
    run = world.submit(str(STUDY))
    for site in world.sites:
        world.allow(site)
    status = world.ended(run)
    assert status["state"] == "done", status
    simulated = fedrounds.simulate(STUDY, overrides=["simulation.report=false"], runs=tmp_path / "runs")
    assert status["consensus"] == simulated.status["consensus"]
    # at most 5 commands at the coordinator and 2 at each site, from nothing
    at_coordinator = [line for line in world.commands if line.startswith("fedrounds coordinator")]
    assert len(at_coordinator) == 5
    assert len(world.commands) - len(at_coordinator) == 2 * len(world.sites)
    _both_ends_agree(world, run)


def _both_ends_agree(world: World, run: Path) -> None:
    """What each site's ledger says left is what the coordinator's history says came, byte for byte in count."""
    rounds = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for site in world.sites:
        home = world.home(site)
        left = [json.loads(line) for line in (home / "outbox.jsonl").read_text().splitlines()]
        updates = [line for line in left if line["purpose"].endswith("train")]
        came = [one for entry in rounds for one in entry["sites"] if one["site"] == site]
        assert [line["bytes"] for line in updates] == [one["bytes_up"] for one in came]
        assert [one["state"] for one in came] == ["ok"] * len(rounds)
        assert verify(home / "journal.jsonl")[0] > 0
        events = [line["event"] for line in read(home / "journal.jsonl")]
        assert any("permit" in event or "allow" in event for event in events), events
    assert verify(world.coordinator / "journal.jsonl")[0] > 0


@pytest.mark.slow
def test_hospitals_see_the_coordinator_and_not_each_other(world: World) -> None:
    if not world.apart:
        pytest.skip("network namespaces are not permitted here")
    dial = "import socket, sys; socket.create_connection((sys.argv[1], 9), 2)"
    for target, word in (("10.77.0.1", "refused"), ("10.77.2.2", "unreachable")):
        with pytest.raises(subprocess.CalledProcessError) as failed:
            world.inside("s1", [sys.executable, "-c", dial, target])
        assert word in failed.value.stderr
