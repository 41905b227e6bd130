"""What a run was made of: `rehearsal.json` of a simulation, `study.json` of a run between hospitals."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from fedrounds_common.errors import RunFileError
from fedrounds_common.study.canonical import digest_of_text, study_from_canonical
from fedrounds_common.study.study import Study
from fedrounds_server.folder import RunFolder, read_json

REHEARSAL, STUDY = "rehearsal.json", "study.json"


@final
@dataclass(frozen=True)
class Origin:
    """`text`: the agreed half's canonical text. `digest`: what it should be, as the run said when it began.

    `plugins` and `simulation`: of a simulation only; between hospitals no code and no case is the coordinator's.
    """

    file: str
    text: str
    digest: str
    plugins: tuple[Path, ...] = ()
    simulation: dict[str, Any] = field(default_factory=dict)

    @property
    def found_digest(self) -> str:
        return digest_of_text(self.text)

    @property
    def study(self) -> Study:
        return study_from_canonical(self.text, self.plugins)


def has_origin(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (REHEARSAL, STUDY))


def is_real(run: Path) -> bool:
    """Whether this is the folder of a run between hospitals, which holds no case."""
    return (run / STUDY).is_file() and not (run / REHEARSAL).is_file()


def origin_of(run: Path) -> Origin:
    """Raises RunFileError: neither file is there, or it cannot be read."""
    if not is_real(run):
        says = read_json(run / REHEARSAL)
        plugins = tuple(Path(folder) for folder in says["plugins"])
        return Origin(REHEARSAL, says["study"], str(says.get("digest", "")), plugins, says["simulation"])
    try:
        text = (run / STUDY).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RunFileError("FR-F02", f"{STUDY} cannot be read: {error}", do="restore it, or run again") from error
    return Origin(STUDY, text, str(read_json(RunFolder(run).status).get("study", "")))


BEGIN_ANOTHER = "`fedrounds coordinator submit` begins another run"


def refuse_real(run: Path, what: str, do: str = BEGIN_ANOTHER) -> None:
    """Raises RunFileError FR-F37: what is wanted needs the cases, and they are at the hospitals."""
    if is_real(run):
        raise RunFileError(
            "FR-F37", f"{run.resolve().name} is a run between hospitals: {what}", wanted="a simulation",
            do=f"its cases lie at the hospitals; {do}", where=run.name,
        )  # fmt: skip
