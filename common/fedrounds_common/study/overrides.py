"""`-s key=value`: what the command line says over the file, read as TOML reads it."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Sequence
from typing import Any

from fedrounds_common.errors import UsageError
from fedrounds_common.study.tables import Table


def override(raw: Table, settings: Sequence[str]) -> tuple[Table, tuple[str, ...]]:
    """The tables with each `key=value` set, and the dotted keys that were set.

    Raises:
        UsageError: a setting is not `key=value`, or its key leads through something that is no table.
    """
    tables, keys = copy.deepcopy(raw), []
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            raise UsageError("FR-U06", f"{setting!r}", wanted="key=value, e.g. training.rounds=5", where="-s")
        _set(tables, key, value_of(text.strip()))
        keys.append(key)
    return tables, tuple(keys)


def value_of(text: str) -> Any:
    """`5` is a number, `[1, 2]` a list, `"a"` and `a` are both text."""
    try:
        read = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # a line break in the text would read as a second key
    return read["value"] if len(read) == 1 else text


def _set(tables: Table, key: str, value: Any) -> None:
    *way, last = key.split(".")
    here: Any = tables
    for part in way:
        if isinstance(here, dict) and (isinstance(here.get(part), str) or part not in here):
            # `strategy = "fedprox"` in the file, `-s strategy.mu=1` here: the short form is written in full
            here[part] = {"name": here[part]} if part in here else {}
        here = _step(here, part, key)
    if isinstance(here, list) and last.isdigit() and int(last) < len(here):
        here[int(last)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise _no_way(key, last)


def _step(here: Any, part: str, key: str) -> Any:
    if isinstance(here, list) and part.isdigit() and int(part) < len(here):
        return here[int(part)]
    if isinstance(here, dict) and isinstance(here.get(part), dict | list):
        return here[part]
    raise _no_way(key, part)


def _no_way(key: str, part: str) -> UsageError:
    return UsageError("FR-U06", f"{key}: {part} cannot be set there", wanted="a key of a table", where="-s")
