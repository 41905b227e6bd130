"""A round that is not over, on disk: what was asked of whom, and every update that came, exactly as it came.

Between hospitals an update counts only once it is here. A coordinator killed in mid-round reads them back, verifies
and guards each as if it had just come, and asks only the sites that are missing, with the same nonce.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from fedrounds_common.disk import remove_file, settle, write_json, write_whole
from fedrounds_common.errors import RunFileError
from fedrounds_common.letter import Letter
from fedrounds_server.folder import read_json

FORMAT = 1  # of round.json
KEPT_FORMAT = 2  # of an answer; before it, none said how many bytes it answers
FRESH, LATE = ".answer", ".late"  # of this round, and of the round before


@final
@dataclass(frozen=True)
class OpenRound:
    """What was asked in a round.

    `start`: digest of the consensus that it begins with. `sites`: who was asked, and the most cases each may
    claim. `before`: the nonce of the round before, whose late answers may stand in; "" if there is none. `passed_over`: who
    was not drawn, where each is drawn once and in secret.
    """

    round: int
    nonce: str
    study: str
    start: str
    sites: Mapping[str, int]
    before: str = ""
    passed_over: tuple[str, ...] = ()


def write_open(folder: Path, opened: OpenRound) -> None:
    write_json(folder / "round.json", {"format": FORMAT, **asdict(opened)})


def read_open(folder: Path) -> OpenRound | None:
    """The round as it was begun; None if it was not, or if its file is damaged: it is then begun again."""
    try:
        table = read_json(folder / "round.json")
        if table.pop("format") != FORMAT:
            return None
        sites = {str(name): int(cases) for name, cases in table["sites"].items()}
        return OpenRound(**{**table, "sites": sites, "passed_over": tuple(map(str, table.get("passed_over", ())))})
    except (RunFileError, KeyError, TypeError, ValueError, AttributeError):
        return None


def settle_open(folder: Path) -> None:
    """Have the round on disk as it was read, before it is gone on with: its answers name its nonce."""
    settle(folder / "round.json")


def keep(file: Path, letter: Letter, bytes_down: int = 0) -> int:
    """Have one answer on disk, whole: a line that says what it is, how much it answers, and its sum; then its buffer.

    Returns:
        The byte that its buffer begins at.
    """
    header, buffer, signature = letter
    says = {
        "format": KEPT_FORMAT,
        "header": header,
        "bytes_down": bytes_down,
        "signature": base64.b64encode(signature).decode(),
        "sum": _sum(header, buffer),
    }
    line = json.dumps(says, sort_keys=True).encode() + b"\n"
    write_whole(file, line, buffer)
    return len(line)


def read_kept(file: Path) -> tuple[Letter, int]:
    """An answer as it came, and how many bytes it answers.

    Raises:
        RunFileError: FR-R59 the file is damaged; FR-F13 another version of fedrounds wrote it.
    """
    try:
        with file.open("rb") as stream:
            says, buffer = json.loads(stream.readline()), stream.read()
        if says["format"] != KEPT_FORMAT:
            raise RunFileError(
                "FR-F13", f"{file.name} has format {says['format']!r}", wanted=f"format {KEPT_FORMAT}",
                do="nothing: the site is asked again",
            )  # fmt: skip
        if says["sum"] != _sum(says["header"], buffer):
            raise ValueError("another sum")
        return (says["header"], buffer, base64.b64decode(says["signature"], validate=True)), int(says["bytes_down"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFileError(
            "FR-R59", f"{file.name} is damaged ({type(error).__name__})", wanted="an answer as it came",
            do="nothing: the site is asked again",
        ) from error  # fmt: skip


def kept_files(folder: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """Site and file of each answer of one kind, by name."""
    for file in sorted(folder.glob(f"*{kind}")):
        if not file.name.startswith("."):
            yield file.name.removesuffix(kind), file


def drop_kept(file: Path) -> None:
    remove_file(file)


def _sum(header: str, buffer: bytes) -> str:
    return hashlib.sha256(hashlib.sha256(header.encode()).digest() + hashlib.sha256(buffer).digest()).hexdigest()
