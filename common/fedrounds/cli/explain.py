"""`fedrounds explain [CODE]`: what an error code means."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fedrounds.cli.frame import Answer, table, verb


def _codes(start: str) -> list[str]:
    from fedrounds_common.explain import explanations

    return [code for code in explanations() if code.startswith(start.upper())]


def register(app: typer.Typer) -> None:
    @verb(app, "explain", "Help")
    def explain(
        code: Annotated[
            str | None,
            typer.Argument(help="An error code, e.g. FR-S01; all of them if left out.", autocompletion=_codes),
        ] = None,
    ) -> Answer:
        """Say what an error code means and what to do."""
        from fedrounds_common.explain import explain as look_up
        from fedrounds_common.explain import explanations

        if code is None:
            entries = list(explanations().values())
            rows = [(entry.code, entry.title) for entry in entries]
            return Answer({"codes": [asdict(entry) for entry in entries]}, table(("code", "meaning"), rows))
        entry = look_up(code)
        text = f"{entry.code}  {entry.title}\n\nWhy: {entry.why}\n\nWhat to do: {entry.do}"
        return Answer(asdict(entry), text)
