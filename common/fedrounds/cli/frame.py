"""How every command answers: one envelope, one way to fail, the same options everywhere.

stdout is the answer, stderr the talk. A verb returns an `Answer` or raises; only `main.py` prints answers.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, final

import click
import typer
from typer.core import TyperArgument, TyperCommand
from typer.models import ArgumentInfo

from fedrounds_common.errors import DONE, PARTIAL, STOPPED

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1  # of the envelope

P = ParamSpec("P")
Format = Annotated[
    str,
    typer.Option(
        "--format",
        click_type=click.Choice(["text", "json"]),
        help="How the answer is printed; json is one object for programs.",
        show_default=True,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Set one value over the file, e.g. -s training.rounds=5."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugins", metavar="DIR", help="Folder of your own plug-ins, e.g. DIR/strategies/mine.py."),
]
SITE_FOLDER = typer.Option("--site", metavar="DIR", envvar="FEDROUNDS_SITE", help="The site's folder; else this one.")


@final
@dataclass(frozen=True)
class Answer:
    """`data` is what `--format json` gives; `text` is what a person reads: a string, or anything rich can print."""

    data: Mapping[str, Any]
    text: Any
    status: int = DONE


def verb(app: typer.Typer, name: str, panel: str | None = None) -> Callable[[Callable[P, Answer]], Callable[P, Answer]]:
    """Register a function as a command of `app`, with `--format` added; its docstring is the help."""

    def register(function: Callable[P, Answer]) -> Callable[P, Answer]:
        @functools.wraps(function)
        def with_format(*args: P.args, **kwargs: P.kwargs) -> Answer:
            kwargs.pop("format")  # `main.py` reads it from the command line: it must know it before this is called
            return function(*args, **kwargs)

        # evaluated here: typer leaves a signature that is set by hand as it is, and ours are still text
        signature = inspect.signature(function, eval_str=True)
        extra = inspect.Parameter("format", inspect.Parameter.KEYWORD_ONLY, default="text", annotation=Format)
        with_format.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), extra]
        )
        hints = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        with_format.__annotations__ = {**hints, "format": Format, "return": Answer}
        app.command(name, cls=_Command, rich_help_panel=panel)(with_format)
        return function

    return register


@final
class _Command(TyperCommand):
    """Puts back the help of arguments: typer 0.20 sets it before click 8.5 does, who knows of none."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        super().__init__(name, **settings)
        signature = inspect.signature(inspect.unwrap(settings["callback"], stop=_is_signed))
        for argument in self.params:
            hints = getattr(signature.parameters[str(argument.name)].annotation, "__metadata__", ())
            if isinstance(argument, TyperArgument) and argument.help is None:
                argument.help = next((hint.help for hint in hints if isinstance(hint, ArgumentInfo)), None)


def _is_signed(function: Callable[..., Any]) -> bool:
    return hasattr(function, "__signature__")


def group(help: str) -> typer.Typer:
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def say(message: str) -> None:
    """One line of talk, for the person who waits."""
    console(sys.stderr).print(message, soft_wrap=True)


def console(stream: Any) -> Console:
    from rich.console import Console

    # a pipe has no width: 80 columns would cut what a program or a log could hold
    width = None if stream.isatty() else 160
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def print_answer(answer: Answer, style: Literal["text", "json"]) -> None:
    if style == "json":
        print_envelope(answer.status, answer.data, None)
    elif isinstance(answer.text, str):
        console(sys.stdout).print(answer.text.rstrip("\n"), soft_wrap=True)
    else:
        console(sys.stdout).print(answer.text)


def print_envelope(status: int, data: Mapping[str, Any] | None, error: Mapping[str, Any] | None) -> None:
    word = "error" if error else {DONE: "ok", PARTIAL: "partial", STOPPED: "partial"}.get(status, "error")
    envelope = {"schema": SCHEMA, "status": word, "exit": status, "data": data, "error": error}
    sys.stdout.write(json.dumps(jsonable(envelope), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
    """JSON has no nan, no paths and no tuples: nan and inf become null, anything unknown its text."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [jsonable(entry) for entry in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> Any:
    """A plain table: no box, headings above, columns of numbers to the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        made.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(entry if isinstance(entry, Text) else Text(str(entry)) for entry in row))
    return made
