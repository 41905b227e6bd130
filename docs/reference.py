"""Write reference pages from the code: the study's tables, the plug-ins, the error codes.

`python docs/reference.py FOLDER`, or through Sphinx (`conf.py`). What a page says is what the
dataclasses check, so the two cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator, TypeAdapter
from pydantic.fields import FieldInfo

import fedrounds_common
from fedrounds_common import shelves
from fedrounds_common.plugins import Shelf
from fedrounds_common.study import tables
from fedrounds_common.study.combinations import COLUMNS, FEATURES
from fedrounds_common.task import Task
from fedrounds_sites import simulation
from fedrounds_sites.partition import PARTITIONS

TABLES: tuple[tuple[str, type], ...] = (
    ("cases", tables.CaseForm),
    ("training", tables.Training),
    ("cohort", tables.Cohort),
    ("evaluation", tables.Evaluation),
    ("simulation", simulation.Simulation),
    ("simulation.ray", simulation.RayCluster),
)
SHELVES: tuple[tuple[str, str, Shelf[Any]], ...] = (
    ("task", "Tasks", shelves.TASKS),
    ("model", "Networks", shelves.NETWORKS),
    ("strategy", "Strategies", shelves.STRATEGIES),
    ("[privacy]", "Privacy measures", shelves.PRIVACY),
    ("wire", "Codecs", shelves.CODECS),
    ("wire.channel", "Channels", shelves.CHANNELS),
    ("simulation.reader", "Readers", simulation.READERS),
    ("simulation.partition", "Partitions", PARTITIONS),
)
WORDS: Mapping[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
BOUNDS = {annotated_types.Gt: "> {.gt}", annotated_types.Ge: "≥ {.ge}", annotated_types.Lt: "< {.lt}"}
BOUNDS |= {annotated_types.Le: "≤ {.le}"}
FIELDS = re.compile(r"^(?:Args|Attributes|Fields):\n((?:    .*\n?|\n)+)", re.MULTILINE)


def write_reference(folder: Path) -> None:
    """Write `study-tables.md`, `plug-ins.md`, `tasks.md`, `combinations.md` and `error-codes.md` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "study-tables": study_tables(),
        "plug-ins": plug_ins(),
        "tasks": tasks(),
        "combinations": combinations(),
        "error-codes": error_codes(),
    }
    for name, lines in pages.items():
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n", "utf-8")


def study_tables() -> Iterator[str]:
    for key, kind in TABLES:
        yield from (f"## `[{key}]`", "", *_prose(kind, f"`[{key}]`: "), "", *_fields(kind))


def plug_ins() -> Iterator[str]:
    for key, title, shelf in SHELVES:
        names = shelf.names()
        yield from (f"## {title}: `[{key}]`", "")
        if not names:
            yield from ("None yet.", "")
        for name in names:
            kind = shelf.find(name)
            yield from (f"### `{name}`", "", *_prose(kind), "", *_fields(kind))
            if shelf is shelves.TASKS:
                yield from _measures(kind)


def tasks() -> Iterator[str]:
    """A line for each task: what it is, what its network makes, by what it is measured."""
    yield from ("| task | what it is | a network that makes | measured by |", "| --- | --- | --- | --- |")
    for name in shelves.TASKS.names():
        kind = shelves.TASKS.find(name)
        what = (inspect.getdoc(sys.modules[kind.__module__]) or "").split("\n\n")[0].replace("\n", " ")
        brief = [one.word for one in kind.measures.values() if one.brief] or [m.word for m in kind.measures.values()]
        yield f"| `{name}` | {what} | {' or '.join(kind.takes)} | {', '.join(brief)} |"


def combinations() -> Iterator[str]:
    """What of a study goes with what protects it: the table that `study check` refuses by."""
    yield from (f"- **{column}**: {said}" for column, said in COLUMNS.items())
    yield from ("", f"| in the study | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS))
    for row in FEATURES:
        yield f"| {row.name} | {' | '.join(_cell(str(row.cell(column))) for column in COLUMNS)} |"
    yield ""


def _cell(said: str) -> str:
    """How it goes stands out, and the reason behind it does not."""
    goes, colon, why = said.partition(": ")
    return said if goes == "works" else f"**{goes}**{colon}{why}"


def _measures(task: type[Task]) -> Iterator[str]:
    yield from ("| measure | shown as | better | |", "| --- | --- | --- | --- |")
    for name, one in task.measures.items():
        better, sums = "lower" if one.lower_is_better else "higher", "" if one.exact else "bounded, not exact"
        yield f"| `{name}` | {one.word} | {better} | {sums} |"
    yield ""


def error_codes() -> Iterator[str]:
    for file in sorted((Path(fedrounds_common.__file__).parent / "codes").glob("*.toml")):
        for code, text in sorted(tomllib.loads(file.read_text("utf-8")).items()):
            yield from (f"## {code}", "", f"**{text['title']}.** {text['why']}", "", f"{text['do']}", "")


def _prose(kind: type, prefix: str = "") -> list[str]:
    """The docstring without its list of fields; a class without one is described by its file's."""
    text = inspect.getdoc(kind) or ""
    if not text or text.startswith(f"{kind.__name__}("):  # a dataclass without a docstring gets its signature
        text = inspect.getdoc(sys.modules[kind.__module__]) or ""
    if prefix and text.startswith(prefix):
        text = text.removeprefix(prefix)
        text = text[:1].upper() + text[1:]
    return [FIELDS.sub("", text).strip()]


def _said(kind: type) -> dict[str, str]:
    """Field → its description in the docstring's list, if there is one."""
    listed = FIELDS.search(inspect.getdoc(kind) or "")
    if listed is None:
        return {}
    said: dict[str, str] = {}
    several: list[str] = []
    for line in listed[1].splitlines():
        names, colon, text = line.strip().partition(": ")
        if colon and line.startswith("    ") and line[4:5] != " ":
            several = names.split(", ")  # `images, labels: ...` speaks of both
            said |= dict.fromkeys(several, text)
        elif said and line.strip():
            said |= {name: f"{said[name]} {line.strip()}" for name in several}
    return said


def _fields(kind: type) -> Iterator[str]:
    hints = typing.get_type_hints(kind, include_extras=True)
    said = _said(kind)
    rows = [[f"`{field.name}`", words(hints[field.name]), _default(field)] for field in dataclasses.fields(kind)]
    if rows:
        yield from (
            "| key | value | default |" + (" |" if said else ""),
            "| --- | --- | --- |" + (" --- |" if said else ""),
        )
    for field, row in zip(dataclasses.fields(kind), rows, strict=True):
        cells = [cell.replace("|", "\\|") for cell in (row + [said.get(field.name, "")] * bool(said))]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value: object = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        value = field.default
    else:
        return "must be given"
    return f"`{toml(value)}`" if value is not None else "–"


def toml(value: object) -> str:
    """A default as it would stand in the file."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = TypeAdapter(type(value)).dump_python(value, mode="json")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        return f"'{value}'" if "\\" in str(value) else f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(each) for each in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }" if value else "{}"
    return f"{value:.4g}" if isinstance(value, float) and value != int(value) else str(value)


def words(hint: Any) -> str:
    """A type as a person would say it: "integer ≥ 1", "list of text", "one of a, b"."""
    if hint is None or hint is type(None):
        return "absent"
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        bounds = [mark.format(note) for note in _flat(notes) for rule, mark in BOUNDS.items() if isinstance(note, rule)]
        # only such a validator takes TOML's missing null as a word
        none = ' or `"none"`' if any(isinstance(note, BeforeValidator) for note in notes) else ""
        return " ".join([words(kind), ", ".join(bounds)]).strip() + none
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(f"`{toml(value)}`" for value in get_args(hint))
    if get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(words(each) for each in get_args(hint) if each is not type(None))
    if get_origin(hint) in (tuple, list):
        inside = [each for each in get_args(hint) if each is not Ellipsis]
        many = len(set(inside)) == 1
        return f"list of {words(inside[0])}" if many else f"[{', '.join(words(each) for each in inside)}]"
    if get_origin(hint) is dict:
        _, value = get_args(hint)
        return f"table of {words(value)}" if value is not Any else "table"
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or issubclass(hint, BaseModel)):
        return "table: " + ", ".join(f"`{field.name}`" for field in dataclasses.fields(hint))
    return WORDS.get(hint, re.sub(r"^.*\.", "", str(getattr(hint, "__name__", hint))))


def _flat(notes: list[Any]) -> Iterator[Any]:
    for note in notes:
        yield from (note.metadata if isinstance(note, FieldInfo) else [note])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: reference.py FOLDER")
    write_reference(Path(sys.argv[1]))
