"""Each message is answered in a process of its own: without network, within the deadline and the memory limit.

The ClientApp hands the message over and waits. A child that hangs is killed at the deadline, so the
site is free for the next round; one that ran out of memory is tried once more with every batch in two
pieces; one that crashed takes nothing with it. Whatever happens, what goes back is signed and holds a code.

    parent (ClientApp, light)                       child (`python -m fedrounds_client.apart HOME PIECES …`)
    message in, as it came        ── stdin ──▶      walls up (jail.py), then verify → permit → do → guard → sign
    answer, or a refusal of ours  ◀── stdout ──     the answer, as it travels
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, final

from fedrounds_client.jail import Walls, bare_environment, die_with, shut_in
from fedrounds_client.memory import out_of_memory
from fedrounds_common.chain import append
from fedrounds_common.disk import add_text
from fedrounds_common.errors import FedroundsError, MachineError
from fedrounds_common.letter import Letter, pack_letter, unpack_letter

if TYPE_CHECKING:
    from fedrounds_client.home import SiteHome

LONGEST_S = 6 * 3600.0  # of a study without a deadline: a site that hangs must not hang for ever
NO_MEMORY = 86  # the child's exit status when memory ran out
JOURNAL = "journal.jsonl"
VMSTAT = Path("/proc/vmstat")
CHILD = (sys.executable, "-m", "fedrounds_client.apart")


@final
@dataclass(frozen=True)
class Bounds:
    """What one answer may take. `deadline_s` counts from when the message came."""

    deadline_s: float = LONGEST_S
    walls: Walls = field(default_factory=Walls)


def answer_apart(header: str, buffer: bytes, signature: bytes, home: Path) -> Letter:
    """Answer one message of the coordinator's in a child process.

    Args:
        header, buffer, signature: as they came; nothing of them is believed here, the child looks first.
        home: the site's own folder.

    Returns:
        The child's answer, or a signed refusal: FR-E40 too late, FR-E41 no memory, FR-E42 crashed.
    """
    from fedrounds_client.boundary import refuse_enrolled

    try:
        return ask_child((header, buffer, signature), home, bounds_of(home, header))
    except FedroundsError as error:
        return refuse_enrolled(header, home, error)


def ask_child(message: Letter, home: Path, bounds: Bounds, program: Sequence[str] = CHILD) -> Letter:
    """What a child process answers; with smaller batches once, if memory ran out.

    Raises:
        MachineError: FR-E40, FR-E41 or FR-E42: there is no answer.
    """
    until = time.monotonic() + bounds.deadline_s
    try:
        return _ask_once(message, home, 1, bounds, until, program)
    except MachineError as error:
        if error.code != "FR-E41":
            raise
    _note_smaller_batches(home, message[0])
    return _ask_once(message, home, 2, bounds, until, program)


def _ask_once(message: Letter, home: Path, pieces: int, bounds: Bounds, until: float, program: Sequence[str]) -> Letter:
    killed_before = _killed_for_memory()
    walls = {
        "network": bounds.walls.network,
        "memory_gb": bounds.walls.memory_gb,
        "read_only": [str(folder) for folder in bounds.walls.read_only],
    }
    command = [*program, str(home), str(pieces), json.dumps(walls), str(os.getpid())]
    with (home / "log").open("ab") as log:
        # a session of its own: what the child started dies with it
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, env=bare_environment()
        )  # fmt: skip
        try:
            said, _ = child.communicate(pack_letter(message), timeout=max(until - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            raise MachineError(
                "FR-E40",
                f"no answer within {bounds.deadline_s:g} s",
                do="the process was ended; the next round can come",
            ) from None
        finally:
            _end(child)
    if child.returncode == 0 and said:
        return _unpacked(said)
    raise _why(child.returncode, memory=_killed_for_memory() > killed_before)


def _why(status: int, *, memory: bool) -> MachineError:
    if status == NO_MEMORY or (status == -signal.SIGKILL and memory):
        return MachineError("FR-E41", "memory ran out", do="smaller patches, more memory, or [machine] memory_gb")
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    return MachineError("FR-E42", f"the process that trains ended by {name}", do="the site's own log says more")


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _killed_for_memory() -> int:
    """How many processes the kernel has killed on this machine because memory ran out."""
    try:
        counts = dict(line.split() for line in VMSTAT.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def _note_smaller_batches(home: Path, header: str) -> None:
    where = _plain(header, "run"), _plain(header, "round")
    add_text(
        home / "log", f"FR-E41 run {where[0]} round {where[1]}: memory ran out; again with each batch in two pieces"
    )
    append(home / JOURNAL, "smaller batches", {"code": "FR-E41", "run": where[0], "round": where[1]})


def _plain(header: str, name: str) -> str:
    try:
        return str(json.loads(header).get(name, ""))[:64]
    except (ValueError, AttributeError, RecursionError):
        return ""


def bounds_of(home: Path, header: str) -> Bounds:
    """The study's deadline and the site's own limits; a header that cannot be read has the longest deadline."""
    from fedrounds_client.home import SiteHome

    walls = walls_of(SiteHome(home))
    return Bounds(deadline_of(header), walls)


def walls_of(home: SiteHome) -> Walls:
    """What site.toml wants around the process that trains: data that cannot be written, a limit, no network."""
    settings = home.read_settings()
    root = str(settings.data.get("root") or "")
    data = Path(root).resolve() if root else None  # from the current folder, as the reader takes it
    # the site's folder may be written to wherever it lies
    guarded = (data,) if data is not None and data.is_dir() and not home.folder.resolve().is_relative_to(data) else ()
    return Walls(settings.machine.network == "none", settings.machine.memory_gb, guarded)


def deadline_of(header: str) -> float:
    """Seconds: `cohort.deadline_s` of the study in a message, or LONGEST_S of one that has none."""
    try:
        found = json.loads(json.loads(header)["study"])["cohort"]["deadline_s"]
        seconds = float(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return LONGEST_S
    return min(seconds, LONGEST_S) if math.isfinite(seconds) and seconds > 0 else LONGEST_S


def _unpacked(data: bytes) -> Letter:
    try:
        return unpack_letter(data)
    except ValueError as error:
        raise MachineError(
            "FR-E42", "the process that trains said half an answer", do="the site's own log says more"
        ) from error


# ---------------------------------------------------------------- the child


def answer_in_child(said: BinaryIO, asked: BinaryIO, home: Path, pieces: int, walls: Walls, parent: int) -> int:
    """Raise the walls, answer, and return the exit status. It ends with `parent`, also with one that has ended."""
    for line in shut_in(walls):
        print(line, file=sys.stderr)  # noqa: T201  (stderr is the site's own log)
    die_with(parent)
    try:
        from fedrounds_client.boundary import answer_enrolled

        said.write(pack_letter(answer_enrolled(*_unpacked(asked.read()), home, pieces)))
    except FedroundsError:
        raise
    except Exception as error:
        if not out_of_memory(error):
            raise
        return NO_MEMORY
    said.flush()
    return 0


def main(arguments: list[str]) -> int:
    """`HOME PIECES WALLS PARENT`; the message comes by stdin, and only the answer goes to stdout."""
    os.umask(0o077)
    home, pieces, wanted = Path(arguments[0]), int(arguments[1]), json.loads(arguments[2])
    walls = Walls(wanted["network"], wanted["memory_gb"], tuple(Path(folder) for folder in wanted["read_only"]))
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up in the answer
    return answer_in_child(said, sys.stdin.buffer, home, pieces, walls, int(arguments[3]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
