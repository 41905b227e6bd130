"""Files that are whole or not there, and lines that lose no other line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, final

import pytest

from fedrounds_common.disk import (
    Steps,
    SystemSteps,
    add_line,
    add_text,
    remove_folder,
    settle,
    through,
    write_private,
    write_whole,
)


def test_a_line_after_one_that_a_crash_cut_short_stands_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "outbox.jsonl"
    add_line(file, {"n": 1})
    with file.open("a") as stream:
        stream.write('{"n": 2, "cut')
    add_line(file, {"n": 3})
    first, cut, last = file.read_text().splitlines()
    assert [json.loads(first), cut, json.loads(last)] == [{"n": 1}, '{"n": 2, "cut', {"n": 3}]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_whole(file, b"old")
    with pytest.raises(TypeError):
        write_whole(file, b"new", "text")  # type: ignore[arg-type]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert file.read_bytes() == b"old"


def test_a_log_takes_a_name_that_is_no_text(tmp_path: Path) -> None:
    add_text(tmp_path / "log", "left out \udcff\n\n")
    add_text(tmp_path / "log", "next")
    assert (tmp_path / "log").read_text() == "left out \\udcff\nnext\n"


@final
class Noting:
    """The system's own steps, written down."""

    def __init__(self) -> None:
        self.system, self.said = SystemSteps(), list[str]()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def step(*given: Any) -> Any:
            file = given[0] if isinstance(given[0], Path) else None
            self.said.append(f"{name} {file.name}" if file else name)
            return getattr(self.system, name)(*given)

        return step


def noted(write: Callable[[], object]) -> list[str]:
    steps = Noting()
    with through(cast("Steps", steps)):
        write()
    return [line.split(".")[0] if ".part" in line else line for line in steps.said]


def test_a_file_is_renamed_after_its_bytes_and_before_its_folder_are_on_disk(tmp_path: Path) -> None:
    # first the folder itself: who made it may have been killed before its name was on disk
    folder = f"sync_folder {tmp_path.parent.name}"
    said = noted(lambda: write_whole(tmp_path / "a", b"1", b"2"))
    assert said == [folder, "open ", "write", "write", "sync", "close", "rename ", f"sync_folder {tmp_path.name}"]


def test_each_new_folder_is_on_disk_before_anything_in_it_counts(tmp_path: Path) -> None:
    file = tmp_path / "x" / "y" / "log"
    said = noted(lambda: (add_line(file, 1), add_line(file, 2)))
    above = [f"sync_folder {tmp_path.parent.name}", "make_folder x", f"sync_folder {tmp_path.name}"]
    # a name is lost in a crash with the folder that was not synced, however well the file was
    first = ["make_folder y", "sync_folder x", "open log", "sync_folder y", "write", "sync", "close"]
    assert said == [*above, *first, "open log", "write", "sync", "close"]
    # another process does not know that the folder's name is on disk
    assert noted(lambda: add_line(file, 3)) == ["sync_folder x", "open log", "write", "sync", "close"]


def test_a_file_whose_first_line_failed_is_on_disk_with_its_second(tmp_path: Path) -> None:
    file = tmp_path / "log"
    write_whole(file, b"")  # as one is whose first write found no room
    assert noted(lambda: add_line(file, 1))[-4:] == [f"sync_folder {tmp_path.name}", "write", "sync", "close"]


def test_what_another_process_may_have_left_unfinished_is_settled_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("1\n")
    said = noted(lambda: settle(file))
    folders = [f"sync_folder {tmp_path.parent.name}", f"sync_folder {tmp_path.name}"]
    assert said == ["open log", "sync", "close", *folders]


def test_a_folder_that_was_removed_does_not_come_back(tmp_path: Path) -> None:
    (tmp_path / "0001" / "updates").mkdir(parents=True)
    said = noted(lambda: (remove_folder(tmp_path / "0001"), remove_folder(tmp_path / "0001")))
    assert said == ["remove_folder 0001", f"sync_folder {tmp_path.name}"]
    assert not (tmp_path / "0001").exists()


def test_a_key_is_on_disk_under_its_name(tmp_path: Path) -> None:
    said = noted(lambda: write_private(tmp_path / "key", b"k"))
    assert said[1:] == ["open key", "write", "sync", "close", f"sync_folder {tmp_path.name}"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
