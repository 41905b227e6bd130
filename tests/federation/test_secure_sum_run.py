"""Whole runs under a secure sum: the consensus is the plain one to the fixed-point step, and what is lost is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.errors import TooFewSites
from fedrounds_common.signing import SigningKey
from fedrounds_server import history

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"
SECURE = ('wire.channel.name="secure_sum"', "training.local_steps=1")
STEP = SecureSum().numbers.step


def run_of(study: Path, *overrides: str, listen: Callable[..., None] | None = None, resume: Path | None = None) -> Run:
    more = {} if listen is None else {"listen": listen}
    found = simulate(study, overrides=overrides, plugins=[MINE], runs=study.parent / "runs", resume=resume, **more)
    assert isinstance(found, Run)
    return found


def lose(folder: Path, step: str, *sites: str) -> Callable[[str, Mapping[str, object]], None]:
    """A listener that takes away what these sites know of the round, when a step of it begins."""

    def listen(event: str, facts: Mapping[str, object]) -> None:
        if event == "step" and facts["step"] == step:
            for site in sites:
                (folder / "runs" / "0001-cubes" / "sites" / site / "masks" / "round.json").unlink(missing_ok=True)

    return listen


def largest_difference(one: Run, other: Run) -> float:
    a, b = load_file(one.folder.consensus), load_file(other.folder.consensus)
    assert list(a) == list(b)
    return max(float(np.abs(a[name].astype(float) - b[name]).max()) for name in a)


@pytest.mark.slow
def test_the_consensus_is_the_plain_one_to_the_step(tmp_path: Path, cubes: Cubes) -> None:
    plain = run_of(cubes(tmp_path / "plain", rounds=1), "training.local_steps=1")
    secure = run_of(cubes(tmp_path / "secure", rounds=1), *SECURE)
    assert (plain.exit, secure.exit) == (0, 0)
    # half a step of rounding at most, and the last bit of float32 numbers of about 1
    assert 0 < largest_difference(plain, secure) <= STEP / 2 + 2**-23
    (line,) = history.read(secure.folder.history)
    assert {site.state for site in line.sites} == {"ok"}
    assert {(site.norm, site.cosine, site.loss) for site in line.sites} == {(None, None, None)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ('strategy.name="fedprox"', 'wire.down.name="float16"'),
        ('strategy.name="fedavgm"', 'strategy.weights="root"', 'wire.down.name="int8"'),
        ("wire.channel.neighbours=2", "wire.channel.threshold=0.5"),
    ],
)
def test_other_strategies_codecs_and_graphs_come_to_the_plain_consensus_too(
    tmp_path: Path, cubes: Cubes, settings: tuple[str, ...]
) -> None:
    shared = [setting for setting in settings if not setting.startswith("wire.channel")]
    plain = run_of(cubes(tmp_path / "plain", rounds=1), "training.local_steps=1", *shared)
    secure = run_of(cubes(tmp_path / "secure", rounds=1), *SECURE, *settings)
    assert secure.exit == 0
    assert 0 < largest_difference(plain, secure) <= STEP


@pytest.mark.slow
@pytest.mark.parametrize("step", ["shares", "masked"])
def test_a_site_that_is_lost_before_its_update_came_is_named_and_the_sum_is_of_the_others(
    tmp_path: Path, cubes: Cubes, step: str
) -> None:
    # of four sites three are needed
    lossy = run_of(cubes(tmp_path, rounds=1), *SECURE, listen=lose(tmp_path, step, "B"))
    assert lossy.exit == 9
    assert lossy.status["failed"] == {"B": "refused:FR-C77"}
    plain = run_of(cubes(tmp_path / "plain", rounds=1), "training.local_steps=1", 'cohort.sites=["A", "C", "D"]')
    assert 0 < largest_difference(plain, lossy) <= STEP


@pytest.mark.slow
@pytest.mark.parametrize("step", ["agree", "unmask"])
def test_a_site_that_is_lost_after_its_update_came_is_in_the_sum(tmp_path: Path, cubes: Cubes, step: str) -> None:
    lossy = run_of(cubes(tmp_path, rounds=1), *SECURE, listen=lose(tmp_path, step, "B"))
    assert (lossy.exit, lossy.status["failed"]) == (0, {})
    assert any("B was lost in a secure sum's step" in text for text in lossy.status["warnings"])
    plain = run_of(cubes(tmp_path / "plain", rounds=1), "training.local_steps=1")
    assert 0 < largest_difference(plain, lossy) <= STEP


@pytest.mark.slow
def test_past_the_threshold_a_round_is_thrown_away_and_said_and_after_three_the_run_ends(
    tmp_path: Path, cubes: Cubes
) -> None:
    lost = lose(tmp_path, "masked", "B", "C")
    with pytest.raises(TooFewSites, match="FR-R82 no sum: 2 of 4 sites sent an update; at least 3"):
        run_of(cubes(tmp_path, rounds=5), *SECURE, listen=lost)
    run = Run(tmp_path / "runs" / "0001-cubes")
    lines = history.read(run.folder.history)
    assert [line.round for line in lines] == [1, 2]
    assert {site.site: site.state for site in lines[0].sites} == {
        "A": "error:FR-R82", "B": "refused:FR-C77", "C": "refused:FR-C77", "D": "error:FR-R82",
    }  # fmt: skip
    assert lines[0].digest == lines[1].digest  # the consensus stayed as it was
    assert (run.status["state"], run.status["code"]) == ("failed", "FR-R82")
    assert run.exit == 11


@pytest.mark.slow
def test_updates_that_have_no_room_are_refused_at_their_sites_and_not_cut_off(tmp_path: Path, cubes: Cubes) -> None:
    with pytest.raises(TooFewSites, match="error:FR-R80"):
        run_of(cubes(tmp_path, rounds=1), *SECURE, "wire.channel.limit=1e-6")


@pytest.mark.slow
def test_fewer_sites_than_a_sum_must_have_are_no_round(tmp_path: Path, cubes: Cubes) -> None:
    with pytest.raises(TooFewSites, match="at least 5"):
        run_of(cubes(tmp_path, rounds=1), *SECURE, "wire.channel.minimum=5")


@pytest.mark.slow
def test_a_run_that_is_gone_on_with_comes_to_the_same_and_no_secret_is_in_its_files(
    tmp_path: Path, cubes: Cubes
) -> None:
    secrets: set[str] = set()
    stopped, updates = {"at": "agree"}, []

    def listen(event: str, facts: Mapping[str, object]) -> None:
        if event == "step":
            for file in tmp_path.glob("**/masks/round.json"):
                state = json.loads(json.loads(file.read_text())["state"])
                secrets.update(state[key] for key in ("box", "mask", "seed") if state[key])
        if event == "step" and facts["round"] == 2:
            updates.append([file.read_bytes() for file in sorted(tmp_path.glob("runs/*/sites/*/masks/update"))])
            if facts["step"] == stopped["at"]:
                raise KeyboardInterrupt

    study = cubes(tmp_path, rounds=2)
    with pytest.raises(KeyboardInterrupt):
        run_of(study, *SECURE, listen=listen)
    stopped["at"] = ""
    path = tmp_path / "runs" / "0001-cubes"
    resumed = run_of(study, *SECURE, listen=listen, resume=path)
    undisturbed = run_of(cubes(tmp_path / "other", rounds=2), *SECURE)
    # what is rounded is each update, whatever the masks: the same bits
    assert resumed.status["consensus"] == undisturbed.status["consensus"]
    seconds = [{json.loads(each[24 : each.index(b"}") + 1])["seconds"] for each in found} for found in updates if found]
    assert all(each == seconds[0] for each in seconds)  # how long training took: nobody trained again
    assert len(secrets) >= 24  # three of each of four sites in each of two rounds, and a third time
    held = [
        file
        for file in path.rglob("*")
        if file.is_file() and any(each in file.read_text("latin-1") for each in secrets)
    ]
    assert held == []
    assert not list(path.glob("sites/*/masks/update"))


@pytest.mark.slow
def test_the_seed_of_the_study_changes_no_key(tmp_path: Path, cubes: Cubes) -> None:
    # the same study twice: the same consensus, to the bit, under other keys
    found: list[str] = []

    def listen(event: str, facts: Mapping[str, object]) -> None:
        if event == "step" and facts["step"] == "shares":
            file = next(iter(sorted(tmp_path.glob(f"{len(found)}/runs/*/sites/A/masks/round.json"))))
            found.append(json.loads(json.loads(file.read_text())["state"])["seed"])

    runs = [run_of(cubes(tmp_path / str(number), rounds=1), *SECURE, listen=listen) for number in (0, 1)]
    assert len(set(found)) == 2
    assert runs[0].status["consensus"] == runs[1].status["consensus"]


@pytest.mark.slow
def test_a_study_that_names_its_hospitals_keys_can_be_rehearsed_without_them(tmp_path: Path, cubes: Cubes) -> None:
    # one machine plays the hospitals, and has none of their keys
    keys = ",".join(f'{name}="{SigningKey.create().public.fingerprint}"' for name in "ABCD")
    assert run_of(cubes(tmp_path, rounds=1), *SECURE, f"wire.channel.keys={{{keys}}}").exit == 0
