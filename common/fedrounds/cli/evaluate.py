"""`fedrounds evaluate RUN`: how good a model is, on a folder it never saw or as its own run judged it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrounds.cli.frame import Answer, Plugins, console, verb
from fedrounds.cli.runs import RUNS, RunsFolder, run_path
from fedrounds.cli.steps import Steps

Source = Annotated[
    str, typer.Argument(metavar="RUN", help="A run (folder, name, number, latest), or a model's .safetensors file.")
]
Data = Annotated[Path | None, typer.Option("--data", "-d", metavar="DIR", help="Folder with images and references.")]
Reader = Annotated[
    str | None,
    typer.Option("--reader", help="Reader for that folder; otherwise told by its files. See `list readers`."),
]
ReaderSettings = Annotated[
    list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="Set one value of the reader's table.")
]
StudyOfFile = Annotated[
    str | None, typer.Option("--study", help="The study a model file was trained with, if it lies outside its run.")
]


def source_path(name: str, runs: Path) -> Path:
    """A run's folder, or a file of weights."""
    return Path(name) if Path(name).is_file() else run_path(name, runs)


def register(app: typer.Typer) -> None:
    @verb(app, "evaluate", "The jobs")
    def evaluate(
        run: Source,
        data: Data = None,
        reader: Reader = None,
        settings: ReaderSettings = None,
        study: StudyOfFile = None,
        name: Annotated[str | None, typer.Option(help="Of the result's folder, RUN/evaluation/NAME.")] = None,
        out: Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Write there instead.")] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace what was written before.")] = False,
        plugins: Plugins = None,
        folder: RunsFolder = RUNS,
    ) -> Answer:
        """Judge a model on a folder of images with references; without --data, show how its own run judged it."""
        from fedrounds.judge import evaluate as judge

        with Steps(console(sys.stderr)) as listen:
            found = judge(
                source_path(run, folder), data, reader=reader, settings=settings or (), study=study,
                plugins=plugins or (), name=name, out=out, force=force, listen=listen,
            )  # fmt: skip
        return Answer(found.as_dict(), found.text(), found.exit)
