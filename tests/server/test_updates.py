"""The update store: on disk past its budget, read by site name, one update of a site, and nothing left behind."""

from __future__ import annotations

import weakref
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds_common.arrays import Arrays, digest, manifest, size_bytes
from fedrounds_common.shelves import STRATEGIES
from fedrounds_common.strategy import SiteUpdate
from fedrounds_server.updates import UpdateStore

SITES = ("a", "b", "c", "d")


def arrays(seed: int) -> Arrays:
    draws = np.random.default_rng(seed)
    return {
        "z.weight": draws.normal(size=(5, 3)).astype(np.float32).T,  # not in C order
        "bias": draws.normal(size=4).astype(np.float32),
        "temperature": np.array(draws.normal(), np.float32),
        "seen": np.array(seed, np.int64),
        "empty": np.zeros((0, 2), np.float32),
    }


SIZE = size_bytes(arrays(0))


def filled(folder: Path, budget: int, order: tuple[str, ...] = SITES) -> UpdateStore:
    store = UpdateStore(folder, budget)
    for site in order:
        store.put(SiteUpdate(site, arrays(SITES.index(site)), 3 + SITES.index(site)))
    return store


def on_disk(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*"))


def test_updates_come_out_by_name_whoever_came_first(tmp_path: Path) -> None:
    for number, order in enumerate(permutations(SITES)):
        store = filled(tmp_path / str(number), 2 * SIZE, order)
        assert [(update.site, update.cases) for update in store] == [("a", 3), ("b", 4), ("c", 5), ("d", 6)]
        assert len(store) == 4


@pytest.mark.parametrize(
    ("budget", "spilled"), [(4 * SIZE, 0), (4 * SIZE - 1, 1), (2 * SIZE, 2), (SIZE - 1, 4), (0, 4)]
)
def test_what_does_not_fit_the_budget_lies_on_disk_and_nothing_else(budget: int, spilled: int, tmp_path: Path) -> None:
    store = filled(tmp_path / "updates", budget)
    assert on_disk(tmp_path / "updates") == [f"{site}.safetensors" for site in SITES[4 - spilled :]]
    for update in store:
        wanted = arrays(SITES.index(update.site))
        assert digest(update.arrays) == digest(wanted)
        assert sorted(manifest(update.arrays)) == sorted(manifest(wanted))


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_the_aggregate_is_the_same_wherever_the_updates_lay(name: str, tmp_path: Path) -> None:
    strategy = STRATEGIES.load({"name": name})
    begun = strategy.begin({key: array for key, array in arrays(9).items() if key != "empty"})

    def after(budget: int) -> tuple[str, str]:
        store = UpdateStore(tmp_path / f"{budget}", budget)
        for number, site in enumerate(SITES):
            store.put(SiteUpdate(site, {key: a for key, a in arrays(number).items() if key != "empty"}, 2 + number))
        found = strategy.aggregate(begun, store)
        return digest(found.arrays), digest(found.kept)

    assert len({after(budget) for budget in (0, SIZE, 2 * SIZE, 10 * SIZE)}) == 1


def test_a_second_update_of_a_site_is_a_mistake_of_ours(tmp_path: Path) -> None:
    store = filled(tmp_path, 10 * SIZE)
    with pytest.raises(ValueError, match="b has an update in this round already"):
        store.put(SiteUpdate("b", arrays(1), 4))
    assert len(store) == 4


def test_updates_on_disk_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    store = filled(tmp_path, 0)
    seen: list[weakref.ref[Any]] = []
    for update in store:
        assert sum(reference() is not None for reference in seen) <= 1
        seen.append(weakref.ref(update))
    del update
    assert all(reference() is None for reference in seen)


def test_clearing_leaves_nothing_and_the_budget_is_whole_again(tmp_path: Path) -> None:
    store = filled(tmp_path / "updates", 2 * SIZE)
    store.clear()
    assert len(store) == 0
    assert list(store) == []
    assert not (tmp_path / "updates").exists()
    store.put(SiteUpdate("a", arrays(0), 1))
    store.put(SiteUpdate("b", arrays(1), 1))
    assert on_disk(tmp_path / "updates") == []


def test_clearing_a_store_that_never_spilled_is_no_error(tmp_path: Path) -> None:
    filled(tmp_path / "updates", 10 * SIZE).clear()
    assert not (tmp_path / "updates").exists()


def test_a_crash_leaves_what_was_on_disk_and_a_new_store_does_not_mind(tmp_path: Path) -> None:
    filled(tmp_path, 0)
    store = filled(tmp_path, 0, SITES[:2])
    assert [update.site for update in store] == ["a", "b"]
