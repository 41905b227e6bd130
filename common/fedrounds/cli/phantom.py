"""`fedrounds phantom check`: is the phantom no easier than life?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fedrounds.cli.frame import Answer, group, say, table, verb
from fedrounds_common.errors import DONE, DataError


def register(app: typer.Typer) -> None:
    phantom = group("The simulated hospitals.")
    app.add_typer(phantom, name="phantom", rich_help_panel="Help")

    @verb(phantom, "check")
    def check(
        seed: Annotated[int, typer.Option(help="The phantom's seed; take one that nothing was tuned on.")] = 1001,
        train: Annotated[bool, typer.Option("--train", help="Also train models, which takes minutes.")] = False,
    ) -> Answer:
        """Measure how hard the phantom is: for rules that learned nothing and, with --train, for models."""
        from rich.text import Text

        from fedrounds_sites.phantom.check import check as measure

        say("making the phantom's cases and trying every rule on them …")
        found = measure(seed, train=train)
        data = {
            "seed": found.seed,
            "version": found.version,
            "cases": found.cases,
            "passed": found.passed,
            "floor": found.floor,
            "untrained": found.untrained,
            "median_auc": found.median_auc,
            "rows": [asdict(row) for row in found.rows()],
        }
        words = {True: Text("ok", "green"), False: Text("too easy", "bold red")}
        rows = [(words[row.ok], row.what, row.found, row.wanted) for row in found.rows()]
        title = f"phantom, version {found.version}, seed {found.seed}, {found.cases} cases"
        shown = table(("", "what", "found", "wanted"), rows, title)
        return Answer(data, shown, DONE if found.passed else DataError.exit_status)
