"""`fedrounds cache`: what a folder keeps, whether it is whole, and away with it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds_common.case import Case, CaseRef
from fedrounds_sites.cache import CaseStore
from fedrounds_sites.cache_lock import in_use


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has a person answer at a terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    return lambda answer: monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))


@pytest.fixture
def kept(tmp_path: Path) -> CaseStore:
    store, rng = CaseStore(tmp_path / "kept"), np.random.default_rng(0)
    for name, patient in (("a", "p1"), ("b", "p1"), ("c", "p2")):
        image = rng.normal(size=(1, 9, 9, 9)).astype(np.float32)
        store.put(name, Case(CaseRef(name, patient), image, None, np.eye(4)))
    return store


def test_it_says_how_many_cases_of_how_many_patients_are_kept(fedrounds: Any, kept: CaseStore) -> None:
    said = fedrounds("cache", str(kept.folder), "--format", "json")
    data = said.envelope["data"]
    assert said.status == 0
    assert (data["cases"], data["patients"], data["bytes"]) == (3, 2, kept.bytes)
    assert "3 prepared cases of 2 patients" in fedrounds("cache", str(kept.folder)).out


def test_a_check_reads_them_all_and_names_what_is_damaged(fedrounds: Any, kept: CaseStore) -> None:
    assert fedrounds("cache", str(kept.folder), "--check").status == 0
    file = min(kept.folder.iterdir())
    content = bytearray(file.read_bytes())
    content[-80] ^= 1
    file.write_bytes(content)
    said = fedrounds("cache", str(kept.folder), "--check", "--format", "json")
    assert said.status == 4
    assert said.envelope["data"]["damaged"] == [str(file)]


def test_cleared_nothing_is_left_and_nothing_else_was_touched(fedrounds: Any, kept: CaseStore) -> None:
    (kept.folder / "notes.txt").write_text("mine")
    (kept.folder / "mine.case").write_text("of another program")
    said = fedrounds("cache", str(kept.folder), "--clear", "--yes", "--format", "json")
    assert said.envelope["data"]["deleted"] == 3
    assert sorted(file.name for file in kept.folder.iterdir()) == ["mine.case", "notes.txt"]
    (kept.folder / "mine.case").unlink()
    assert fedrounds("cache", str(kept.folder)).status == 0


def test_without_a_terminal_nothing_is_deleted_unless_yes_was_said(fedrounds: Any, kept: CaseStore) -> None:
    said = fedrounds("cache", str(kept.folder), "--clear", "--format", "json")
    assert (said.status, said.envelope["error"]["code"]) == (2, "FR-U97")
    assert len(list(kept.refs())) == 3


@pytest.mark.parametrize(("answer", "left"), [("n", 3), ("", 3), ("y", 0)])
def test_at_a_terminal_a_person_is_asked(
    fedrounds: Any, kept: CaseStore, terminal: Any, answer: str, left: int
) -> None:
    terminal(answer)
    said = fedrounds("cache", str(kept.folder), "--clear")
    assert "3 prepared cases of 2 patients" in said.err, "what would go"
    assert "Delete them all?" in said.err
    assert len(list(kept.refs())) == left
    assert said.status == (0 if left == 0 else 2)


def test_a_folder_that_a_run_uses_is_not_emptied(fedrounds: Any, kept: CaseStore) -> None:
    with in_use(kept.folder), in_use(kept.folder):  # two runs at once may
        said = fedrounds("cache", str(kept.folder), "--clear", "--yes", "--format", "json")
        assert (said.status, said.envelope["error"]["code"]) == (2, "FR-U98")
        assert fedrounds("cache", str(kept.folder), "--check").status == 0
    assert len(list(kept.refs())) == 3
    assert fedrounds("cache", str(kept.folder), "--clear", "--yes").status == 0


def test_to_check_and_to_clear_at_once_is_refused_and_nothing_is_deleted(fedrounds: Any, kept: CaseStore) -> None:
    said = fedrounds("cache", str(kept.folder), "--check", "--clear", "--format", "json")
    assert said.envelope["error"]["code"] == "FR-U13"
    assert len(list(kept.refs())) == 3


def test_a_folder_that_is_not_there_and_a_site_that_keeps_none_are_errors(fedrounds: Any, tmp_path: Path) -> None:
    said = fedrounds("cache", str(tmp_path / "no"), "--format", "json")
    assert said.envelope["error"]["code"] == "FR-U92"
    fedrounds("site", "init", str(tmp_path / "site"), "--name", "oslo", "-s", f"data.root={tmp_path}")
    said = fedrounds("cache", "--site", str(tmp_path / "site"), "--format", "json")
    assert said.envelope["error"]["code"] == "FR-U92"
