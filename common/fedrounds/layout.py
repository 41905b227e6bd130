"""A run's folder as it is made, laid out and locked, before anything of the run happens."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedrounds.record import write_record
from fedrounds.simulation import Prepared
from fedrounds_common.case import CaseRef
from fedrounds_common.disk import write_text
from fedrounds_common.errors import RunFileError, UsageError
from fedrounds_common.plugins import digest_of_folders
from fedrounds_common.study.canonical import digest, resolved_toml
from fedrounds_server.folder import RunFolder, read_json
from fedrounds_sites.hospitals import Rehearsal, Role, open_hospital, write_rehearsal
from fedrounds_sites.keeping import require_room
from fedrounds_sites.simulation import Simulation


def new_folder(runs: Path, name: str) -> Path:
    """`runs/0007-name`, one above the highest number there, made at once so that two runs never share one."""
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        numbers = [int(entry.name[:4]) for entry in runs.iterdir() if entry.name[:4].isdigit()]
        folder = runs.resolve() / f"{max(numbers, default=0) + 1:04d}-{name}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        _point_latest(runs, folder)
        return folder


def _point_latest(runs: Path, folder: Path) -> None:
    link = runs / "latest"
    if link.is_symlink() or not link.exists():
        # put in its place in one step: of two runs that start together neither finds it half made
        fresh = runs / f".latest.{secrets.token_hex(4)}"
        fresh.symlink_to(folder.name)
        fresh.replace(link)


def lay_out(prepared: Prepared, folder: RunFolder, sites: Mapping[str, Sequence[CaseRef]]) -> None:
    """Write what the run is, before anything of it happens; of a run that is resumed, what may have changed.

    Raises:
        MachineError: FR-E60 the disk has no room for all sites' prepared cases.
    """
    for left in folder.path.rglob(".*.part"):
        left.unlink(missing_ok=True)  # what a process was writing when it was killed
    held_out = set(prepared.study.cohort.held_out)
    roles: dict[str, Role] = {name: "held-out" if name in held_out else "train" for name in sites}
    if not (folder.path / "study.toml").exists():
        write_text(folder.path / "study.toml", prepared.file.text)
    if prepared.file.origins or not (folder.path / "study.resolved.toml").exists():
        # a study read from the run's own folder does not know where its values came from; that file does
        resolved = resolved_toml(prepared.study, prepared.file.simulation, prepared.file.origins)
        write_text(folder.path / "study.resolved.toml", resolved)
    write_record(folder, prepared, _code(prepared))
    # last: with this file a folder is a run that can be resumed
    rehearsal = Rehearsal(
        folder.path, prepared.text, digest(prepared.study), _plain(prepared.simulation), prepared.plugins, roles
    )
    write_rehearsal(rehearsal, sites)
    # a reader of somebody's own may break in ways that only its hospital is to suffer from; and a made case takes a
    # process that does not need it half a second, where each worker looks for room itself
    played_here = prepared.simulation.workers == 0 or prepared.simulation.build_reader(prepared.plugins).kind == "real"
    if not prepared.plugins and played_here:
        _require_room(folder, sites)


def _require_room(folder: RunFolder, sites: Mapping[str, Sequence[CaseRef]]) -> None:
    """For the prepared cases of all sites that are not kept yet, as large as the first of the largest site; that one is
    made here."""
    largest = open_hospital(folder.path, max(sites, key=lambda name: (len(sites[name]), name)))
    one = largest.would_take(1)
    # by key: a folder that outlasts runs keeps other studies' cases too, and of this one's perhaps a few
    require_room(largest.store.folder, one * sum(open_hospital(folder.path, name).missing() for name in sites))


def _plain(simulation: Simulation) -> dict[str, Any]:
    table = {name: value for name, value in asdict(simulation).items() if value is not None}
    return {name: str(value) if isinstance(value, Path) else value for name, value in table.items()}


def _code(prepared: Prepared) -> dict[str, Any]:
    """What of the code is not ours: a digest of the user's folders, and the names of objects."""
    found: dict[str, Any] = dict(prepared.given.names)
    if prepared.plugins:
        found["plugins_sha256"] = digest_of_folders(prepared.plugins)
    return found


def refuse_other_study(run: Path, prepared: Prepared) -> None:
    """Before anything of the run's folder is written over."""
    if not (run / "rehearsal.json").is_file():
        raise UsageError("FR-U23", f"{run.name} is not a run's folder", wanted="one with rehearsal.json")
    found, ours = str(read_json(run / "rehearsal.json").get("digest", "")), digest(prepared.study)
    if found != ours:
        raise RunFileError(
            "FR-F12", f"{run.name} is a run of study {found[:12]}", wanted=f"{ours[:12]}, the study given",
            do="resume with the study the run was started with, or without naming one",
        )  # fmt: skip


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """One process at a time may work on a run; the lock goes with the process, however that ends."""
    import fcntl

    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                "FR-U24", f"{folder.name} is being worked on by another process", do="wait for it"
            ) from error
        yield
