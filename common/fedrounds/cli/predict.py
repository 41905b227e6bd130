"""`fedrounds predict RUN -i DIR -o DIR`: masks and probability maps for images without a reference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrounds.cli.evaluate import Reader, ReaderSettings, Source, StudyOfFile, source_path
from fedrounds.cli.frame import Answer, Plugins, console, verb
from fedrounds.cli.runs import RUNS, RunsFolder
from fedrounds.cli.steps import Steps


def register(app: typer.Typer) -> None:
    @verb(app, "predict", "The jobs")
    def predict(
        run: Source,
        inputs: Annotated[Path, typer.Option("-i", "--input", metavar="DIR", help="Folder with images.")],
        output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write to.")],
        reader: Reader = None,
        settings: ReaderSettings = None,
        study: StudyOfFile = None,
        probabilities: Annotated[
            bool, typer.Option("--probabilities/--masks-only", help="Write probability maps beside the masks.")
        ] = True,
        why: Annotated[
            list[str] | None,
            typer.Option("--why", metavar="METHOD", help="Draw what an answer rests on, e.g. grad-cam; all."),
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Write over files of the same name.")] = False,
        plugins: Plugins = None,
        folder: RunsFolder = RUNS,
    ) -> Answer:
        """Predict every image of a folder, each on the grid of its own file."""
        from fedrounds.predict import predict as predict_folder

        with Steps(console(sys.stderr)) as listen:
            found = predict_folder(
                source_path(run, folder), inputs, output, reader=reader, settings=settings or (), study=study,
                plugins=plugins or (), probabilities=probabilities, why=why or (), force=force, listen=listen,
            )  # fmt: skip
        return Answer(found.as_dict(), found.text(), found.exit)
