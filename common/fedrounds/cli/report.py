"""`fedrounds report RUN`: the figures and the one page to send."""

from __future__ import annotations

from typing import Annotated

import typer

from fedrounds.cli.frame import Answer, verb
from fedrounds.cli.runs import RUNS, RunName, RunsFolder, run_path


def register(app: typer.Typer) -> None:
    @verb(app, "report", "Runs")
    def report(
        run: RunName,
        folder: RunsFolder = RUNS,
        sites: Annotated[
            bool,
            typer.Option(
                "--with-sites/--no-sites", help="Put in what would stay at the hospitals: cases and pictures."
            ),
        ] = True,
    ) -> Answer:
        """Draw a run's figures and write its report, one page that holds everything."""
        from fedrounds.origin import is_real
        from fedrounds_server.report.page import write_report

        path = run_path(run, folder)
        sites = sites and not is_real(path)
        page = write_report(path, sites)
        figures = sorted(str(file) for file in (page.parent / "figures").glob("*.png"))
        return Answer({"report": str(page), "figures": figures, "with_sites": sites}, "\n".join([str(page), *figures]))
