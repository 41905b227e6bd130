"""The docs' tables of tasks are made from the tasks, so that none can be missing there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fedrounds_common.shelves import TASKS

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
