"""Study file → study: every fault with its line, and the origin of every value."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, final

from fedrounds_common.errors import Fault, StudyError, UsageError
from fedrounds_common.study.canonical import agreed_tables
from fedrounds_common.study.check import REHEARSAL, impossible_values, in_full, study_of
from fedrounds_common.study.lines import line_of, lines_of
from fedrounds_common.study.overrides import override
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import Table

LARGEST = 1_000_000  # bytes; the largest study we have seen, with 71 sites written out, has 12,000

MoreFaults = Callable[[Table, Study | None], list[Fault]]


@final
@dataclass(frozen=True)
class StudyFile:
    """A study with what one machine adds to it. `origins`: dotted key → "line 12", "default", "command line"."""

    study: Study
    simulation: Table
    text: str
    origins: Mapping[str, str]
    path: Path


def read_study(
    path: Path | str,
    overrides: Sequence[str] = (),
    plugins: Sequence[Path] = (),
    more_faults: MoreFaults | None = None,
) -> StudyFile:
    """Read and check a study file.

    Args:
        overrides: `key=value` each, set over the file.
        plugins: folders with the user's own plug-ins.
        more_faults: checks the raw `[simulation]` table beside the study (None if that has faults).

    Raises:
        UsageError: there is no such file, or an override is not `key=value`.
        StudyError: with every fault of the file and of the overrides.
    """
    path = Path(path)
    text = text_of(path)
    return parse_study(text, path, overrides, plugins, more_faults)


def parse_study(
    text: str,
    path: Path,
    overrides: Sequence[str] = (),
    plugins: Sequence[Path] = (),
    more_faults: MoreFaults | None = None,
) -> StudyFile:
    """As `read_study`, for text that has been read; `path` is only named."""
    raw, set_keys = override(tables_of(text, path), overrides)
    raw = in_full(raw)
    lines = lines_of(text)
    study, faults = study_of(raw, plugins)
    simulation = raw.get(REHEARSAL, {})
    if not isinstance(simulation, dict):
        faults.append(Fault(REHEARSAL, f"{simulation!r}: must be a table, [{REHEARSAL}]"))
    elif more_faults is not None and not any(impossible_values(simulation, REHEARSAL)):
        faults += more_faults(simulation, study)
    if study is None or faults:
        raise StudyError(str(path), [placed(fault, lines, set_keys) for fault in faults])
    origins = dict(_origins(agreed_tables(study), raw, lines, set_keys))
    origins |= dict(_origins({REHEARSAL: simulation}, raw, lines, set_keys))
    return StudyFile(study, simulation, text, origins, path)


def text_of(path: Path) -> str:
    """The text of a TOML file. Raises UsageError: there is none. StudyError: it is no text, or far too large."""
    if not path.is_file():
        here = path.parent if path.parent.is_dir() else Path()
        near = get_close_matches(path.name, [file.name for file in here.glob("*.toml")], n=1, cutoff=0.4)
        hint = f"did you mean {here / near[0]}?" if near else "`fedrounds study new` writes one"
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise UsageError("FR-U05", what, wanted="a study file (TOML)", do=hint, where=str(path))
    size = path.stat().st_size
    if size > LARGEST:
        raise _one(path, f"{size:,} bytes; at most {LARGEST:,}: a study holds settings, not data", 0)
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise _one(path, "the file is UTF-16; save it as UTF-8", 1)
    try:
        return data.decode("utf-8-sig")  # Windows editors put a mark before UTF-8; it means nothing
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _one(path, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8", line) from error


def tables_of(text: str, path: Path) -> Table:
    """What the text says. Raises StudyError, with the line: it is not TOML."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise _one(path, "brackets are nested too deep", 0) from error
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), text, path) from error
    except ValueError as error:  # Python converts no integer of more than 4,300 digits
        raise _one(path, "a number has thousands of digits", 0) from error


def _syntax_error(message: str, text: str, path: Path) -> StudyError:
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    lines = text.split("\n")
    line = int(place[1]) if place and place[1] else len(text.rstrip("\n").split("\n"))
    what = message[: place.start()] if place else message
    if what.startswith(("Cannot overwrite", "Cannot declare", "Cannot mutate", "Duplicate")):
        return _one(path, f"{lines[line - 1].strip()[:60]!r}: this key or table stands twice; keep one", line)
    return _one(path, f"{lines[line - 1].strip()[:60]!r}: {what[0].lower()}{what[1:]}; this is not TOML", line)


def _one(path: Path, message: str, line: int) -> StudyError:
    return StudyError(str(path), [Fault("file", message, line)])


def placed(fault: Fault, lines: dict[str, int], set_keys: Sequence[str] = ()) -> Fault:
    """The fault with its line, or the remark that the command line is at fault."""
    if any(_covers(key, fault.key) for key in set_keys):
        return replace(fault, message=f"{fault.message} (given on the command line)")
    # what is missing from the top of the file belongs on its first line
    top = 0 if "." in fault.key else 1
    return replace(fault, line=line_of(lines, fault.key) or top)


def _covers(key: str, other: str) -> bool:
    return other == key or other.startswith(f"{key}.")


def _origins(tables: Table, raw: Table, lines: dict[str, int], set_keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    given = set(leaves(raw))
    for key in leaves(tables):
        if any(_covers(each, key) for each in set_keys):
            yield key, "command line"
        else:
            yield key, f"line {line_of(lines, key)}" if key in given else "default"


def leaves(tables: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Dotted keys of everything that is no table; entries of a list of tables are counted from 0."""
    for key, value in tables.items():
        dotted = f"{above}.{key}" if above else key
        if isinstance(value, dict):
            yield from leaves(value, dotted)
        elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            for number, entry in enumerate(value):
                yield from leaves(entry, f"{dotted}.{number}")
        else:
            yield dotted
