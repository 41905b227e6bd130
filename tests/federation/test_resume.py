"""A run that was stopped at any moment and is gone on with says what an undisturbed one says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file as read_safetensors

from fedrounds.layout import lock, new_folder
from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.arrays import digest
from fedrounds_common.errors import DataError, RunFileError, UsageError
from fedrounds_server.checkpoint import load_arrays
from fedrounds_server.history import read as read_history
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.words import versions
from fedrounds_server.tables import read_metrics, write_metrics

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"


def run_of(study: Path, *overrides: str, resume: Path | None = None) -> Run:
    found = simulate(study, overrides=overrides, plugins=[MINE], runs=study.parent / "runs", resume=resume)
    assert isinstance(found, Run)
    return found


def stopped_after(run: Run, *kept: str) -> None:
    """The run's folder as if it had been killed before scores other than these were written."""
    for file in [*run.folder.scores.glob("*.csv"), run.folder.metrics, run.folder.consensus]:
        if file.name not in kept:
            file.unlink(missing_ok=True)
    run.folder.status.write_text('{"format": 1, "state": "running"}', encoding="utf-8")


def test_a_run_killed_between_its_last_checkpoint_and_its_judging_is_judged_on_resume(
    tmp_path: Path, cubes: Cubes
) -> None:
    study = cubes(tmp_path, rounds=2)
    run = run_of(study, "evaluation.every=1")
    undisturbed = run.folder.metrics.read_bytes()
    stopped_after(run, "0000-untrained-all.csv", "0001-consensus-all.csv")
    resumed = run_of(study, "evaluation.every=1", resume=run.path)
    assert resumed.folder.metrics.read_bytes() == undisturbed


def test_a_run_killed_between_a_rounds_checkpoint_and_its_judging_judges_that_round(
    tmp_path: Path, cubes: Cubes
) -> None:
    study = cubes(tmp_path, rounds=2)
    run = run_of(study, "evaluation.every=1")
    undisturbed = run.folder.metrics.read_bytes()
    stopped_after(run, "0000-untrained-all.csv")
    (run.folder.checkpoints / "round-0002.safetensors").unlink()
    resumed = run_of(study, "evaluation.every=1", resume=run.path)
    assert resumed.folder.metrics.read_bytes() == undisturbed


def test_a_site_whose_scores_were_missing_before_the_stop_is_asked_again(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    run = run_of(study)
    undisturbed = run.folder.metrics.read_bytes()
    file = run.folder.scores / "0001-consensus-all.csv"
    rows = read_metrics(file)
    missing = max(row.site for row in rows if row.site != "all")
    write_metrics(file, [row for row in rows if row.site != missing])
    stopped_after(run, "0000-untrained-all.csv", file.name)
    assert run_of(study, resume=run.path).folder.metrics.read_bytes() == undisturbed


def test_a_site_that_is_gone_when_a_run_goes_on_has_failed(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    run = run_of(study)
    assert run.exit == 0
    stopped_after(run)
    resumed = run_of(study, 'simulation.reader.raises="A"', resume=run.path)
    assert json.loads(resumed.folder.status.read_text())["failed"] == {"A": "error:FR-R01"}


def test_another_study_is_refused_before_anything_of_the_run_is_touched(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    run = run_of(study)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    with pytest.raises(RunFileError, match="FR-F12 0001-cubes is a run of study"):
        run_of(study, "training.rounds=2", resume=run.path)
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def test_a_run_that_another_process_works_on_is_not_laid_out_anew(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    run = run_of(study)
    before = (run.path / "rehearsal.json").read_bytes()
    with lock(run.path), pytest.raises(UsageError, match="FR-U24"):
        run_of(study, "simulation.local_only_sites=1", resume=run.path)
    assert (run.path / "rehearsal.json").read_bytes() == before


def test_a_run_resumed_from_its_own_folder_keeps_when_it_began_and_where_its_values_came_from(
    tmp_path: Path, cubes: Cubes
) -> None:
    run = run_of(cubes(tmp_path, rounds=1))
    kept = {name: (run.path / name).read_bytes() for name in ("study.toml", "study.resolved.toml")}
    record = run.path / "record.json"
    record.write_text(record.read_text().replace('"started": "2', '"started": "1'))
    simulate(resume=run.path)
    assert {name: (run.path / name).read_bytes() for name in kept} == kept
    assert json.loads(record.read_text())["started"].startswith("1")


def test_the_times_of_all_sessions_are_added_and_counted(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(cubes(tmp_path, rounds=1))
    first = json.loads(run.folder.status.read_text())
    assert first["sessions"] == 1
    # a session that ended, and one that was killed 30 s before the last line of its history
    began = run.folder.history.stat().st_mtime - 30
    sessions = [{"started": began - 1000, "seconds": 500.0}, {"started": began}]
    (run.path / "sessions.json").write_text(json.dumps({"format": 1, "sessions": sessions}), "utf-8")
    before = time.time()
    resumed = simulate(resume=run.path)
    assert isinstance(resumed, Run)
    status = json.loads(run.folder.status.read_text())
    assert status["sessions"] == 3
    assert status["started"] == began - 1000
    assert 530 <= status["seconds"] <= 530 + (time.time() - before)
    assert dict(versions(read_run(run.path)))["took"].endswith(" in 3 sessions")
    assert (status["state"], status["consensus"]) == (first["state"], first["consensus"])


def test_a_session_that_is_killed_is_on_disk_when_it_begins(tmp_path: Path, cubes: Cubes) -> None:
    seen: list[list[dict[str, object]]] = []

    def listen(event: str, facts: Mapping[str, object]) -> None:
        if event == "plan":
            seen.append(json.loads((tmp_path / "runs/0001-cubes/sessions.json").read_text())["sessions"])

    simulate(cubes(tmp_path, rounds=1), plugins=[MINE], runs=tmp_path / "runs", listen=listen)
    ((entry,),) = seen
    assert entry.keys() == {"started"}


def test_a_run_that_ends_before_its_first_round_says_so_and_names_no_file(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1, reader='corrupt = "B"')
    with pytest.raises(DataError, match="FR-H06"):
        simulate(study, plugins=[MINE], runs=tmp_path / "runs", strict=True)
    status = json.loads((tmp_path / "runs" / "0001-cubes" / "status.json").read_text())
    assert (status["state"], status["exit"], status["code"], status["message"]) == ("failed", 4, "FR-H06", "")


def test_what_a_killed_process_left_half_written_is_gone(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(cubes(tmp_path, rounds=1))
    half = run.folder.checkpoints / ".round-0002.safetensors.0123abcd.part"
    half.write_bytes(b"half")
    simulate(resume=run.path)
    assert not half.exists()


def test_runs_that_start_together_have_folders_of_their_own_and_a_latest(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: new_folder(tmp_path, "x"), range(80)))
    assert sorted(folder.name for folder in folders) == [f"{number:04d}-x" for number in range(1, 81)]
    assert (tmp_path / "latest").resolve() in folders


def test_going_back_to_the_oldest_checkpoint_changes_nothing(tmp_path: Path, cubes: Cubes) -> None:
    # AdamW's moments stay at the sites: round 3 starts from those of round 2, which must still be there
    study = cubes(tmp_path, rounds=4)
    run = run_of(study)
    undisturbed = run.folder.consensus.read_bytes()
    stopped_after(run)
    for round_ in (3, 4):
        (run.folder.checkpoints / f"round-{round_:04d}.safetensors").write_bytes(b"cut short")
    assert run_of(study, resume=run.path).folder.consensus.read_bytes() == undisturbed


@pytest.mark.slow
def test_models_beside_the_consensus_say_the_same_after_a_stop_and_with_workers(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    baselines = 'simulation.baselines=["pooled", "local-only", "local-only-long", "ensemble", "floor"]'
    run = run_of(study, baselines)
    undisturbed = run.folder.metrics.read_bytes()
    models = {row.model for row in run.metrics}
    assert models == {"untrained", "consensus", "pooled", "local-only", "local-only-long", "ensemble", "floor"}
    stopped_after(run, "0000-untrained-all.csv", "0001-consensus-all.csv", "0001-pooled-all.csv")
    for file in (run.path / "baselines").glob("local-only-[BC].safetensors"):
        file.unlink()
    resumed = run_of(study, baselines, "simulation.workers=2", resume=run.path)
    assert resumed.exit == 0
    assert resumed.folder.metrics.read_bytes() == undisturbed


@pytest.mark.slow
def test_the_mean_of_the_last_rounds_is_the_same_in_one_session_or_two(tmp_path: Path, cubes: Cubes) -> None:
    """And it is the mean of what the same study reaches, round by round, without averaging."""
    study = cubes(tmp_path, rounds=4)
    plain = run_of(study, "simulation.baselines=[]")
    reached = {file.stem: load_arrays(file)[0] for file in plain.folder.checkpoints.glob("*.safetensors")}
    averaged = run_of(study, "simulation.baselines=[]", "training.average_last=0.5")
    whole = averaged.folder.consensus.read_bytes()
    model, last = read_safetensors(averaged.folder.consensus), read_safetensors(plain.folder.consensus)
    for name, array in model.items():
        both = [reached[f"round-{round_:04d}"][f"arrays|{name}"].astype(np.float64) for round_ in (3, 4)]
        np.testing.assert_array_equal(array, ((both[0] + both[1]) / 2).astype(array.dtype))
    assert any((model[name] != last[name]).any() for name in model)
    stopped_after(averaged)
    (averaged.folder.checkpoints / "round-0004.safetensors").unlink()
    resumed = run_of(study, "simulation.baselines=[]", "training.average_last=0.5", resume=averaged.path)
    assert resumed.folder.consensus.read_bytes() == whole
    assert read_history(resumed.folder.history)[-1].digest == digest(model)
