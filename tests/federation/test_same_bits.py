"""The consensus depends on the study and the cases, and on nothing else."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Cubes = Callable[..., Path]

REPO = Path(__file__).parents[2]
MINE = REPO / "tests" / "data" / "cubes"


def digest_of(study: Path, *overrides: str, **options: object) -> str:
    from fedrounds.series import simulate

    run = simulate(study, overrides=overrides, plugins=[MINE], runs=study.parent / "runs", **options)
    return str(run.status["consensus"])


def test_a_study_run_twice_gives_the_same_consensus_file(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=2)
    assert digest_of(study) == digest_of(study)
    first, second = (sorted((tmp_path / "runs").glob("000*"))[n] / "consensus.safetensors" for n in (0, 1))
    assert first.read_bytes() == second.read_bytes()


def test_another_seed_gives_another_consensus(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    assert digest_of(study) != digest_of(study, "seed=6")


def test_moving_the_folder_changes_nothing(tmp_path: Path, cubes: Cubes) -> None:
    here = cubes(tmp_path / "here", rounds=1)
    before = digest_of(here)
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert digest_of(tmp_path / "there" / "cubes.toml") == before


@pytest.mark.slow
def test_workers_and_their_number_change_nothing(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=2)
    assert len({digest_of(study, f"simulation.workers={count}") for count in (0, 1, 2)}) == 1


@pytest.mark.slow
def test_the_order_in_which_sites_are_listed_changes_no_byte_of_the_consensus_file(
    tmp_path: Path, cubes: Cubes
) -> None:
    study = cubes(tmp_path, rounds=2)
    assert digest_of(study, 'cohort.sites=["A","B","C"]') == digest_of(study, 'cohort.sites=["C","A","B"]')
    first, second = (sorted((tmp_path / "runs").glob("000*"))[n] / "consensus.safetensors" for n in (0, 1))
    assert first.read_bytes() == second.read_bytes()


class Killed:
    """A run in a process of its own that can be killed at any moment and gone on with."""

    def __init__(self, study: Path) -> None:
        self.study = study
        self.runs = study.parent / "killed"

    def start(self, resume: Path | None = None) -> subprocess.Popen[bytes]:
        code = (
            "import sys; from pathlib import Path; from fedrounds.series import simulate; "
            f"simulate({str(self.study)!r}, plugins=[{str(MINE)!r}], runs={str(self.runs)!r}, "
            f"resume={str(resume)!r} if {resume is not None} else None)"
        )
        return subprocess.Popen([sys.executable, "-c", code], cwd=REPO, env=dict(os.environ), stderr=subprocess.DEVNULL)

    @property
    def folder(self) -> Path:
        return self.runs / "0001-cubes"

    def kill_once(self, resume: Path | None, moment: str) -> None:
        process = self.start(resume)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end and not self.reached(moment):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def reached(self, moment: str) -> bool:
        kind, number = moment.split("-")
        if kind == "state":  # a site's state of that round is written, the checkpoint is not
            return any((self.folder / "sites").glob(f"*/state/round-{int(number):04d}.safetensors"))
        if kind == "update":
            outbox = self.folder / "sites" / "C" / "outbox.jsonl"
            return outbox.exists() and len(outbox.read_text().splitlines()) >= int(number)
        return (self.folder / "checkpoints" / f"round-{int(number):04d}.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killing_a_run_at_five_moments_and_going_on_changes_nothing(tmp_path: Path, cubes: Cubes, workers: int) -> None:
    study = cubes(tmp_path, rounds=4, workers=workers, strategy='name = "fedavgm"')
    undisturbed = digest_of(study)
    metrics = (tmp_path / "runs" / "0001-cubes" / "metrics.csv").read_bytes()
    moments = ["state-1", "checkpoint-1", f"update-{random.Random(1).randint(3, 5)}", "checkpoint-3", "state-4"]
    killed = Killed(study)
    resume: Path | None = None
    for moment in moments:
        killed.kill_once(resume, moment)
        resume = killed.folder
    assert killed.start(resume).wait() == 0
    status = json.loads((killed.folder / "status.json").read_text())
    assert status["consensus"] == undisturbed
    assert (killed.folder / "metrics.csv").read_bytes() == metrics
    rounds = [json.loads(line)["round"] for line in (killed.folder / "history.jsonl").read_text().splitlines()]
    assert rounds == [1, 2, 3, 4]


def test_a_damaged_newest_checkpoint_costs_one_round(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=2)
    whole = digest_of(study)
    folder = tmp_path / "runs" / "0001-cubes"
    newest = folder / "checkpoints" / "round-0002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    said: list[str] = []
    resumed = digest_of(study, resume=folder, listen=lambda event, facts: said.append(f"{event} {facts}"))
    assert resumed == whole
    assert any("round-0002" in line for line in said)
