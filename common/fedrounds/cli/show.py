"""`fedrounds show RUN --case NAME [--why]`: one case of a simulation, its reference and the consensus's answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrounds.cli.frame import Answer, verb
from fedrounds.cli.runs import RUNS, RunName, RunsFolder, run_path


def register(app: typer.Typer) -> None:
    @verb(app, "show", "Runs")
    def show(
        run: RunName,
        case: Annotated[str, typer.Option("--case", help="The case's name, as in the run's sites/SITE/cases.csv.")],
        site: Annotated[
            str | None, typer.Option("--site", help="Needed if two sites have a case of that name.")
        ] = None,
        out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="The PNG to write.")] = None,
        why: Annotated[bool, typer.Option("--why", help="Draw what of the image the answer rests on.")] = False,
        folder: RunsFolder = RUNS,
    ) -> Answer:
        """Draw one case of a simulation: image, reference and what the consensus says of it, or why."""
        from fedrounds.showing import show as draw

        found = draw(run_path(run, folder), case, site, out, why=why)
        return Answer(found.as_dict(), found.text())
