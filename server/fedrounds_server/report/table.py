"""A table of words, once: for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from rich.cells import cell_len


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

    def __str__(self) -> str:
        return "\n".join(as_lines(self))


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
