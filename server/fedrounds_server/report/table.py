"""A table of words, once: for the page, for the terminal, and for a terminal without colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from rich.cells import cell_len
from rich.table import Table as RichTable


@final
@dataclass(frozen=True)
class Table:
    """`rows` hold as many texts as `columns`; the first of each is its heading.

    `words` are the columns read as text (others are numbers and stand right); `strong` the rows to mark.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset({0})
    strong: frozenset[int] = frozenset()
    note: str = ""


def as_lines(table: Table) -> list[str]:
    """Plain text in columns, caption first and note last; for pipes, logs and screen readers."""
    grid = [table.columns, *table.rows]
    widths = [max(cell_len(row[column]) for row in grid) for column in range(len(table.columns))]
    lines = [table.caption]
    lines += ["  " + _line(row, widths, table.words) for row in grid]
    return lines + ([table.note] if table.note else [])


def _line(row: Sequence[str], widths: Sequence[int], words: frozenset[int]) -> str:
    cells = []
    for column, (text, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - cell_len(text))
        cells.append(text + space if column in words else space + text)
    return "   ".join(cells).rstrip()


def as_rich(table: Table) -> RichTable:
    """The same for a terminal."""
    made = RichTable(
        title=table.caption, title_justify="left", caption=table.note or None, caption_justify="left", box=None
    )
    for column, name in enumerate(table.columns):
        made.add_column(name, justify="left" if column in table.words else "right", overflow="fold")
    for index, row in enumerate(table.rows):
        # plain Text would be safest; brackets of an interval must not be read as markup
        made.add_row(*(text.replace("[", r"\[") for text in row), style="bold" if index in table.strong else None)
    return made
