"""What several verbs do with a study file: find it, and read both of its halves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedrounds.places import studies_folder
from fedrounds_common.errors import Fault

if TYPE_CHECKING:
    from fedrounds_common.study.parse import StudyFile
    from fedrounds_common.study.study import Study
    from fedrounds_common.study.tables import Table
    from fedrounds_sites.simulation import Simulation


def study_path(name: str) -> Path:
    """The file of that name, or the built-in study: `hippocampus` is `studies/hippocampus.toml`."""
    file = Path(name)
    built_in = studies_folder() / f"{name}.toml"
    return built_in if not file.exists() and file.name == name and built_in.is_file() else file


def built_in_studies(start: str = "") -> list[str]:
    return sorted(file.stem for file in studies_folder().glob(f"{start}*.toml"))


def open_study(
    name: str, settings: Sequence[str] | None, plugins: Sequence[Path] | None
) -> tuple[StudyFile, Simulation]:
    """Both halves of a study, checked together.

    Raises:
        UsageError, StudyError: as `read_study`.
    """
    from fedrounds_common.study.parse import read_study
    from fedrounds_sites.simulation import read_simulation

    file, folders = study_path(name), list(plugins or ())

    def rehearsal_faults(table: Table, study: Study | None) -> list[Fault]:
        return read_simulation(table, file.parent, folders)[1]

    read = read_study(file, settings or (), folders, rehearsal_faults)
    simulation, _ = read_simulation(read.simulation, file.parent, folders)
    assert simulation is not None, "read_study raises if the rehearsal has faults"
    return read, simulation
