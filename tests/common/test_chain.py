"""The journal's chain: what was written shows, and whatever was done to it afterwards shows too."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from fedrounds_common.chain import START, append, read, verify
from fedrounds_common.errors import RunFileError


def write(file: Path, count: int) -> None:
    for index in range(count):
        append(file, "trained", {"round": index})


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    file = tmp_path / "journal.jsonl"
    write(file, 5)
    return file


def test_lines_are_read_as_they_were_written(journal: Path) -> None:
    lines = read(journal)
    assert [line["n"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["facts"]["round"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[0]["before"] == START
    assert verify(journal) == (5, lines[-1]["sum"])


def test_no_file_is_an_empty_journal(tmp_path: Path) -> None:
    assert verify(tmp_path / "none.jsonl") == (0, START)


def changed(line: str) -> str:
    return json.dumps({**json.loads(line), "facts": {"round": 9}})


MEDDLING = {
    "one changed": (lambda lines: [*lines[:2], changed(lines[2]), *lines[3:]], "line 3"),
    "one taken out": (lambda lines: lines[:2] + lines[3:], "line 3"),
    "the first taken out": (lambda lines: lines[1:], "line 1"),
    "two swapped": (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1"),
    "one twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], "line 4"),
    "no JSON": (lambda lines: [*lines[:4], "{"], "line 5"),
    "another kind of JSON": (lambda lines: [*lines[:4], "[]"], "line 5"),
    "one more entry": (lambda lines: [*lines[:4], json.dumps({**json.loads(lines[4]), "who": "x"})], "line 5"),
}


@pytest.mark.parametrize("what", MEDDLING)
def test_meddling_is_named_by_its_first_line(journal: Path, what: str) -> None:
    meddle, line = MEDDLING[what]
    journal.write_text("\n".join(meddle(journal.read_text().splitlines())) + "\n")
    with pytest.raises(RunFileError, match=f"FR-F40 .*{line} "):
        verify(journal)


def test_nothing_is_added_after_a_last_line_that_was_changed(journal: Path) -> None:
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:4], changed(lines[4])]) + "\n")
    before = journal.read_bytes()
    with pytest.raises(RunFileError, match="FR-F40"):
        append(journal, "trained", {})
    assert journal.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_line_that_a_crash_cut_short_was_never_there_and_that_is_said(journal: Path, cut: int) -> None:
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-cut])
    assert verify(journal)[0] == 4
    append(journal, "trained", {"round": 9})
    events = [(line["event"], line["facts"]) for line in read(journal)][4:]
    last = len(whole.splitlines(keepends=True)[-1])
    assert events == [("cut short", {"bytes": last - cut}), ("trained", {"round": 9})]


def test_a_line_longer_than_a_block_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    for length in (8_000, 8_192, 40_000, 1):
        append(file, "text", {"it": "x" * length})
    assert verify(file)[0] == 4


def test_processes_that_write_at_once_make_one_chain(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(file, 20)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert verify(file)[0] == 60
