"""`report.html`: one file that opens anywhere, without a network and without scripts."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fedrounds_common.disk import write_text
from fedrounds_server.report import honesty, words
from fedrounds_server.report.carried import carried_table
from fedrounds_server.report.figures import drawings, save_all
from fedrounds_server.report.folder import RunView, read_run
from fedrounds_server.report.results import gap_of, gap_sentence, meanings, models_table, regions_table
from fedrounds_server.report.sites import (
    failures_table,
    hospital_tables,
    left_out_table,
    measures_table,
    traffic_table,
)
from fedrounds_server.report.spent import spent_table
from fedrounds_server.report.style import DPI, Drawing
from fedrounds_server.report.table import Table

TEMPLATES = Path(__file__).resolve().parent / "templates"
_PLACES = re.compile(r'^((?:root|file|key_file|initial_weights) *= *)"(?:[^"\\]|\\.)*"', re.MULTILINE)


@final
@dataclass(frozen=True)
class Shown:
    """A figure on the page: its bytes inside the page, its size in CSS pixels."""

    name: str
    title: str
    caption: str
    alt: str
    source: str
    width: int
    height: int


@final
@dataclass(frozen=True)
class Section:
    """`anchor` is the heading's id; what is empty is left out of the page."""

    anchor: str
    title: str
    paragraphs: Sequence[str] = ()
    points: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Shown] = ()
    commands: Sequence[tuple[str, str]] = ()
    text: str = ""


def write_report(run: Path, with_sites: bool = True) -> Path:
    """Draw the figures into `figures/` and write `report.html` beside them.

    Args:
        run: the run's folder.
        with_sites: let scores and pictures of single cases in. Only where `sites/` is this
            machine's own: in a simulation.

    Raises:
        RunFileError: not a run folder, or a file in it cannot be read.
    """
    folder = read_run(run, with_sites)
    drawn = drawings(folder)
    files = save_all(drawn, run / "figures")
    shown = [embedded(drawing, file.read_bytes()) for drawing, file in zip(drawn, files, strict=True)]
    path = run / "report.html"
    write_text(path, page(folder, shown))
    return path


def page(run: RunView, figures: Sequence[Shown]) -> str:
    """The whole page; every text from the run is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        headline=words.headline(run),
        phantom=run.phantom,
        ended=words.ended(run),
        short=words.in_short(run),
        sections=sections(run, {figure.name: figure for figure in figures}),
    )


def embedded(drawing: Drawing, data: bytes) -> Shown:
    """The figure as it stands in the page, from the bytes of its file."""
    width, height = drawing.figure.get_size_inches()
    source = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    # 7.2 inches fill the page's column of 864 CSS pixels; the file holds DPI / 120 times as many
    scale = min(DPI, 120)
    return Shown(
        drawing.name, drawing.title, drawing.caption, drawing.alt, source, round(width * scale), round(height * scale)
    )


def sections(run: RunView, figures: dict[str, Shown]) -> tuple[Section, ...]:
    """The page in order; a section with nothing in it is left out."""

    def of(*names: str) -> list[Shown]:
        return [figures[name] for name in names if name in figures]

    models = models_table(run)
    made = (
        Section("asked", "What was asked", facts=words.facts(run)),
        Section(
            "ended", "How it ended", [words.took_part(run)], tables=_there(failures_table(run), left_out_table(run)),
            figures=of("participation"),
        ),
        Section(
            "worth", "What federating was worth", figures=of("models", "regions"),
            tables=_there(models, regions_table(run)), paragraphs=_gap(run), points=meanings(models) if models else (),
        ),
        Section("hospitals", "Each hospital", figures=of("hospitals"), tables=hospital_tables(run)),
        Section("measures", "Every measure", tables=_there(measures_table(run))),
        Section("rounds", "Round by round", figures=of("curves", "traffic"), tables=_there(carried_table(run))),
        Section("worst", "The worst cases", figures=of("worst")),
        Section(
            "left", "What left the hospitals", honesty.what_left(run), honesty.privacy(run),
            tables=_there(spent_table(run), traffic_table(run)),
        ),
        Section("repeat", "How to repeat it", commands=words.commands(run), facts=words.versions(run), text=_study(run)),
        Section("limits", "What this cannot show", points=honesty.limits(run)),
    )  # fmt: skip
    return tuple(one for one in made if _holds(one))


def _there(*tables: Table | None) -> tuple[Table, ...]:
    return tuple(table for table in tables if table is not None)


def _holds(one: Section) -> bool:
    return any((one.paragraphs, one.points, one.facts, one.tables, one.figures, one.commands, one.text))


def _gap(run: RunView) -> list[str]:
    way = gap_of(run)
    return [gap_sentence(way, run.digits)] if way is not None else []


def _study(run: RunView) -> str:
    """A report is sent around: where this machine keeps its files is left out of it."""
    file = run.path / "study.resolved.toml"
    return _PLACES.sub(r'\1"…"', file.read_text(encoding="utf-8")) if file.is_file() else ""
