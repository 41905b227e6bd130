"""Where each key of a TOML text stands. tomllib gives values without lines; this small scan gives the lines.

It is run on text that tomllib has accepted, so it need not find errors, only keys.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import final

Path = tuple[str, ...]  # keys, and positions in lists as digits

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_PLAIN_VALUE = re.compile(r"[^\s,\]}#][^,\]}#\n]*")
# the longest quotes first: a multi-line string starts like an empty one
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")' r"|'''.*?'{3,5}(?!')" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'",
    re.DOTALL,
)


def lines_of(text: str) -> dict[str, int]:
    """Dotted key → line (from 1) for every table, key and list element; list elements are `key.0`, `key.1`, …"""
    scan = _Scan(text.replace("\r\n", "\n"))
    scan.document()
    return {".".join(path): line for path, line in scan.lines.items()}


def line_of(lines: dict[str, int], key: str) -> int:
    """The line of a key, or of the nearest table or key it is part of; 0 if there is none."""
    while key:
        if key in lines:
            return lines[key]
        key = key.rpartition(".")[0]
    return 0


@final
class _Scan:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # entries so far of each [[list of tables]]
        self.ends = [match.start() for match in re.finditer("\n", text)]

    def document(self) -> None:
        table: Path = ()
        while self.blank() < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)

    def header(self) -> Path:
        line, many = self.line(), self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        path = self.inside(self.key())
        if many:
            self.mark(path, line)
            count = self.counts.get(path, 0)
            self.counts[path] = count + 1
            path = (*path, str(count))
        self.mark(path, line)
        self.blank()
        self.at += 2 if many else 1
        return path

    def inside(self, key: Path) -> Path:
        """A header's key with the position of the newest entry put in after each list of tables on the way."""
        path: Path = ()
        for part in key[:-1]:
            path = (*path, part)
            if path in self.counts:
                path = (*path, str(self.counts[path] - 1))
        return (*path, key[-1])

    def pair(self, table: Path) -> None:
        line = self.line()
        path = (*table, *self.key())
        for length in range(len(table) + 1, len(path) + 1):
            self.mark(path[:length], line)
        self.blank()
        self.at += 1  # the equals sign
        self.value(path)

    def key(self) -> Path:
        parts: list[str] = []
        while True:
            self.blank()
            parts.append(self.word())
            self.blank()
            if self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def word(self) -> str:
        if self.text[self.at] == "'":
            return self.take(_STRING)[1:-1]
        if self.text[self.at] == '"':
            return _unquoted(self.take(_STRING))
        return self.take(_BARE)

    def value(self, path: Path) -> None:
        self.blank()
        start = self.text[self.at]
        if start == "[":
            self.array(path)
        elif start == "{":
            self.inline_table(path)
        elif start in "\"'":
            self.take(_STRING)
        else:
            self.take(_PLAIN_VALUE)

    def array(self, path: Path) -> None:
        self.at += 1
        number = 0
        while self.blank() < len(self.text) and self.text[self.at] != "]":
            element = (*path, str(number))
            self.mark(element, self.line())
            self.value(element)
            number += 1
            self.comma()
        self.at += 1

    def inline_table(self, path: Path) -> None:
        self.at += 1
        while self.blank() < len(self.text) and self.text[self.at] != "}":
            self.pair(path)
            self.comma()
        self.at += 1

    def comma(self) -> None:
        self.blank()
        if self.text.startswith(",", self.at):
            self.at += 1

    def blank(self) -> int:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:  # only if tomllib and this scan disagree; parse.py then does without lines
            raise ValueError(f"line {self.line()}: cannot follow {self.text[self.at : self.at + 20]!r}")
        self.at = match.end()
        return match.group()

    def line(self) -> int:
        return bisect_right(self.ends, self.at - 1) + 1

    def mark(self, path: Path, line: int) -> None:
        self.lines.setdefault(path, line)


def _unquoted(text: str) -> str:
    escapes = re.sub(r"\\U([0-9A-Fa-f]{8})", lambda match: json.dumps(chr(int(match[1], 16)))[1:-1], text)
    return str(json.loads(escapes, strict=False))
