"""The command `fedrounds`. Imports only what `--help` needs; each verb imports its own when it is called."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import typer

from fedrounds.cli import (
    attack,
    cache,
    coordinator,
    demo,
    doctor,
    evaluate,
    explain,
    listing,
    phantom,
    predict,
    report,
    runs,
    sample,
    show,
    simulate,
    site,
    study,
)
from fedrounds.cli.frame import Answer, group, print_answer, print_envelope, say
from fedrounds.environment import quiet
from fedrounds_common.errors import INTERRUPTED, FedroundsError, MachineError, StudyError, disk_is_full

app = group("Train medical-image models across hospitals that keep their images.")
PARTS = (
    simulate, coordinator, site, demo, evaluate, predict, sample, attack, study, listing, runs, report, show, explain, doctor,
    phantom, cache,
)  # fmt: skip
for part in PARTS:
    part.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fedrounds {version('fedrounds')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """The entry point of the installed command."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str], commands: typer.Typer = app) -> int:
    """Run one of the commands, print its answer or its error, and return the exit status."""
    quiet()
    style = style_of(arguments)
    try:
        answer = _call(arguments, commands)
        if isinstance(answer, Answer):
            print_answer(answer, style)
            return answer.status
        # click turns an interrupt into its exit status
        return _interrupted(style) if answer == INTERRUPTED else int(answer or 0)
    except click.ClickException as error:
        return _usage(error, style)
    except (KeyboardInterrupt, click.Abort):
        return _interrupted(style)
    except BrokenPipeError:
        # `fedrounds ... | head`: nobody reads on; without this Python complains once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # SystemExit: click raises none here, so a plug-in did, and its status would be taken for the command's
    except (Exception, SystemExit) as error:  # noqa: BLE001  (the outermost layer: whatever comes must end in one line)
        return _failure(error, style)


def _call(arguments: Sequence[str], commands: typer.Typer) -> Any:
    command = typer.main.get_command(commands)
    return command.main(
        list(arguments), prog_name="fedrounds", standalone_mode=False, help_option_names=["-h", "--help"]
    )


def style_of(arguments: Sequence[str]) -> Literal["text", "json"]:
    """What `--format` says, also when the rest of the line cannot be read."""
    asked = "--format=json" in arguments or ("--format", "json") in pairwise(arguments)
    return "json" if asked else "text"


def _interrupted(style: str) -> int:
    do = "a run goes on from its last checkpoint with --resume"
    fields = {"code": "FR-U14", "found": "interrupted", "wanted": "", "do": do, "where": ""}
    return _print_error(INTERRUPTED, fields, f"FR-U14 interrupted; {do}", style)


def _usage(error: click.ClickException, style: str) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "fedrounds"
    message = _plainly(error)
    if not message:  # a group called without a command: click has its help as the error
        return error.exit_code
    fields = {"code": "FR-U08", "found": message, "wanted": "", "do": f"{path} -h", "where": path}
    return _print_error(2, fields, f"FR-U08 {path}: {message} See `{path} -h`.", style)


def _plainly(error: click.ClickException) -> str:
    """Click's message in our form: found, wanted, and the nearest of what is allowed."""
    choice = error.param.type if isinstance(error, click.BadParameter) and error.param is not None else None
    found = re.search(r"'([^']*)' is not one of", error.format_message())
    if isinstance(choice, click.Choice) and found is not None:
        allowed = [str(word) for word in choice.choices]
        near = get_close_matches(found[1], allowed, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{found[1]!r} is not one of {', '.join(allowed)}{hint}."
    # click and typer both offer the nearest command
    return re.sub(r"( Did you mean [^?]*\?)\1", r"\1", error.format_message())


def _failure(error: BaseException, style: str) -> int:
    if isinstance(error, FedroundsError):
        return _print_error(error.exit_status, _fields(error), _with_hint(error), style)
    if isinstance(error, MemoryError) or disk_is_full(error):
        found = "the disk is full" if disk_is_full(error) else "there is not enough memory"
        lacking = MachineError("FR-E01", found, do="free some, or see `fedrounds doctor`")
        return _print_error(lacking.exit_status, _fields(lacking), _with_hint(lacking), style)
    trace = _write_trace(error)
    found = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    fields = {"code": "FR-U09", "found": found, "wanted": "", "do": f"the trace is in {trace}", "where": ""}
    return _print_error(1, fields, f"FR-U09 a fault in fedrounds: {found}; the trace is in {trace}", style)


def _with_hint(error: FedroundsError) -> str:
    return f"{error}\n`fedrounds explain {error.code}` says more."


def _fields(error: FedroundsError) -> dict[str, Any]:
    fields: dict[str, Any] = {part: getattr(error, part) for part in ("code", "found", "wanted", "do", "where")}
    if isinstance(error, StudyError):
        fields["found"] = fields["found"].partition("\n")[0]
        fields["faults"] = [{"line": f.line, "key": f.key, "message": f.message} for f in error.faults]
    return fields


def _print_error(status: int, fields: Mapping[str, Any], text: str, style: str) -> int:
    if style == "json":
        print_envelope(status, None, fields)
    else:
        say(text)
    return status


def _write_trace(error: BaseException) -> Path:
    handle, name = tempfile.mkstemp(prefix="fedrounds-trace-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.writelines(traceback.format_exception(error))
    return Path(name)
