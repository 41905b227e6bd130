"""Between machines too the coordinator sees the sum only, and what comes out is what was simulated, to the same bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fedworld import World
from test_end_to_end import STUDY, phantom

import fedrounds


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_hospitals_over_tls_make_the_sum_that_was_simulated(world: World, tmp_path: Path) -> None:
    world.open({site: phantom(site) for site in world.sites})
    keys = "".join(f'{site} = "{world.fingerprint(site)}"\n' for site in world.sites)
    study = tmp_path / "secure.toml"
    channel = f'\n[wire.channel]\nname = "secure_sum"\n[wire.channel.keys]\n{keys}'
    study.write_text(STUDY.read_text("utf-8") + channel, encoding="utf-8")
    run = world.submit(str(study), "-s", "training.rounds=1")
    for site in world.sites:
        world.allow(site)
    status = world.ended(run)
    assert status["state"] == "done", status
    # in a rehearsal every site has a key of its own making: there they are believed as they are met
    rehearsed = ["simulation.report=false", "training.rounds=1", "wire.channel.keys={}"]
    simulated = fedrounds.simulate(study, overrides=rehearsed, runs=tmp_path / "runs")
    # whole numbers add up alike wherever and under whatever masks
    assert status["consensus"] == simulated.status["consensus"]
    for site in world.sites:
        left = [json.loads(line) for line in (world.home(site) / "outbox.jsonl").read_text().splitlines()]
        steps = [line["says"]["phase"] for line in left if line["kind"] == "share"]
        assert steps == ["keys", "shares", "masked", "agree", "unmask"]
        assert not any(line["kind"] == "update" for line in left)
