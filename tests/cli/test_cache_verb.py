"""`fedrounds cache`: what a folder keeps, whether it is whole, and away with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds_common.case import Case, CaseRef
from fedrounds_sites.cache import CaseStore


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
    assert fedrounds("cache", str(kept.folder), "--clear", "--format", "json").envelope["data"]["deleted"] == 3
    assert [file.name for file in kept.folder.iterdir()] == ["notes.txt"]
    assert fedrounds("cache", str(kept.folder)).status == 0


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
