"""Files and folders whose names begin with a number, `0007-chest` or `round-0007.safetensors`, in the order of it.

Four digits are the least and not the most: as text 10000 comes before 9999.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_NUMBER = re.compile(r"(?:round-)?(\d+)")


def number_of(file: Path) -> int | None:
    """The number in a name; None: there is none."""
    found = _NUMBER.match(file.name)
    return None if found is None else int(found[1])


def by_number(files: Iterable[Path]) -> list[Path]:
    """Lowest number first, of one number by name; those without a number last."""

    def place(file: Path) -> tuple[bool, int, str]:
        number = number_of(file)
        return number is None, number or 0, str(file)

    return sorted(files, key=place)
