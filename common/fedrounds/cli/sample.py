"""`fedrounds sample RUN -n 64 -o DIR`: synthetic images of a generator, with a contact sheet and their conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrounds.cli.evaluate import Reader, ReaderSettings, Source, StudyOfFile, source_path
from fedrounds.cli.frame import Answer, Plugins, verb
from fedrounds.cli.runs import RUNS, RunsFolder


def register(app: typer.Typer) -> None:
    @verb(app, "sample", "The jobs")
    def sample(
        run: Source,
        output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write to.")],
        number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many images.")] = 64,
        kind: Annotated[str, typer.Option("--class", metavar="NAME", help="Of this class only.")] = "",
        seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same images.")] = 0,
        inputs: Annotated[
            Path | None,
            typer.Option("-i", "--input", metavar="DIR", help="Label maps, for a model that makes images of them."),
        ] = None,
        reader: Reader = None,
        settings: ReaderSettings = None,
        study: StudyOfFile = None,
        force: Annotated[bool, typer.Option("--force", help="Write over files of the same name.")] = False,
        plugins: Plugins = None,
        folder: RunsFolder = RUNS,
    ) -> Answer:
        """Make synthetic images with a run's generator; for research only."""
        from fedrounds.sampling import sample as make

        found = make(
            source_path(run, folder), output, number, kind=kind, seed=seed, inputs=inputs, reader=reader,
            settings=settings or (), study=study, plugins=plugins or (), force=force,
        )  # fmt: skip
        return Answer(found.as_dict(), found.text())
