"""The pages say what the program does: their studies parse, their commands exist, they build without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PAGES = sorted(page for page in [*(REPO / "docs").rglob("*.md"), *REPO.glob("*.md")] if "_build" not in page.parts)
STUDY = re.compile(r"```toml\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"(?:`|\$ )fedrounds ([a-z][a-z-]*)(?: ([a-z][a-z-]*)(?=[\s`]))?")


def studies_in(page: Path) -> list[str]:
    return [text for text in STUDY.findall(page.read_text("utf-8")) if re.search(r"^format = ", text, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())
def test_every_study_on_a_page_has_no_fault(page: Path) -> None:
    from fedrounds_common.study.parse import parse_study

    for text in studies_in(page):
        assert parse_study(text, page).study.format == 1


def test_there_is_a_study_on_the_study_page() -> None:
    assert studies_in(REPO / "docs/study-file.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())
def test_every_command_on_a_page_exists(page: Path) -> None:
    import click
    import typer

    from fedrounds.cli.main import app

    top = typer.main.get_command(app)
    assert isinstance(top, click.Group)
    unknown = set()
    for verb, word in COMMAND.findall(page.read_text("utf-8")):
        command = top.commands.get(verb)
        if isinstance(command, click.Group) and word:
            command = command.commands.get(word)
        if command is None:
            unknown.add(f"{verb} {word}".strip())
    assert unknown == set()


def test_decision_records_are_short_and_all_in_the_index() -> None:
    records = sorted((REPO / "docs/decisions").glob("[0-9]*.md"))
    assert [record.name for record in records if len(record.read_text("utf-8").splitlines()) > 30] == []
    listed = re.findall(r"^(\d{4}-[a-z0-9-]+)$", (REPO / "docs/decisions/index.md").read_text("utf-8"), re.MULTILINE)
    assert listed == [record.stem for record in records]


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    built = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), str(REPO / "docs"), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    assert "FR-S01" in (tmp_path / "html/error-codes.html").read_text("utf-8")
    assert "local_steps" in (tmp_path / "html/study-file.html").read_text("utf-8")
