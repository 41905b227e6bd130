"""The docs' tables of tasks and combinations are made from the code, so that none can be missing there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fedrounds_common.shelves import TASKS
from fedrounds_common.study.combinations import COLUMNS, FEATURES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_task_stands_in_the_table_of_tasks_with_its_measures(reference: ModuleType) -> None:
    _, _, *lines = reference.tasks()
    assert [line.split("`")[1] for line in lines] == list(TASKS.names())
    page = "\n".join(reference.plug_ins())
    for name, line in zip(TASKS.names(), lines, strict=True):
        measures = TASKS.find(name).measures
        assert any(one.word in line for one in measures.values())
        assert all(f"| `{metric}` | {one.word} |" in page for metric, one in measures.items())


def test_a_page_of_the_docs_holds_that_table() -> None:
    assert "_build/reference/tasks.md" in (DOCS / "plug-ins.md").read_text("utf-8")


def test_every_combination_stands_in_the_docs_table(reference: ModuleType) -> None:
    lines = [line for line in reference.combinations() if line.startswith("|")][2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == [row.name for row in FEATURES]
    assert all(line.count(" | ") == len(COLUMNS) for line in lines)
    assert "_build/reference/combinations.md" in (DOCS / "combinations.md").read_text("utf-8")
