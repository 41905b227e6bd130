"""A simulation's sites are not waited for file by file, and no checkpoint is there before what it was made with."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrounds import lazily
from fedrounds.lazily import sites_lazily
from fedrounds_common import disk
from fedrounds_common.disk import Steps, SystemSteps, add_line, write_whole


class Noting:
    """The system's steps, and a note of each that waits for the disk."""

    def __init__(self) -> None:
        self.system, self.names, self.synced = SystemSteps(), dict[int, str](), list[str]()

    def open(self, file: Path, flags: int, mode: int) -> int:
        handle = self.system.open(file, flags, mode)
        self.names[handle] = file.name.strip(".").split(".")[0]
        return handle

    def sync(self, handle: int) -> None:
        self.synced.append(self.names[handle])
        self.system.sync(handle)

    def sync_folder(self, folder: Path) -> None:
        self.synced.append(folder.name + "/")
        self.system.sync_folder(folder)

    def __getattr__(self, name: str) -> object:
        return getattr(self.system, name)


def noting() -> tuple[Noting, Steps]:
    steps = Noting()
    return steps, steps  # type: ignore[return-value]


def test_below_sites_nothing_is_waited_for_and_elsewhere_everything(tmp_path: Path) -> None:
    noted, steps = noting()
    (tmp_path / "sites").mkdir()
    with disk.through(steps), sites_lazily(tmp_path, syncs=True):
        write_whole(tmp_path / "sites" / "a" / "state" / "one", b"1")
        add_line(tmp_path / "sites" / "a" / "outbox", {"n": 1})
        assert noted.synced == [tmp_path.name + "/"]  # that `sites` itself is there, once
        write_whole(tmp_path / "history", b"2")
    assert "history" in noted.synced
    assert (tmp_path / "sites" / "a" / "state" / "one").read_bytes() == b"1"


def test_a_folder_whose_name_only_begins_like_sites_is_none_of_it(tmp_path: Path) -> None:
    noted, steps = noting()
    with disk.through(steps), sites_lazily(tmp_path, syncs=True):
        write_whole(tmp_path / "sites-of-others" / "file", b"1")
    assert "file" in noted.synced


def test_everything_is_on_disk_before_a_checkpoint_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    real = lazily.sync_all

    def looks(folder: Path) -> None:
        seen.append(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
        real(folder)

    monkeypatch.setattr(lazily, "sync_all", looks)
    with sites_lazily(tmp_path, syncs=True):
        write_whole(tmp_path / "checkpoints" / "round-0001", b"1")
        write_whole(tmp_path / "checkpoints" / "round-0002", b"2")
        write_whole(tmp_path / "status", b"3")
        before_the_end = list(seen)
    assert before_the_end == [[], ["round-0001"]]
    assert len(seen) == 3  # and once more at the end


def test_afterwards_sites_are_waited_for_again(tmp_path: Path) -> None:
    noted, steps = noting()
    with disk.through(steps):
        with sites_lazily(tmp_path, syncs=False):
            pass
        write_whole(tmp_path / "sites" / "a" / "one", b"1")
    assert "one" in noted.synced
