"""`fedrounds demo`: the main job on simulated hospitals, with nothing to download and nothing to write first."""

from __future__ import annotations

from typing import Annotated

import typer

from fedrounds.cli.files import study_path
from fedrounds.cli.frame import Answer, Settings, verb
from fedrounds.cli.runs import RUNS, RunsFolder
from fedrounds.cli.simulate import Workers, carried_out, rehearsal_settings
from fedrounds_common.errors import UsageError


def register(app: typer.Typer) -> None:
    @verb(app, "demo", "The jobs")
    def demo(
        quick: Annotated[bool, typer.Option("--quick", help="8 hospitals, 2 rounds: does it run here?")] = False,
        full: Annotated[bool, typer.Option("--full", help="The size that carries the claim: minutes more.")] = False,
        seed: Annotated[int | None, typer.Option(help="Of the phantom: other hospitals, other patients.")] = None,
        workers: Workers = None,
        settings: Settings = None,
        runs: RunsFolder = RUNS,
    ) -> Answer:
        """Play 71 simulated hospitals in the proportions of the FeTS study, six of them held out."""
        if quick and full:
            raise UsageError("FR-U13", "--quick and --full together", wanted="one of them")
        name = "demo-quick" if quick else "demo-full" if full else "demo"
        seeded = [] if seed is None else [f"simulation.reader.seed={seed}"]
        overrides = [*seeded, *rehearsal_settings(workers, None), *(settings or ())]
        return carried_out(study_path(name), overrides=overrides, runs=runs)
