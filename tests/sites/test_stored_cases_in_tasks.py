"""A case from the store is drawn from and judged as the same case in memory is, by every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.rng import generator
from fedrounds_common.shelves import TASKS
from fedrounds_common.study.tables import CaseForm, Training
from fedrounds_sites.cache import CaseStore

VOLUME, STACK, PICTURE = (14, 12, 10), (4, 14, 12), (14, 12)
MASKS = {"labels": {"a": 1, "b": 3}}
CLASSES = {"classes": ("well", "ill")}
STUDIES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]] = {
    "masks of volumes": ({"name": "segmentation"}, {"dims": 3, **MASKS}, VOLUME),
    "masks of stacks": ({"name": "segmentation"}, {"dims": 2, **MASKS}, STACK),
    "masks of pictures": ({"name": "segmentation"}, {"dims": 2, **MASKS}, PICTURE),
    "classes of volumes": ({"name": "classification"}, {"dims": 3, **CLASSES}, VOLUME),
    "classes of stacks": ({"name": "classification"}, {"dims": 2, **CLASSES}, STACK),
    "pairs of volumes": ({"name": "registration"}, {"dims": 3, **MASKS}, VOLUME),
    "pictures made": ({"name": "generation"}, {"dims": 2, **CLASSES}, PICTURE),
}


def cases(grid: tuple[int, ...], channels: int) -> list[Case]:
    found = []
    for number in range(3):
        rng = np.random.default_rng(number)
        image, labels = np.zeros((channels, *grid), np.float32), np.zeros(grid, np.uint8)
        inside = tuple(slice(1, size - 1) for size in grid)
        image[(slice(None), *inside)] = rng.normal(size=image[(slice(None), *inside)].shape)
        labels[inside] = rng.choice([0, 1, 3], labels[inside].shape)
        target = Target(labels, np.eye(2, dtype=np.float32)[number % 2])
        found.append(Case(CaseRef(f"c{number}", f"p{number}"), image, target, np.eye(4)))
    return found


@pytest.mark.parametrize("what", STUDIES)
@pytest.mark.parametrize("patch", [None, 8])
def test_what_is_drawn_of_a_stored_case_is_what_is_drawn_of_the_case(
    what: str, patch: int | None, tmp_path: Path
) -> None:
    table, shape, grid = STUDIES[what]
    form, task = CaseForm(channels=("one", "two"), **shape), TASKS.load(table)
    plain, store = cases(grid, 2), CaseStore(tmp_path)
    for case in plain:
        store.put(case.ref.name, case)
    stored = [store.get(case.ref.name) for case in plain]
    assert all(case is not None and case.packed is not None for case in stored)
    training = Training(patch=None if patch is None else (patch,) * form.dims)
    first, second = generator(1), generator(1)
    for _ in range(6):
        one = task.draw(plain, form, training, first)
        other = task.draw(stored, form, training, second)  # type: ignore[arg-type]
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.target, other.target)
    for case, again in zip(plain, stored, strict=True):
        assert again is not None
        assert task.lacks(case, form) == task.lacks(again, form)
    judged = [len(task.judged(each, form, 1)) for each in (plain, stored)]  # type: ignore[arg-type]
    assert judged[0] == judged[1]
