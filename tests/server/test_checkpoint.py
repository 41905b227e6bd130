"""Checkpoints: whole or not there, the last three, of this study only; of a damaged one the one before is used."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fedrounds_common.arrays import Arrays, digest, manifest
from fedrounds_common.errors import RunFileError
from fedrounds_common.strategy import Consensus
from fedrounds_server.checkpoint import Checkpoint, load_arrays, newest_checkpoint, save_arrays, write_checkpoint

STUDY = "ab" * 32
ARRAYS: Arrays = {
    "z.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.bias": np.array([-0.0, 1e-40, 3.5], np.float32),  # a negative zero and a number below float32's normal ones
    "temperature": np.array(0.7, np.float32),
    "seen|twice": np.array(2**40, np.int64),
}


def checkpoint(round_: int, study: str = STUDY) -> Checkpoint:
    moved = {name: array + np.asarray(round_, array.dtype) for name, array in ARRAYS.items()}
    kept = {name: np.asarray(array * 0.5, array.dtype) for name, array in moved.items() if array.dtype.kind == "f"}
    shared = {"control": np.full(3, round_, np.float64)}
    return Checkpoint(round_, study, Consensus(moved, shared, kept), {"A": "ok", "B": "error:FR-D12"}, settled=2)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    parts = [(c.consensus.arrays, c.consensus.shared, c.consensus.kept) for c in (one, other)]
    return (
        (one.round, one.study, one.states, one.settled) == (other.round, other.study, other.states, other.settled)
        and [digest(part) for part in parts[0]] == [digest(part) for part in parts[1]]
        and [manifest(part) for part in parts[0]] == [manifest(part) for part in parts[1]]  # in the model's order too
    )


def written(folder: Path, *rounds: int) -> list[Path]:
    for round_ in rounds:
        write_checkpoint(folder, checkpoint(round_))
    return sorted(folder.iterdir())


def test_a_checkpoint_comes_back_bit_for_bit_and_in_order(tmp_path: Path) -> None:
    written(tmp_path, 4)
    found, damaged = newest_checkpoint(tmp_path, STUDY)
    assert found is not None
    assert same(found, checkpoint(4))
    assert damaged == []


def test_one_written_where_damaged_ones_of_later_rounds_lie_is_kept(tmp_path: Path) -> None:
    for file in written(tmp_path, 2, 3, 4):
        file.write_bytes(b"cut short")
    written(tmp_path, 0)  # begun anew
    found, damaged = newest_checkpoint(tmp_path, STUDY)
    assert found is not None
    assert same(found, checkpoint(0))
    assert len(damaged) == 3


def test_before_the_first_there_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "not there", STUDY) == (None, [])


def test_the_last_three_are_kept_and_nothing_else_lies_beside_them(tmp_path: Path) -> None:
    files = written(tmp_path, *range(1, 6))
    assert [file.name for file in files] == [f"round-{round_:04d}.safetensors" for round_ in (3, 4, 5)]


def test_the_ten_thousandth_is_newer_than_the_one_before_it(tmp_path: Path) -> None:
    written(tmp_path, 9999, 10000)
    found, _ = newest_checkpoint(tmp_path, STUDY)
    assert found is not None
    assert found.round == 10000


def test_another_study_is_refused_and_both_are_named(tmp_path: Path) -> None:
    written(tmp_path, 1)
    with pytest.raises(RunFileError, match="FR-F12 the checkpoint is of study abababababab; cdcdcdcdcdcd") as caught:
        newest_checkpoint(tmp_path, "cd" * 32)
    assert caught.value.exit_status == 4


@pytest.mark.parametrize("left", [0, 1, 7, 8, 100, -1])
def test_of_one_cut_short_the_one_before_is_used_and_it_is_said(left: int, tmp_path: Path) -> None:
    newest = written(tmp_path, 1, 2)[-1]
    newest.write_bytes(newest.read_bytes()[:left])
    found, damaged = newest_checkpoint(tmp_path, STUDY)
    assert found is not None
    assert same(found, checkpoint(1))
    assert len(damaged) == 1
    assert "FR-F11 round-0002.safetensors" in damaged[0]


def test_of_two_damaged_ones_both_are_named_and_the_third_is_used(tmp_path: Path) -> None:
    files = written(tmp_path, 1, 2, 3)
    files[1].write_bytes(b"")
    files[2].write_bytes(b"\x80\x04\x95cos\nsystem\n")  # a pickle is not even looked into
    found, damaged = newest_checkpoint(tmp_path, STUDY)
    assert found is not None
    assert found.round == 1
    assert ["round-0003" in damaged[0], "round-0002" in damaged[1]] == [True, True]


def test_when_all_are_damaged_there_is_none_and_each_is_named(tmp_path: Path) -> None:
    for file in written(tmp_path, 1, 2, 3):
        file.write_bytes(b"")
    found, damaged = newest_checkpoint(tmp_path, STUDY)
    assert found is None
    assert len(damaged) == 3


def test_one_flipped_bit_anywhere_is_seen(tmp_path: Path) -> None:
    newest = written(tmp_path, 1, 2)[-1]
    whole = newest.read_bytes()
    for place in range(0, len(whole), 5):  # 8 and 5 share no factor: every bit of a byte has its turn
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << (place % 8)
        newest.write_bytes(spoilt)
        found, damaged = newest_checkpoint(tmp_path, STUDY)
        assert found is not None
        assert found.round == 1, f"bit {place % 8} of byte {place} ({whole[place : place + 1]!r}) went unseen"
        assert len(damaged) == 1


def test_the_file_of_another_program_is_no_checkpoint(tmp_path: Path) -> None:
    written(tmp_path, 1)
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "round-0002.safetensors", metadata={"format": "pt"})
    found, damaged = newest_checkpoint(tmp_path, STUDY)
    assert found is not None
    assert found.round == 1
    assert "not ours" in damaged[0]


def test_a_newer_format_is_said_to_be_one(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(save_arrays({"w": np.zeros(1)}, {"format": 2}))
    with pytest.raises(RunFileError, match="FR-F13 x.safetensors has format 2; format 1"):
        load_arrays(file)


@pytest.mark.parametrize("says", [[], "text", 5, None, {"format": 1}, {"format": 1, "sum": "00"}])
def test_a_file_that_says_something_else_of_itself_is_not_ours(says: object, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"w": np.zeros(1)}, file, metadata={"fedrounds": json.dumps(says)})
    with pytest.raises(RunFileError, match="FR-F11 x.safetensors is damaged or not ours"):
        load_arrays(file)


def test_there_is_one_key_of_metadata(tmp_path: Path) -> None:
    (file,) = written(tmp_path, 1)
    with safe_open(file, framework="numpy") as stream:
        assert list(stream.metadata()) == ["fedrounds"]


def test_equal_arrays_make_equal_bytes_in_every_process(tmp_path: Path) -> None:
    says = {"b": 1, "a": {"z": 1, "y": 2}, "format": 1}
    mine = save_arrays({"w": np.arange(3.0), "v": np.zeros(2, np.float32)}, says)
    backwards = {key: says[key] for key in reversed(says)}
    assert save_arrays({"w": np.arange(3.0), "v": np.zeros(2, np.float32)}, backwards) == mine
    program = (
        "import sys, numpy as np; from fedrounds_server.checkpoint import save_arrays; "
        f"sys.stdout.buffer.write(save_arrays({{'w': np.arange(3.0), 'v': np.zeros(2, np.float32)}}, {says!r}))"
    )
    for seed in ("1", "2"):  # dicts of strings have another order in every process
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            env={**_environment(), "PYTHONHASHSEED": seed},
        )
        assert done.stdout == mine


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_a_crash_while_writing_leaves_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, 1)
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, checkpoint(2))
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["round-0001.safetensors"]
    found, _ = newest_checkpoint(tmp_path, STUDY)
    assert found is not None
    assert same(found, checkpoint(1))


def test_a_half_written_file_of_a_killed_process_is_passed_over(tmp_path: Path) -> None:
    written(tmp_path, 1)
    (tmp_path / ".round-0002.safetensors.1a2b3c4d.part").write_bytes(b"half")
    found, damaged = newest_checkpoint(tmp_path, STUDY)
    assert found is not None
    assert (found.round, damaged) == (1, [])
    written(tmp_path, 2, 3, 4)
    assert (newest_checkpoint(tmp_path, STUDY)[0] or checkpoint(0)).round == 4


def test_a_round_written_again_replaces_itself(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(1))
    write_checkpoint(tmp_path, replace(checkpoint(1), states={"A": "late"}))
    found, _ = newest_checkpoint(tmp_path, STUDY)
    assert found is not None
    assert found.states == {"A": "late"}
    assert json.dumps(found.states) == '{"A": "late"}'
