"""A federation whose updates and consensus travel packed: the same bits however it is played, and fewer bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.arrays import digest
from fedrounds_server import history
from fedrounds_server.checkpoint import load_arrays
from fedrounds_server.history import RoundLine

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"
BOTH_WAYS = (
    ("float16", "float16"), ("int8", "int8"), ("top_k", "top_k"), ("float32", "int8"), ("int8", "float32"),
)  # fmt: skip


def run_of(study: Path, up: str, down: str, *overrides: str, resume: Path | None = None) -> Run:
    wires = (f'wire.name="{up}"', f'wire.down="{down}"')
    found = simulate(study, overrides=(*wires, *overrides), plugins=[MINE], runs=study.parent / "runs", resume=resume)
    assert isinstance(found, Run)
    return found


def rounds_of(run: Run) -> list[RoundLine]:
    return [line for line in history.read(run.folder.history) if line.kind == history.ROUND]


def stopped_in_round(run: Run, round_: int) -> None:
    """The run's folder as if it had been killed before this round's consensus was written."""
    for file in [*run.folder.scores.glob("*.csv"), run.folder.metrics, run.folder.consensus]:
        file.unlink(missing_ok=True)
    for later in run.folder.checkpoints.glob("round-*.safetensors"):
        if int(later.stem.split("-")[1]) >= round_:
            later.unlink()
    run.folder.status.write_text('{"format": 1, "state": "running"}', encoding="utf-8")


@pytest.mark.parametrize(("up", "down"), BOTH_WAYS)
@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path, cubes: Cubes, up: str, down: str) -> None:
    study = cubes(tmp_path, rounds=3)
    run = run_of(study, up, down)
    undisturbed = run.status["consensus"]
    for round_ in (3, 2):
        stopped_in_round(run, round_)
        assert run_of(study, up, down, resume=run.path).status["consensus"] == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(("up", "down"), BOTH_WAYS)
def test_worker_processes_give_the_same_bits(tmp_path: Path, cubes: Cubes, up: str, down: str) -> None:
    study = cubes(tmp_path, rounds=3)
    assert len({run_of(study, up, down, f"simulation.workers={count}").status["consensus"] for count in (0, 2)}) == 1


@pytest.mark.slow
def test_each_codec_gives_other_bits(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=2)
    found = [run_of(study, up, down).status["consensus"] for up, down in [("float32", "float32"), *BOTH_WAYS]]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("name", "most"), [("float16", 0.56), ("int8", 0.35)])
def test_what_is_counted_is_what_was_sent(tmp_path: Path, cubes: Cubes, name: str, most: float) -> None:
    # of a network of a few kB the study's own text is a tenth of a message
    study = cubes(tmp_path, rounds=3)
    plain, packed = (rounds_of(run_of(study, codec, codec)) for codec in ("float32", name))
    for whole, line in zip(plain, packed, strict=True):
        for before, after in zip(whole.sites, line.sites, strict=True):
            assert 0.1 * before.bytes_up < after.bytes_up < most * before.bytes_up
            assert 0.1 * before.bytes_down < after.bytes_down < most * before.bytes_down


def test_who_was_not_drawn_is_sent_half_a_model_and_then_differences(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=6)
    run = run_of(study, "int8", "int8", "cohort.per_round=2")
    lines = rounds_of(run)
    assert run.status["state"] == "done"
    drawn_before: set[str] = set()
    seen: dict[bool, list[int]] = {True: [], False: []}
    for line in lines:
        drawn = {site.site: site.bytes_down for site in line.ok}
        assert len(drawn) == 2
        if line.round > 1:
            for name, sent in drawn.items():
                seen[name in drawn_before].append(sent)
        drawn_before = set(drawn)
    assert seen[True], "somebody was drawn twice in a row"
    assert seen[False], "somebody was not"
    assert max(seen[True]) < 0.75 * min(seen[False])


def test_the_consensus_that_is_released_is_the_coordinators_own(tmp_path: Path, cubes: Cubes) -> None:
    # float32, and not what is left of it on its way down
    study = cubes(tmp_path, rounds=1)
    plain, packed = run_of(study, "float32", "float32"), run_of(study, "float32", "float16")
    for run in (plain, packed):
        line = rounds_of(run)[-1]
        arrays = load_arrays(run.folder.consensus)[0]
        assert digest(arrays) == line.digest == run.status["consensus"]


def test_a_site_whose_copy_is_damaged_or_gone_is_sent_the_whole_and_ends_with_the_same_bits(
    tmp_path: Path, cubes: Cubes
) -> None:
    study = cubes(tmp_path, rounds=3)
    run = run_of(study, "int8", "int8")
    undisturbed, before = run.status["consensus"], {site.site: site.bytes_down for site in rounds_of(run)[-1].sites}
    stopped_in_round(run, 3)
    damaged, lost, *whole = sorted(before)
    for file in (run.path / "sites" / damaged / "held").glob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)  # it says what it holds, and finds out on use
    shutil.rmtree(run.path / "sites" / lost / "held")
    resumed = run_of(study, "int8", "int8", resume=run.path)
    assert resumed.status["consensus"] == undisturbed
    after = {site.site: site.bytes_down for site in rounds_of(resumed)[-1].sites}
    assert 1.7 * before[lost] < after[lost]
    # the others were in the middle of that very round and hold what they would be sent: only words travel
    (words,) = {after[name] for name in whole}
    assert words < 0.5 * before[lost]
    assert after[damaged] == words + after[lost]


def test_without_what_was_sent_before_the_sites_begin_anew(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=3)
    run = run_of(study, "int8", "int8")
    stopped_in_round(run, 3)
    shutil.rmtree(run.folder.down)
    resumed = run_of(study, "int8", "int8", resume=run.path)
    assert resumed.status["state"] == "done"
    assert [len(line.ok) for line in rounds_of(resumed)] == [len(line.ok) for line in rounds_of(run)]


def test_models_travel_unpacked_to_be_judged_and_that_is_counted(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(cubes(tmp_path, rounds=1), "int8", "int8")
    (line,) = rounds_of(run)
    judged = history.read_judging(run.folder.judging)
    assert [(each.round, each.model) for each in judged] == [(0, "untrained"), (1, "consensus")]
    assert all(each.bytes_down > each.sites * line.model_bytes for each in judged)
    assert all(0 < each.bytes_up < each.sites * line.model_bytes for each in judged)
