"""The text that travels and is approved, its digest, and the study written out in full as TOML."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrounds_common.errors import Fault, StudyError
from fedrounds_common.study.check import AGREED, REHEARSAL, plain, study_of
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import Table

Origins = Mapping[str, str]


def agreed_tables(study: Study) -> Table:
    """The agreed half with every default filled in; `study_of` reads it back to the same study."""
    tables = plain(study)
    return {key: tables[key] for key in AGREED}


def canonical_text(study: Study) -> str:
    """JSON on one line, keys sorted, defaults filled in, the agreed half only. Equal iff the studies are."""
    return json.dumps(agreed_tables(study), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(study: Study) -> str:
    """SHA-256 of the canonical text: what a hospital's permit names."""
    return digest_of_text(canonical_text(study))


def digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def study_from_canonical(text: str, plugins: Sequence[Path] = ()) -> Study:
    """What a site receives; it is checked again. `plugins`: the site's own folders, never the sender's.

    Raises:
        StudyError: the text is no study.
    """
    try:
        raw = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise StudyError("study", [Fault("text", f"is not canonical: {error}")]) from error
    if not isinstance(raw, dict):
        raise StudyError("study", [Fault("text", "is not canonical: a JSON object is wanted")])
    study, faults = study_of(raw, plugins)
    if study is None:
        raise StudyError("study", faults)
    return study


def _once(pairs: list[tuple[str, Any]]) -> Table:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def resolved_toml(study: Study, simulation: Table, origins: Origins) -> str:
    """Every value of the study with its origin behind it; read back, it is the same study."""
    return toml_text(agreed_tables(study) | ({REHEARSAL: simulation} if simulation else {}), origins)


def toml_text(tables: Table, remarks: Origins) -> str:
    """The tables as TOML, with each key's remark behind its value."""
    return "\n".join(_lines(tables, (), "", remarks)).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], header: tuple[str, ...], path: str, origins: Origins) -> Iterator[str]:
    """`header` is the table's key as TOML writes it, `path` as `origins` names it (with positions in lists)."""
    # a table's own values must stand before the tables inside it, or TOML takes them for the inner one's
    inner = {key: value for key, value in table.items() if isinstance(value, dict) or _is_tables(value)}
    values = {key: f"{_key(key)} = {_toml(value)}" for key, value in table.items() if key not in inner}
    width = min(max(map(len, values.values()), default=0), 60)
    for key, line in values.items():
        yield f"{line.ljust(width)}  # {origins.get(f'{path}{key}', 'default')}"
    for key, value in inner.items():
        name = ".".join([*header, _key(key)])
        if isinstance(value, dict):
            yield from ("", f"[{name}]", *_lines(value, (*header, _key(key)), f"{path}{key}.", origins))
        else:
            for number, entry in enumerate(value):
                below = _lines(entry, (*header, _key(key)), f"{path}{key}.{number}.", origins)
                yield from ("", f"[[{name}]]", *below)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_toml(entry) for entry in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_toml(entry)}' for key, entry in value.items())} }}"
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML alone forbids
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
