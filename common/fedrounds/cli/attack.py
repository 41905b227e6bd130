"""`fedrounds attack RUN KIND`: our own attacks, and what each could have found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from fedrounds.cli.frame import Answer, Plugins, console, verb
from fedrounds.cli.runs import RUNS, RunsFolder, run_path
from fedrounds.cli.steps import Steps

KINDS = ("canaries", "membership", "inversion", "copies")
Source = Annotated[
    str, typer.Argument(metavar="RUN", help="A run (folder, name, number, latest); for canaries a study file too.")
]
Which = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        click_type=click.Choice(KINDS),
        help="canaries: does the noise keep its epsilon; membership: who was trained on; inversion: images rebuilt from "
        "updates; copies: patients among made images.",
    ),
]


def register(app: typer.Typer) -> None:
    @verb(app, "attack", "The jobs")
    def attack(
        run: Source,
        kind: Which,
        canaries: Annotated[int, typer.Option(min=10, max=3000, help="How many are planted.")] = 1000,
        shadows: Annotated[
            int, typer.Option(min=0, max=256, help="Models that membership trains; 0: by loss only.")
        ] = 8,
        steps: Annotated[int | None, typer.Option(min=1, help="Of each of these; else as many as a site took.")] = None,
        images: Annotated[int, typer.Option(min=1, max=4, help="How many inversion looks for at once.")] = 4,
        plugins: Plugins = None,
        folder: RunsFolder = RUNS,
    ) -> Answer:
        """Attack a run as an adversary would, and say what was found and what could not have been."""
        from fedrounds.attacking import Settings
        from fedrounds.attacking import attack as attacked

        source = Path(run) if Path(run).is_file() else run_path(run, folder)
        how = Settings(canaries, shadows, steps, images)
        chosen: Any = kind  # one of KINDS: click has made sure
        with Steps(console(sys.stderr)) as listen:
            found = attacked(source, chosen, how, plugins or (), listen)
        return Answer(found.as_dict(), found.text())
