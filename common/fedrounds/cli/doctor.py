"""`fedrounds doctor`: can this machine run fedrounds, and is a coordinator's or a site's folder as it should be?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrounds.cli.frame import Answer, table, verb
from fedrounds_common.errors import DONE, MachineError, UsageError

if TYPE_CHECKING:
    from fedrounds.health import Finding

STYLE = {"ok": "green", "advice": "yellow", "fault": "bold red"}


def register(app: typer.Typer) -> None:
    @verb(app, "doctor", "Help")
    def doctor(
        runs: Annotated[Path, typer.Option("--runs", help="Folder that runs are written to.")] = Path("runs"),
        coordinator: Annotated[
            Path | None,
            typer.Option(
                "--coordinator", metavar="DIR", help="Go through the hardening checklist of this coordinator."
            ),
        ] = None,
        site: Annotated[
            Path | None, typer.Option("--site", metavar="DIR", help="Go through the hardening checklist of this site.")
        ] = None,
    ) -> Answer:
        """Check this machine: versions, threads, memory, disk, telemetry, GPU; or a coordinator, or a site."""
        from rich.text import Text

        findings, status = _examined(runs, coordinator, site)
        rows = [(Text(f.level, STYLE[f.level]), f.what, f.found, f.do) for f in findings]
        return Answer({"findings": [asdict(f) for f in findings]}, table(("", "what", "found", "do"), rows), status)


def _examined(runs: Path, coordinator: Path | None, site: Path | None) -> tuple[tuple[Finding, ...], int]:
    """What was found, and the exit status that it means."""
    if coordinator is not None and site is not None:
        raise UsageError("FR-U13", "--coordinator and --site", wanted="one of the two")
    if site is not None:
        from fedrounds.health_site import examine_site, status_of
        from fedrounds_client.home import SiteHome

        found = examine_site(SiteHome(site.resolve()))
        return found, status_of(found)
    if coordinator is not None:
        from fedrounds.hardening import examine_coordinator

        found = examine_coordinator(coordinator)
    else:
        from fedrounds.health import examine

        found = examine(runs)
    return found, MachineError.exit_status if any(each.level == "fault" for each in found) else DONE
