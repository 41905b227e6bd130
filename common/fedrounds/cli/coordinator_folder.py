"""The folder that every verb of `fedrounds coordinator` works in, and what is read of it first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrounds.cli.files import study_path

if TYPE_CHECKING:
    from fedrounds_common.study.parse import StudyFile
    from fedrounds_server.coordinator.flower import Flower
    from fedrounds_server.coordinator.folder import CoordinatorFolder

Folder = Annotated[
    Path,
    typer.Option("--folder", metavar="COORD", envvar="FEDROUNDS_COORDINATOR", help="The coordinator's folder."),
]
HERE = Path("coordinator")


def at(folder: Path) -> CoordinatorFolder:
    from fedrounds_server.coordinator.folder import CoordinatorFolder

    return CoordinatorFolder(folder.resolve())


def flower_of(folder: CoordinatorFolder) -> Flower:
    from fedrounds_server.coordinator.flower import Flower
    from fedrounds_server.coordinator.folder import read_settings

    return Flower(folder, read_settings(folder).superlink_port)


def agreed_half(study: str, settings: Sequence[str] | None = None) -> StudyFile:
    """The agreed half of a study; how a rehearsal would play the hospitals is no business of the coordinator's."""
    from fedrounds_common.study.parse import read_study

    return read_study(study_path(study), settings or ())
