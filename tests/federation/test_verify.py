"""A run's folder can be checked: what changed is named, and the same study gives the same consensus again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrounds.showing import show
from fedrounds.verify import Again, Check, Verification, prepared_of, verify
from fedrounds_common.arrays import digest
from fedrounds_common.errors import RunFileError
from fedrounds_server.checkpoint import load_arrays, save_arrays
from fedrounds_server.manifest import write_manifest


@pytest.fixture
def run(finished: Any, tmp_path: Path) -> Path:
    """A copy of the finished run, to spoil."""
    copy = tmp_path / "0001-balls"
    shutil.copytree(finished.run.path, copy)
    return copy


@pytest.mark.slow
def test_a_run_leaves_a_manifest_and_nothing_has_changed(finished: Any) -> None:
    found = verify(finished.run)
    assert found.ok
    assert found.exit == 0
    assert (found.changed, found.missing) == ((), ())
    names = set(json.loads((finished.run.path / "manifest.json").read_text())["files"])
    wanted = {
        "study.toml", "study.resolved.toml", "record.json", "status.json", "history.jsonl", "metrics.csv",
        "consensus.safetensors", "initial.safetensors", "rehearsal.json", "report.html", "sites/A/cases.csv",
        "sites/A/splits.json", "sites/C/cases.json", "sites/B/outbox.jsonl",
    }  # fmt: skip
    assert wanted <= names
    assert any(name.startswith("figures/") for name in names)


@pytest.mark.slow
def test_a_folder_that_was_moved_has_not_changed(run: Path) -> None:
    assert verify(run).ok


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["metrics.csv", "consensus.safetensors", "sites/A/cases.csv", "study.toml", "history.jsonl", "report.html"]
)
def test_one_flipped_bit_is_found(name: str, run: Path) -> None:
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run / name).write_bytes(data)
    found = verify(run)
    assert found.changed == (name,)
    assert found.exit == 4
    assert f"changed  {name}" in found.text()


@pytest.mark.slow
def test_what_is_missing_is_a_fault_and_what_is_new_is_told(run: Path) -> None:
    (run / "figures").rename(run / "pictures")
    found = verify(run)
    assert found.missing
    assert all(name.startswith("figures/") for name in found.missing)
    assert {name.replace("pictures/", "figures/") for name in found.new} == set(found.missing)
    assert found.exit == 4


@pytest.mark.slow
def test_looking_at_a_case_and_judging_it_again_changes_nothing(run: Path, tmp_path: Path, balls: Any) -> None:
    from fedrounds.judge import evaluate

    show(run, "C_01")
    balls.write_many(tmp_path / "new", ["p1", "p2"], first_seed=300)
    evaluate(run, tmp_path / "new")
    (run / "notes.txt").write_text("seen by me")
    found = verify(run)
    assert found.ok
    assert found.new == ("notes.txt",)


@pytest.mark.slow
def test_a_consensus_that_was_exchanged_with_its_manifest_is_still_found(run: Path) -> None:
    arrays, says = load_arrays(run / "consensus.safetensors")
    name = next(iter(arrays))
    arrays[name] = arrays[name] + 1
    (run / "consensus.safetensors").write_bytes(save_arrays(arrays, says))
    write_manifest(run)
    found = verify(run)
    assert (found.changed, found.missing) == ((), ())
    wrong = [check for check in found.checks if not check.ok]
    assert [check.what for check in wrong] == ["consensus.safetensors and status.json: the consensus"]
    assert wrong[0].found == digest(arrays)
    assert found.exit == 4


@pytest.mark.slow
def test_a_study_that_was_changed_in_one_place_is_found(run: Path) -> None:
    file = run / "study.resolved.toml"
    file.write_text(file.read_text().replace("rounds = 2 ", "rounds = 3 "))
    write_manifest(run)
    wrong = [check.what for check in verify(run).checks if not check.ok]
    assert wrong == ["study.resolved.toml and rehearsal.json: the study"]


@pytest.mark.slow
def test_a_run_without_a_manifest_has_not_ended(run: Path) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(RunFileError, match=r"FR-F31 .*manifest\.json is missing"):
        verify(run)
    (run / "manifest.json").write_text('{"format": 7, "files": {}}')
    with pytest.raises(RunFileError, match="FR-F32 .*format 7"):
        verify(run)


@pytest.mark.slow
def test_the_same_study_run_again_gives_the_same_consensus(finished: Any) -> None:
    found = verify(finished.run, again=True)
    assert found.again is not None
    assert found.again.found == found.again.wanted == finished.run.status["consensus"]
    assert found.ok
    assert "the same consensus again" in found.text()


@pytest.mark.slow
def test_other_data_give_another_consensus_and_that_is_told(
    finished: Any, run: Path, tmp_path: Path, balls: Any
) -> None:
    shutil.copytree(finished.data, tmp_path / "data")
    for name in ("A_01", "A_02", "A_03", "A_04", "A_05", "A_06"):
        balls.write(tmp_path / "data", name, balls.random(99), 99)
    rehearsal = json.loads((run / "rehearsal.json").read_text())
    rehearsal["simulation"]["reader"]["root"] = str(tmp_path / "data")
    (run / "rehearsal.json").write_text(json.dumps(rehearsal))
    write_manifest(run)
    found = verify(run, again=True)
    assert found.again is not None
    assert not found.again.ok
    assert found.exit == 4
    assert found.again.notes


@pytest.mark.slow
def test_a_run_with_an_object_from_python_cannot_be_repeated_from_its_folder(run: Path) -> None:
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps({**record, "outside_code": {"strategy": "notebook.Mine"}}))
    with pytest.raises(RunFileError, match=r"FR-F33 .*strategy notebook\.Mine"):
        prepared_of(run)


@pytest.mark.slow
def test_a_changed_run_fails_at_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fedrounds.cli.main import main

    assert main(["runs", "verify", str(run)]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    (run / "metrics.csv").write_text((run / "metrics.csv").read_text().replace("consensus", "pooled"))
    assert main(["runs", "verify", str(run), "--format", "json"]) == 4
    envelope = json.loads(capsys.readouterr().out)
    assert envelope["data"]["changed"] == ["metrics.csv"]


def test_a_check_without_anything_to_compare_with_is_no_success() -> None:
    assert not Check("the consensus", "", "").ok
    assert not Check("the consensus", "ab", "").ok
    assert Check("the consensus", "ab", "ab").ok


def test_a_second_run_that_differs_spoils_the_verdict() -> None:
    make: Callable[[Again | None], Verification] = lambda again: Verification(  # noqa: E731
        "0001", 1, (), (), (), (Check("a", "x", "x"),), again
    )
    assert make(None).exit == 0
    assert make(Again("a", "a", 1.0)).exit == 0
    assert make(Again("a", "b", 1.0, ("torch was 1 and is 2",))).exit == 4
    assert "torch was 1 and is 2" in make(Again("a", "b", 1.0, ("torch was 1 and is 2",))).text()
