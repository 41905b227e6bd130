"""`fedrounds doctor`: can this machine run fedrounds, and is a coordinator's or a site's folder as it should be?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedrounds.cli.frame import Answer, table, verb
from fedrounds_common.errors import DONE, MachineError

STYLE = {"ok": "green", "advice": "yellow", "fault": "bold red"}


def register(app: typer.Typer) -> None:
    @verb(app, "doctor", "Help")
    def doctor(
        runs: Annotated[Path, typer.Option("--runs", help="Folder that runs are written to.")] = Path("runs"),
        coordinator: Annotated[
            Path | None,
            typer.Option("--coordinator", metavar="DIR", help="Go through the hardening checklist of this coordinator."),
        ] = None,
    ) -> Answer:
        """Check this machine: versions, threads, memory, disk, telemetry, GPU."""
        from rich.text import Text

        if coordinator is not None:
            from fedrounds.hardening import examine_coordinator

            findings = examine_coordinator(coordinator)
        else:
            from fedrounds.health import examine

            findings = examine(runs)
        rows = [(Text(f.level, STYLE[f.level]), f.what, f.found, f.do) for f in findings]
        status = MachineError.exit_status if any(f.level == "fault" for f in findings) else DONE
        return Answer({"findings": [asdict(f) for f in findings]}, table(("", "what", "found", "do"), rows), status)
