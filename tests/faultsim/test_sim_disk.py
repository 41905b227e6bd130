"""The disk of the simulation loses what POSIX lets a crash lose, and nothing else."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from sim_disk import Crash, Disks, FaultyDisk, Loss

from fedrounds_common.disk import add_line, add_text, remove_file, remove_folder, through, write_text


@pytest.mark.parametrize(
    ("what", "loss", "left"),
    [
        ("write", "least", "old"),
        ("fsync", "killed", "old"),
        ("rename", "least", "old"),
        # renamed, and the folder not synced: a killed process loses nothing, a power cut the name
        ("fsync folder", "killed", "new"),
        ("fsync folder", "least", "old"),
    ],
)
def test_a_file_written_whole_is_the_old_or_the_new(what: str, loss: Loss, left: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("untouched")
    place = tmp_path.parent  # synced first of all, in case whoever made the folder was stopped
    disk = FaultyDisk(tmp_path, lambda step, file: "before" if step == what and file != place else "")
    with through(Disks((disk,))), pytest.raises(Crash):
        write_text(tmp_path / "a", "new")
    disk.restart(loss, random.Random(0))
    assert (tmp_path / "a").read_text() == left
    assert (tmp_path / "b").read_text() == "untouched"


def test_after_a_crash_nothing_more_is_written_until_the_restart(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path, lambda step, file: "after" if step == "rename" else "")
    with through(Disks((disk,))):
        with pytest.raises(Crash):
            write_text(tmp_path / "a", "1")
        with pytest.raises(Crash):
            write_text(tmp_path / "b", "2")
        with pytest.raises(Crash):
            remove_file(tmp_path / "a")
        disk.restart("killed", random.Random(0))
        disk.draw = lambda step, file: ""
        write_text(tmp_path / "b", "2")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def test_bytes_that_were_not_synced_may_be_missing_torn_zeros_or_there(tmp_path: Path) -> None:
    found = set()
    for seed in range(40):
        root = tmp_path / str(seed)
        root.mkdir()
        (root / "log").write_text("1\n")
        disk = FaultyDisk(root)
        with through(Disks((disk,))):
            add_text(root / "log", "2345")  # a log is not synced
        disk.restart("power", random.Random(seed))
        found.add((root / "log").read_bytes())
    assert {b"1\n", b"1\n2345\n", b"1\n\0\0\0\0\0"} < found
    assert all(len(left) <= 7 and left.startswith(b"1\n") for left in found)


def test_a_line_that_was_written_to_the_end_is_never_lost(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    with through(Disks((disk,))):
        add_line(tmp_path / "x" / "log", 1)
        disk.restart("least", random.Random(0))
        assert (tmp_path / "x" / "log").read_text() == "1\n"
        remove_folder(tmp_path / "x")
        disk.restart("least", random.Random(0))
    assert not (tmp_path / "x").exists()


def test_a_file_that_was_removed_may_come_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    disk = FaultyDisk(tmp_path)
    with through(Disks((disk,))):
        remove_file(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    disk.restart("least", random.Random(0))
    assert (tmp_path / "a").read_text() == "1"


def test_a_disk_that_is_full_takes_half_and_says_so(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path, lambda step, file: "full" if step == "write" else "")
    with through(Disks((disk,))), pytest.raises(OSError, match="No space left"):
        add_line(tmp_path / "log", "abcdef")
    assert (tmp_path / "log").read_bytes() == b'"abc'
    assert os.listdir(tmp_path) == ["log"]
