"""Images kept in a folder that site.toml names no more: who withdraws goes from there too, and a site that leaves empties it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds_client.caches import caches, remember
from fedrounds_client.deciding import leave
from fedrounds_client.home import SiteHome
from fedrounds_client.withdrawn import forget_withdrawn
from fedrounds_common.case import Case, CaseRef
from fedrounds_common.leaving import Ask, Hello
from fedrounds_sites.cache import CaseStore


def keeps(folder: Path, *patients: str) -> CaseStore:
    """A folder with one prepared case of each patient."""
    store = CaseStore(folder)
    for name in patients:
        store.put(name, Case(CaseRef(name, name, "A"), np.ones((1, 4, 4, 4), np.float32), None, np.eye(4)))
    return store


def patients_in(store: CaseStore) -> set[str]:
    return {ref.patient for _, ref in store.refs() if ref is not None}


@pytest.fixture
def site(enrolled: Callable[..., Any]) -> Any:
    return enrolled()


def moved(site: Any) -> tuple[CaseStore, CaseStore]:
    """A site whose cache was `old` and is `new`, with the same two patients in both."""
    stores = []
    for name in ("old", "new"):
        site.set(f"machine.cache={name}")
        remember(site.home, site.home.read_settings().cache)
        stores.append(keeps(site.home.folder / name, "p1", "p2"))
    return stores[0], stores[1]


def test_a_site_remembers_each_folder_before_a_case_lies_there(site: Any, study_ask: Callable[..., Ask]) -> None:
    ask = study_ask("hello", 0)
    site.allow(ask)
    for name in ("old", "new", "old"):
        site.set(f"machine.cache={name}")
        assert isinstance(site.answer(ask), Hello)
    site.set('machine.cache=""')
    assert isinstance(site.answer(ask), Hello)
    assert caches(site.home) == (site.home.folder / "old", site.home.folder / "new")


@pytest.mark.parametrize("now", ["new", ""])
def test_who_withdraws_is_deleted_from_every_folder_that_ever_kept_images(site: Any, now: str) -> None:
    old, new = moved(site)
    site.set(f'machine.cache="{now}"')
    assert forget_withdrawn(site.home, frozenset({"p1"}), site.home.read_settings().cache) == 2
    assert patients_in(old) == patients_in(new) == {"p2"}
    assert site.journal("withdrawn")[-1]["facts"] == {"patients": 1, "before": 0, "files_deleted": 2}


def test_a_folder_that_is_not_there_is_counted_and_looked_through_when_it_is_back(site: Any) -> None:
    old, _ = moved(site)
    away = old.folder.rename(site.home.folder / "unmounted")
    assert forget_withdrawn(site.home, frozenset({"p1"})) == 1
    assert site.journal("withdrawn")[-1]["facts"]["folders_not_there"] == 1
    away.rename(old.folder)
    assert forget_withdrawn(site.home, frozenset({"p1"})) == 1
    assert patients_in(old) == {"p2"}
    assert "folders_not_there" not in site.journal("withdrawn")[-1]["facts"]
    assert forget_withdrawn(site.home, frozenset({"p1"})) == 0
    assert len(site.journal("withdrawn")) == 2


def test_a_site_that_leaves_empties_every_folder_that_ever_kept_images(site: Any) -> None:
    old, new = moved(site)
    site.set('machine.cache=""')
    assert leave(site.home) >= 4 * 256
    assert patients_in(old) == patients_in(new) == set()


def test_a_line_that_a_crash_cut_short_hides_no_other(tmp_path: Path) -> None:
    home = SiteHome(tmp_path)
    home.caches.write_text('{"folder": "/a"}\n{"fold')
    remember(home, Path("/b"))
    assert caches(home) == (Path("/a"), Path("/b"))
    assert caches(home, Path("/a")) == (Path("/a"), Path("/b"))
