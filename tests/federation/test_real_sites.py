"""Two real sites' folders, asked by hand: their consensus is that of the simulation of the same study."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedrounds_client import lineage
from fedrounds_client.boundary import answer_enrolled
from fedrounds_client.home import SiteHome, create_home
from fedrounds_client.permits import say
from fedrounds_client.site import build_parts
from fedrounds_common.arrays import digest, of_module
from fedrounds_common.disk import write_json
from fedrounds_common.leaving import Ask, Refusal, Update, from_wire, signed_bytes, to_wire
from fedrounds_common.signing import SigningKey, sign_json
from fedrounds_common.strategy import SiteUpdate
from fedrounds_common.study.canonical import canonical_text, toml_text
from fedrounds_common.study.canonical import digest as study_digest
from fedrounds_common.study.parse import read_study
from fedrounds_common.study.study import Study
from fedrounds_server.cohort import Roster
from fedrounds_server.downlink import Downlink

CUBES = Path(__file__).parents[1] / "data" / "cubes"
SITES = ("A", "B", "C", "D")


@pytest.fixture
def own_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def site(folder: Path, name: str, coordinator: SigningKey, study: Study) -> SiteHome:
    policy = {
        "tasks": ["segmentation"], "networks": ["tiny_unet"], "minimum_cases": 1, "minimum_privacy": "none",
        "rounds": 10, "outgoing": ["hello", "update", "scores", "statistics"],
    }  # fmt: skip
    data = {"name": "cubes", "only": name}
    tables = {"name": name, "plugins": [str(CUBES)], "data": data, "policy": policy}
    home = create_home(folder / name, toml_text(tables, {}))
    invitation = {"format": 1, "kind": "invitation", "site": name, "coordinator": coordinator.public.text}
    write_json(home.invitation, sign_json(coordinator, invitation))
    now = datetime.now(UTC)
    say(home, home.read_settings(), canonical_text(study), "ada", now, True, 3, now + timedelta(days=1))
    return home


def asked(home: SiteHome, coordinator: SigningKey, ask: Ask) -> Update:
    header, buffer = to_wire(ask)
    said = from_wire(*answer_enrolled(header, buffer, coordinator.sign(signed_bytes(header, buffer)), home.folder)[:2])
    assert isinstance(said, Update), said
    return said


def test_real_sites_reach_the_consensus_of_the_simulation(
    tmp_path: Path, cubes: Callable[..., Path], own_umask: None
) -> None:
    from fedrounds.series import simulate

    file, coordinator = cubes(tmp_path / "study", rounds=2), SigningKey.create()
    simulated = simulate(file, plugins=[CUBES], runs=tmp_path / "runs").status["consensus"]
    study = read_study(file, (), [CUBES]).study
    parts = build_parts(study, (CUBES,))
    homes = {name: site(tmp_path, name, coordinator, study) for name in SITES}
    consensus = parts.strategy.begin(of_module(parts.module()))
    for round_ in (1, 2):
        ask = Ask(
            "train", "0001-cubes", round_, f"n{round_}", canonical_text(study), study_digest(study),
            arrays=consensus.arrays, shared=consensus.shared,
        )  # fmt: skip
        said = {name: asked(home, coordinator, ask) for name, home in homes.items()}
        updates = [
            SiteUpdate(name, parts.codec.decode(each.arrays, ask.arrays), each.cases) for name, each in said.items()
        ]
        consensus = parts.strategy.aggregate(consensus, updates)
    assert digest(consensus.arrays) == simulated


@pytest.mark.slow
def test_real_sites_that_are_sent_differences_reach_the_consensus_of_the_simulation(
    tmp_path: Path, cubes: Callable[..., Path], own_umask: None
) -> None:
    from fedrounds.series import simulate

    file, coordinator = cubes(tmp_path / "study", rounds=3), SigningKey.create()
    wires = ('wire.name="int8"', 'wire.down="int8"')
    simulated = simulate(file, overrides=wires, plugins=[CUBES], runs=tmp_path / "runs").status["consensus"]
    study = read_study(file, wires, [CUBES]).study
    parts = build_parts(study, (CUBES,))
    homes = {name: site(tmp_path, name, coordinator, study) for name in SITES}
    nodes = {name: number for number, name in enumerate(SITES)}
    down = Downlink(parts.down, tmp_path / "down", study.seed, study_digest(study))
    consensus = parts.strategy.begin(of_module(parts.module()))
    for round_ in (1, 2, 3):
        if round_ == 3:  # as after a backup was put back
            shutil.rmtree(homes["B"].runs / "0001-cubes" / "held")
        down.pack(consensus.arrays, round_)
        ask = down.ask(
            Ask("train", "0001-cubes", round_, f"n{round_}", canonical_text(study), study_digest(study),
                arrays=consensus.arrays, shared=consensus.shared)
        )  # fmt: skip
        down.greeted(Roster(nodes, {}, SITES, (), {}))
        updates = []
        for name, home in homes.items():
            request = down.travels(nodes[name], ask)
            assert request.form == ("opening" if round_ == 1 else "difference")
            if (name, round_) == ("B", 3):
                assert answered(home, coordinator, request).code == "FR-R70"
                assert down.lacks(nodes[name], ask)
                request = down.travels(nodes[name], ask)
                assert request.form == "half"
            said = asked(home, coordinator, request)
            # asked for the same in another form, it answers with the very same bytes, and has trained once
            again = asked(home, coordinator, ask)
            assert (again.seconds, digest(again.arrays)) == (said.seconds, digest(said.arrays))
            down.received(name, ask)
            updates.append(SiteUpdate(name, parts.codec.decode(said.arrays, ask.arrays), said.cases))
        consensus = parts.strategy.aggregate(consensus, updates)
    assert digest(consensus.arrays) == simulated
    assert len(lineage.uses(homes["B"], study_digest(study), "trained")) == 3


def answered(home: SiteHome, coordinator: SigningKey, ask: Ask) -> Refusal:
    header, buffer = to_wire(ask)
    said = from_wire(*answer_enrolled(header, buffer, coordinator.sign(signed_bytes(header, buffer)), home.folder)[:2])
    assert isinstance(said, Refusal), said
    return said
