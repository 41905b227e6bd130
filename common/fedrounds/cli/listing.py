"""`fedrounds list KIND [NAME]`: what a study can name, and the settings of each."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
import typer

from fedrounds.cli.frame import Answer, Plugins, table, verb

if TYPE_CHECKING:
    from fedrounds_common.plugins import Shelf
    from fedrounds_common.task import Measure

# kind → the table of a study that names one
TABLES = {
    "tasks": "[task]",
    "networks": "[model]",
    "strategies": "[strategy]",
    "codecs": "[wire] and [wire.down]",
    "channels": "[wire.channel]",
    "privacy": "[[privacy]]",
    "readers": "[simulation.reader]",
    "partitions": "[simulation.partition]",
}
FILES = ("profiles", "studies")
AUGMENTATIONS = "augmentations"
COMBINATIONS = "combinations"
KINDS = (*TABLES, AUGMENTATIONS, COMBINATIONS, *FILES)


def register(app: typer.Typer) -> None:
    @verb(app, "list", "Studies")
    def list_kind(
        kind: Annotated[
            str,
            typer.Argument(
                metavar="KIND",
                click_type=click.Choice(KINDS),
                help=f"One of {', '.join(KINDS)}.",
                show_default=False,
            ),
        ],
        name: Annotated[str | None, typer.Argument(help="One of them: its settings and their defaults.")] = None,
        parameters: Annotated[
            bool, typer.Option("--parameters", help="Of networks: how many weights each has. Takes half a minute.")
        ] = False,
        plugins: Plugins = None,
    ) -> Answer:
        """List what a study can name; with NAME, the settings of one."""
        folders = list(plugins or ())
        if parameters:
            return _counted(kind, folders)
        if kind == AUGMENTATIONS:
            return _augmentations()
        if kind == COMBINATIONS:
            return _combinations()
        if kind in FILES:
            return _files(kind)
        return _all(kind, folders) if name is None else _one(kind, name, folders)


def _shelf(kind: str) -> Shelf[Any]:
    if kind == "readers":
        from fedrounds_sites.simulation import READERS

        return READERS
    if kind == "partitions":
        from fedrounds_sites.partition import PARTITIONS

        return PARTITIONS
    from fedrounds_common import shelves

    common: dict[str, Shelf[Any]] = {
        "tasks": shelves.TASKS,
        "networks": shelves.NETWORKS,
        "strategies": shelves.STRATEGIES,
        "codecs": shelves.CODECS,
        "channels": shelves.CHANNELS,
        "privacy": shelves.PRIVACY,
    }
    return common[kind]


def _all(kind: str, folders: list[Path]) -> Answer:
    # the first line of each file says what it is; reading it spares importing torch for a list
    entries = [(name, _first_line(file)) for name, file in _shelf(kind).files(folders).items()]
    data: dict[str, Any] = {"kind": kind, "table": TABLES[kind]}
    data["entries"] = [{"name": n, "summary": s} for n, s in entries]
    if not entries:
        return Answer(data, f"No {kind} yet.")
    columns = [f"name in {TABLES[kind]}", "what it is"]
    if kind != "tasks":
        return Answer(data, table(columns, entries))
    measures = {name: _measures(name) for name, _ in entries}
    data["entries"] = [{"name": n, "summary": s, "measures": list(measures[n])} for n, s in entries]
    rows = [(n, s, ", ".join(one.word for one in _brief(measures[n]))) for n, s in entries]
    return Answer(data, table([*columns, "measured by, among others"], rows))


def _measures(task: str) -> Mapping[str, Measure]:
    """Of a task of ours; a user's file is not imported for a list: with its name, `list tasks NAME` tells them."""
    from fedrounds_common.shelves import TASKS

    return TASKS.find(task).measures if task in TASKS.names() else {}


def _brief(measures: Mapping[str, Measure]) -> list[Measure]:
    return [one for one in measures.values() if one.brief] or list(measures.values())


def _one(kind: str, name: str, folders: list[Path]) -> Answer:
    found = _shelf(kind).find(name, folders)
    # every kind's base says that its files hold dataclasses; a file of the user's may not
    fields = [field for field in dataclasses.fields(found) if field.init] if dataclasses.is_dataclass(found) else []
    hints = get_type_hints(found, include_extras=True)
    rows = [(field.name, describe(hints[field.name]), _default(field)) for field in fields]
    summary = _first_line(_shelf(kind).files(folders)[name])
    settings = [{"name": row[0], "type": row[1], "default": row[2]} for row in rows]
    data: dict[str, Any] = {"kind": kind, "name": name, "table": TABLES[kind], "summary": summary, "settings": settings}
    head = f"{name}: {summary}\n"
    from rich.console import Group

    parts = [table(("setting", "takes", "default"), rows) if rows else "It has no settings."]
    if kind == "tasks":
        data["measures"] = {name: dataclasses.asdict(one) for name, one in found.measures.items()}
        better = [(n, one.word, "lower" if one.lower_is_better else "higher") for n, one in found.measures.items()]
        parts += ["", table(("measure", "shown as", "better"), better)]
    return Answer(data, Group(head, *parts))


def describe(kind: Any) -> str:
    """A field's type in plain words: `a number >= 0`, `cases | equal`, `list of text`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [word for extra in inner[1:] for word in _bounds(extra)]
        return " ".join([describe(inner[0]), *bounds])
    if origin is Literal:
        return " | ".join(str(word) for word in inner)
    if origin in (tuple, list):
        return f"list of {describe(inner[0])}" if inner else "list"
    if origin in (dict, Mapping):
        return "table"
    if origin in (Union, UnionType):
        return " or ".join(describe(each) for each in inner)
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


_WORDS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    dict: "table",
    type(None): "none",
}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _bounds(extra: Any) -> list[str]:
    # pydantic keeps `ge=0` as an object that has a field of that name
    parts = [extra, *getattr(extra, "metadata", ())]
    return [f"{sign} {getattr(part, name)}" for part in parts for name, sign in _SIGNS.items() if hasattr(part, name)]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return repr(field.default_factory()) if field.default_factory is not dataclasses.MISSING else "must be given"


def _counted(kind: str, folders: list[Path]) -> Answer:
    if kind != "networks":
        raise typer.BadParameter("of networks only", param_hint="--parameters")
    from fedrounds.counting import count

    found = count(folders)
    entries = [{**dataclasses.asdict(each), "weights": list(each.weights)} for each in found]
    rows = [
        (each.name, each.setting, each.makes, *("–" if number is None else f"{number:,}" for number in each.weights))
        for each in found
    ]
    columns = ("network", "setting", "makes", "weights in 2D", "in 3D")
    return Answer({"kind": kind, "entries": entries}, table(columns, rows))


def _first_line(file: Path) -> str:
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return doc.split("\n\n")[0].replace("\n", " ")


def _augmentations() -> Answer:
    """The names of `[training] augment`, each with what the file that does it says of it."""
    import fedrounds_common
    from fedrounds_common.study.tables import Augmentation

    doc = (
        ast.get_docstring(ast.parse(Path(fedrounds_common.__path__[0], "augment.py").read_text(encoding="utf-8"))) or ""
    )
    said: dict[str, str] = {}
    name = ""
    for line in doc.splitlines():
        first, _, rest = line.partition(" ")
        if first in get_args(Augmentation) and rest.startswith(" "):
            name = first
            said[name] = rest.strip()
        elif name and line.startswith("  "):
            said[name] += f" {line.strip()}"
        else:
            name = ""
    data = {"kind": AUGMENTATIONS, "table": "[training] augment"}
    entries = [(name, said[name]) for name in get_args(Augmentation)]
    return Answer(
        {**data, "entries": [{"name": name, "summary": summary} for name, summary in entries]},
        table(("name in [training] augment", "what it is"), entries),
    )


def _combinations() -> Answer:
    """What of a study goes with what protects it, as `study check` refuses by."""
    from fedrounds_common.study.combinations import COLUMNS, as_data

    rows = as_data()
    data = {"kind": COMBINATIONS, "columns": dict(COLUMNS), "entries": rows}
    return Answer(data, table(("in the study", *COLUMNS), [tuple(row.values()) for row in rows]))


def _files(kind: str) -> Answer:
    if kind == "profiles":
        from fedrounds_sites.places import profiles_folder as folder
    else:
        from fedrounds.places import studies_folder as folder
    entries = [(file.stem, _first_comment(file)) for file in sorted(folder().glob("*.toml"))]
    data = {"kind": kind, "entries": [{"name": name, "summary": summary} for name, summary in entries]}
    return Answer(data, table(("name", "what it is"), entries) if entries else f"No {kind} yet.")


def _first_comment(file: Path) -> str:
    """The comment that opens the file, up to its first full stop."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return " ".join(lines).partition(". ")[0].rstrip(".")
