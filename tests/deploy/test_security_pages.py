"""docs/security: every line of the checklist is checked by a command, every file and test that is named exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedrounds import hardening, health_site

REPO = Path(__file__).resolve().parents[2]
PAGES = REPO / "docs/security"
MODEL = (PAGES / "threat-model.md").read_text("utf-8")
PACKAGES = (
    "client/fedrounds_client",
    "common/fedrounds",
    "common/fedrounds_common",
    "server/fedrounds_server",
    "sites/fedrounds_sites",
)
SOURCES = [file.relative_to(REPO).as_posix() for package in PACKAGES for file in (REPO / package).rglob("*.py")]
TESTS = {file.name: file for file in (REPO / "tests").rglob("test_*.py")}


def section(page: str, heading: str) -> str:
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize(("heading", "whats"), [("A site", health_site.WHATS), ("A coordinator", hardening.WHATS)])
def test_the_checklist_is_the_doctors_own_in_its_order(heading: str, whats: tuple[str, ...]) -> None:
    rows = re.findall(r"^\| ([^|]+?) \|", section((PAGES / "hardening.md").read_text("utf-8"), heading), re.MULTILINE)
    assert tuple(rows[2:]) == whats  # after the heading and its rule


def rows_of_the_model() -> list[list[str]]:
    lines = [line for line in MODEL.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row[0] not in ("threat", "---")]


def test_every_threat_has_its_five_columns_and_none_is_without_an_answer() -> None:
    rows = rows_of_the_model()
    assert len(rows) > 20
    assert [row[0] for row in rows if len(row) != 5] == []
    # either something is done and shown, or it is said that nothing is
    assert [row[0] for row in rows if not (row[3] and row[4]) and not row[2]] == []


def test_every_file_that_is_named_is_one_and_only_one() -> None:
    named = {name for row in rows_of_the_model() for name in re.findall(r"`([a-z_/]+\.py)`", row[3])}
    assert named
    found = {name: [source for source in SOURCES if f"/{source}".endswith(f"/{name}")] for name in named}
    assert {name: paths for name, paths in found.items() if len(paths) != 1} == {}


def test_every_test_that_is_named_is_there() -> None:
    named = {tuple(each) for row in rows_of_the_model() for each in re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[4])}
    assert len(named) > 20
    missing = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if file not in TESTS or not re.search(rf"^(async )?def {name}\(", TESTS[file].read_text("utf-8"), re.MULTILINE)
    ]
    assert missing == []
