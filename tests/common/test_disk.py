"""Files that are whole or not there, and lines that lose no other line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedrounds_common.disk import add_line, add_text, write_whole


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
