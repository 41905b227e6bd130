"""The update store: past its budget on disk, read by site name, and a sum that does not depend on when it was made."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrounds_common.arrays import Arrays, digest, manifest, packed, size_bytes
from fedrounds_common.averaging import weighted_mean
from fedrounds_common.errors import RoundError
from fedrounds_common.shelves import STRATEGIES
from fedrounds_common.strategy import SiteUpdate, Weights
from fedrounds_server.updates import Kept, UpdateStore

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
COUNT = sum(array.size for array in arrays(0).values())
ROOM = 16 * COUNT + SIZE  # the sum in half of it, and more than one update in the rest


def update(site: str) -> SiteUpdate:
    number = SITES.index(site)
    return SiteUpdate(site, arrays(number), 3 + number)


def filled(folder: Path, budget: int, order: Sequence[str] = SITES, folds: Weights | None = None) -> UpdateStore:
    store = UpdateStore(folder, budget, folds)
    if folds is not None:
        store.awaits(SITES)
    for site in order:
        store.put(update(site))
    return store


def held(store: UpdateStore) -> list[str]:
    return sorted(store._held)


def test_updates_come_out_by_name_whoever_came_first(tmp_path: Path) -> None:
    for number, order in enumerate(permutations(SITES)):
        store = filled(tmp_path / str(number), 2 * SIZE, order)
        assert [(update.site, update.cases) for update in store] == [("a", 3), ("b", 4), ("c", 5), ("d", 6)]
        assert len(store) == 4


@pytest.mark.parametrize(
    ("budget", "spilled"), [(4 * SIZE, 0), (4 * SIZE - 1, 1), (2 * SIZE, 2), (SIZE - 1, 4), (0, 4)]
)
def test_what_does_not_fit_the_budget_lies_on_disk_and_reads_the_same(
    budget: int, spilled: int, tmp_path: Path
) -> None:
    store = filled(tmp_path / "updates", budget)
    assert store._slots_made == spilled
    for each in store:
        wanted = arrays(SITES.index(each.site))
        assert digest(each.arrays) == digest(wanted)
        assert manifest(each.arrays) == manifest(wanted)
    # room on disk that needs not outlive the process has no name, and is gone with it
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    store.forget()


def test_what_is_on_disk_already_is_read_there_in_parts(tmp_path: Path) -> None:
    store = UpdateStore(tmp_path / "updates", 0)
    for site in SITES:
        buffer = packed(arrays(SITES.index(site))).buffer
        (tmp_path / site).write_bytes(b"says\n" + bytes(buffer))
        store.put(update(site), Kept(tmp_path / site, 5))
    assert store._slots_made == 0
    assert [digest(each.arrays) for each in store] == [digest(arrays(number)) for number in range(4)]
    whole = weighted_mean([update(site) for site in SITES], "root")
    assert digest(dict(weighted_mean(store, "root"))) == digest(dict(whole))


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_the_aggregate_is_the_same_wherever_the_updates_lay_and_whenever_they_were_added(
    name: str, tmp_path: Path
) -> None:
    strategy = STRATEGIES.load({"name": name})
    begun = strategy.begin(arrays(9))

    def after(budget: int, *, early: bool, order: Sequence[str]) -> tuple[str, str]:
        store = UpdateStore(tmp_path / f"{budget}", budget, strategy.folds())
        if early:
            store.awaits(SITES)
        for site in order:
            store.put(update(site))
        found = strategy.aggregate(begun, store)
        result = digest(dict(found.arrays)), digest(dict(found.kept))
        store.clear()
        return result

    plain = strategy.aggregate(begun, [update(site) for site in SITES])
    found = {
        after(budget, early=early, order=order)
        for budget in (0, SIZE, 2 * SIZE, ROOM, 100 * SIZE)
        for early in (False, True)
        for order in ("abcd", "dcba", "bdac")
    }
    assert found == {(digest(plain.arrays), digest(plain.kept))}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(SITES),
    missing=st.sets(st.sampled_from(SITES), max_size=3),
    budget=st.sampled_from([0, SIZE, 2 * SIZE, ROOM, 100 * SIZE]),
    weights=st.sampled_from(["cases", "equal", "root"]),
)
def test_no_order_of_arrival_and_no_missing_site_changes_a_bit_of_the_sum(
    order: list[str], missing: set[str], budget: int, weights: Weights, tmp_path: Path
) -> None:
    store = UpdateStore(tmp_path, budget, weights)
    store.awaits(SITES)
    for site in order:
        store.gone(site) if site in missing else store.put(update(site))
    assert held(store) == [], "everybody has answered or will not: all are in the sum"
    wanted = weighted_mean([update(site) for site in SITES if site not in missing], weights)
    found = store.mean(weights)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in wanted.items()
    }
    store.forget()


def test_an_update_waits_for_those_before_it_and_is_then_let_go(tmp_path: Path) -> None:
    store = UpdateStore(tmp_path, 100 * SIZE, "cases")
    store.awaits(SITES)
    kept = []
    for site, wait in (("b", ["b"]), ("d", ["b", "d"]), ("a", ["d"]), ("c", [])):
        store.put(update(site))
        kept.append((site, held(store) == wait))
    assert kept == [("b", True), ("d", True), ("a", True), ("c", True)]
    assert store.cases == {"a": 3, "b": 4, "c": 5, "d": 6}
    assert store._used == 0


def test_a_site_from_which_nothing_comes_holds_nobody_up(tmp_path: Path) -> None:
    store = UpdateStore(tmp_path, 100 * SIZE, "cases")
    store.awaits(SITES)
    store.put(update("c"))
    store.gone("a")
    assert held(store) == ["c"]
    store.gone("b")
    assert held(store) == []
    with pytest.raises(ValueError, match="a has an update, and was not waited for"):
        store.put(update("a"))


def test_room_on_disk_is_used_again(tmp_path: Path) -> None:
    store = UpdateStore(tmp_path, 0, "cases")
    store.awaits([f"s{number:02d}" for number in range(20)])
    for pair in range(0, 20, 2):  # of two workers one is always first with the second
        for number in (pair + 1, pair):
            store.put(SiteUpdate(f"s{number:02d}", arrays(number), 1))
    assert held(store) == []
    assert store._slots_made == 1


def test_what_was_added_is_not_left_out_any_more(tmp_path: Path) -> None:
    store = filled(tmp_path, 100 * SIZE, folds="cases")
    with pytest.raises(ValueError, match="b has no update that can still be left out"):
        store.drop("b")
    with pytest.raises(ValueError, match="whose turn in the sum has passed"):
        store.awaits(("aa", *SITES))


@pytest.mark.parametrize("way", ["one by one", "side by side", "with weights 'equal'"])
def test_a_strategy_that_said_it_needs_the_mean_alone_gets_nothing_else(way: str, tmp_path: Path) -> None:
    store = filled(tmp_path, 100 * SIZE, folds="cases")
    with pytest.raises(RoundError, match=f"FR-R21 updates are read {way}"):
        {"one": lambda: list(store), "sid": lambda: store.column("bias", 0, 2)}.get(
            way[:3], lambda: store.mean("equal")
        )()


def test_updates_that_are_kept_give_any_mean_and_as_often_as_asked(tmp_path: Path) -> None:
    store = filled(tmp_path, 2 * SIZE)
    weights: tuple[Weights, ...] = ("cases", "equal", "cases")
    found = [digest(dict(weighted_mean(store, each))) for each in weights]
    assert found[0] == found[2] != found[1]
    assert len(list(store)) == 4


def test_the_mean_is_worked_out_a_tensor_at_a_time(tmp_path: Path) -> None:
    for budget in (0, 100 * SIZE):
        found = filled(tmp_path, budget).mean("equal")
        first = weakref.ref(found["bias"])
        assert first() is None
        # the mean of seeds 0 … 3 of an integer buffer: (0 + 1 + 2 + 3) / 4
        assert found["seen"] == 1.5
        assert list(found) == list(arrays(0))


@pytest.mark.parametrize("budget", [0, 2 * SIZE, 100 * SIZE])
def test_a_column_is_every_sites_values_in_the_order_of_their_names(budget: int, tmp_path: Path) -> None:
    store = filled(tmp_path, budget, "cadb")
    wanted = np.stack([arrays(number)["z.weight"].ravel()[4:9] for number in range(4)])
    np.testing.assert_array_equal(store.column("z.weight", 4, 5), wanted)


def test_a_second_update_of_a_site_is_a_mistake_of_ours(tmp_path: Path) -> None:
    store = filled(tmp_path, 10 * SIZE)
    with pytest.raises(ValueError, match="b has an update in this round already"):
        store.put(update("b"))
    assert len(store) == 4


def test_updates_on_disk_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    store = filled(tmp_path, 0)
    seen: list[weakref.ref[Any]] = []
    for each in store:
        assert sum(reference() is not None for reference in seen) <= 1
        seen.append(weakref.ref(each))
    del each
    assert all(reference() is None for reference in seen)


@pytest.mark.parametrize("folds", [None, "cases"])
def test_clearing_leaves_nothing_and_the_budget_is_whole_again(folds: Weights | None, tmp_path: Path) -> None:
    store = filled(tmp_path / "updates", 4 * SIZE, folds=folds)  # half of it is the sum's
    store.clear()
    assert len(store) == 0
    assert list(store) == []
    assert not (tmp_path / "updates").exists()
    store.put(update("a"))
    store.put(update("b"))
    assert store._slots_made == 0


def test_clearing_a_store_that_never_spilled_is_no_error(tmp_path: Path) -> None:
    filled(tmp_path / "updates", 10 * SIZE).clear()
    assert not (tmp_path / "updates").exists()
