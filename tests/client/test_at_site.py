"""What a task says stays at the site: it goes on from there, and not one bit of it leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds_client.rounds import judge, take_part
from fedrounds_client.site import Site, build_parts
from fedrounds_client.state import write_state
from fedrounds_common.arrays import Arrays, of_module
from fedrounds_common.study.parse import read_study
from fedrounds_sites.hospitals import Hospital
from fedrounds_sites.simulation import READERS, Simulation

MakeSite = Callable[..., Site]
CUBES = Path(__file__).parents[1] / "data" / "cubes"
STUDY = """
format = 1
name = "cubes"
[task]
name = "generation"
method = "gan"
pool = 4
[cases]
channels = ["t1"]
labels = { cube = 1 }
intensity = "unit"
[model]
name = "image_gan"
grid = [8, 8, 8]
widths = [8, 4]
latent = 4
[training]
rounds = 3
local_steps = 2
batch = 2
augment = []
[strategy]
name = "fedavg"
[evaluation]
primary = "fid"
"""
KEPT = 'task.stays="discriminator"'
STRATEGIES = ('strategy.name="fedavg"', 'strategy.name="fedavgm"', 'strategy.name="fedprox"')


@pytest.fixture
def gan_site(tmp_path: Path) -> MakeSite:
    """Makes a site of made cubes whose study is of a GAN."""

    def make(*overrides: str) -> Site:
        file = tmp_path / "cubes.toml"
        file.write_text(STUDY, "utf-8")
        study = read_study(file, overrides, [CUBES]).study
        table = {"name": "cubes"}
        built = READERS.load(table, [CUBES])
        refs = tuple(ref for ref in built.cases(study.cases) if ref.site == "A")
        hospital = Hospital("A", "train", tmp_path / "A", refs, built, Simulation(reader=table, pictures=1), study)
        return Site("A", tmp_path / "A", hospital, build_parts(study, (CUBES,)))

    return make


def sides(arrays: Arrays) -> tuple[list[str], list[str]]:
    judges = [name for name in arrays if name.startswith("discriminator.")]
    return judges, [name for name in arrays if name not in judges]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_of_a_discriminator_that_stays_leaves_in_any_round(
    strategy: str, gan_site: MakeSite, ask_of: Callable[..., Any]
) -> None:
    site = gan_site(KEPT, strategy)
    ask = ask_of(site)
    judges, others = sides(ask.arrays)
    assert judges
    last: Arrays = ask.arrays
    for round_ in (1, 2):
        update, state = take_part(ask_of(site, round_=round_, arrays=ask.arrays), site)
        for name in judges:
            assert not update.arrays[name].any(), name
            # and yet it was trained here, from where it was
            assert not np.array_equal(state.own[name], last[name]), name
        assert any(update.arrays[name].any() for name in others)
        assert set(state.own) == set(judges)
        # what a strategy keeps knows nothing of it either
        assert not any(array.any() for name, array in state.kept.items() if name in judges)
        write_state(site.folder / "state", round_, state)
        last = state.own


def test_a_site_goes_on_from_its_own_discriminator_and_not_from_the_consensus(
    gan_site: MakeSite, ask_of: Callable[..., Any]
) -> None:
    site = gan_site(KEPT)
    ask = ask_of(site)
    judges, _ = sides(ask.arrays)
    _, state = take_part(ask, site)
    write_state(site.folder / "state", 1, state)
    # another consensus for these entries changes nothing: they are not looked at
    other = {name: array + 1 if name in judges else array for name, array in ask.arrays.items()}
    one, _ = take_part(ask_of(site, round_=2, arrays=ask.arrays), site)
    two, again = take_part(ask_of(site, round_=2, arrays=other), site)
    for name in ask.arrays:
        np.testing.assert_array_equal(one.arrays[name], two.arrays[name])
    assert all(np.abs(again.own[name] - state.own[name]).max() < 0.1 for name in judges)


def test_without_that_word_both_sides_leave(gan_site: MakeSite, ask_of: Callable[..., Any]) -> None:
    site = gan_site()
    update, state = take_part(ask_of(site), site)
    judges, others = sides(update.arrays)
    assert any(update.arrays[name].any() for name in judges)
    assert any(update.arrays[name].any() for name in others)
    assert state.own == {}


def test_scores_stand_for_the_judged_cases_and_copies_are_looked_for_in_the_trained_ones(
    gan_site: MakeSite, ask_of: Callable[..., Any]
) -> None:
    site = gan_site("evaluation.local_validation=0.4")
    opened = site.hospital.open_all()
    scores = judge(ask_of(site, "score", cohort="local-val"), site)
    assert scores.cases == len(opened.validation)
    assert scores.tally["untrained"].sum() == len(opened.validation)
    assert scores.tally["trained"].sum() == len(opened.training)
    # a model of another hospital was not trained on these
    others = judge(ask_of(site, "score", cohort="local-val", trained_at="B"), site)
    assert others.tally["trained"].sum() == 0


def test_the_network_keeps_the_order_of_its_arrays(gan_site: MakeSite, ask_of: Callable[..., Any]) -> None:
    site = gan_site(KEPT)
    update, _ = take_part(ask_of(site), site)
    assert list(update.arrays) == list(of_module(site.parts.module()))
