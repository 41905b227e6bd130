"""The launcher: enrol if need be, then keep Flower's SuperNode running for ever.

    python -m fedrounds_client.join.supernode HOME

A network cut, a restarted coordinator and a crashed node are all answered by trying again, with pauses
that grow to a minute. Only what somebody must mend first ends it (exit 6), and each state is said once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import final

from fedrounds_client.home import SiteHome
from fedrounds_client.join.enrol import make_keys, request_of, wait_until_enrolled
from fedrounds_client.join.invitation import Invitation, check_fits, check_not_expired, keep, read_invitation
from fedrounds_client.join.reach import HOPELESS, Way, check_clock, look
from fedrounds_common.disk import write_text
from fedrounds_common.errors import INTERRUPTED, FedroundsError, NetworkError, RefusedError, UsageError

NODE = (sys.executable, "-m", "fedrounds_client.join.node")
FIRST_S, LONGEST_S, STEADY_S = 1.0, 60.0, 60.0  # pauses between starts; a node that ran so long starts afresh
HOPELESS_S = 300.0  # the same, where somebody must mend something first
GRACE_S = 10.0
LOG_BYTES = 10_000_000
# Flower and what it starts: nothing is sent home, nothing is installed, and no thread spins
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "DO_NOT_TRACK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds; by itself a whole one each message
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
Say = Callable[[str], None]


@final
@dataclass(frozen=True)
class Marks:
    """Small files in which the launcher and the node tell each other how far they are."""

    folder: Path

    @property
    def enrolled(self) -> Path:
        return self.folder / "enrolled"

    @property
    def connected(self) -> Path:
        return self.folder / "connected"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"


def accept(home: SiteHome, file: Path, now: datetime | None = None) -> Invitation:
    """Check an invitation against this site and keep it; the keys are made if they are not there.

    Raises:
        UsageError: FR-C80. NetworkError: FR-C81 expired, FR-C82 of another site, FR-C90 changed.
    """
    invitation = read_invitation(file)
    check_fits(invitation, home.read_settings().name, home)
    marks = Marks(home.flwr)
    if not _is_enrolled(marks, invitation):
        check_not_expired(invitation, now or datetime.now(UTC))
    home.flwr.mkdir(mode=0o700, parents=True, exist_ok=True)
    make_keys(home)
    keep(invitation, home)
    return invitation


def _is_enrolled(marks: Marks, invitation: Invitation) -> bool:
    """By this very token: a new invitation means that the coordinator wants this site enrolled anew."""
    return marks.enrolled.is_file() and marks.enrolled.read_text(encoding="utf-8") == _mark(invitation)


def _mark(invitation: Invitation) -> str:
    return f"{invitation.coordinator.text} {invitation.table['signature']}\n"


def run(home: SiteHome, say: Say, stop: threading.Event, cases: int) -> None:
    """Enrol if need be, then keep the SuperNode running until `stop` is set.

    Args:
        cases: the most that this site would bring into a round; agreed once, when it is enrolled.

    Raises:
        NetworkError, RefusedError: where waiting cannot help. UsageError: FR-C25, or FR-E46 it runs already.
    """
    invitation = read_invitation(home.invitation)
    if home.has_left():
        raise RefusedError("FR-C06", "this site has left", do="to take part again, ask for a new invitation")
    way = Way(invitation.address, invitation.ca, home.read_settings().machine.proxy)
    home.flwr.mkdir(mode=0o700, parents=True, exist_ok=True)
    marks = Marks(home.flwr)
    with _alone(marks.lock):
        if not _is_enrolled(marks, invitation):
            request = request_of(home, invitation, make_keys(home), cases)
            wait_until_enrolled(home, way, request, say, stop)
            if stop.is_set():
                return
            write_text(marks.enrolled, _mark(invitation))
            say("enrolled")
        _keep_running(home, way, marks, say, stop)


def _keep_running(home: SiteHome, way: Way, marks: Marks, say: Say, stop: threading.Event) -> None:
    pause, said = FIRST_S, ""
    marks.connected.unlink(missing_ok=True)
    been_there = False
    while not stop.is_set():
        started, hopeless = time.monotonic(), False
        try:
            check_clock(look(way))
            _run_node(home, way, marks, say, stop)
        except NetworkError as error:
            hopeless = error.code in HOPELESS
            # once it has worked, whatever is in the way may go away again by itself
            if hopeless and not been_there and not marks.connected.exists():
                raise
            # its code: the text of one that lasts for days has the time in it
            now = error.code if hopeless else str(error)
            if now != said:
                say(" ".join(str(error).split()))
                said = now
        if marks.connected.exists():
            marks.connected.unlink()
            been_there, said = True, said if time.monotonic() - started < STEADY_S else ""
        if time.monotonic() - started > STEADY_S:
            pause = FIRST_S
        stop.wait(HOPELESS_S if hopeless else pause)
        pause = min(pause * 2, LONGEST_S)


def _run_node(home: SiteHome, way: Way, marks: Marks, say: Say, stop: threading.Event) -> None:
    """Run one SuperNode until it ends. Raises NetworkError saying why it did."""
    from fedrounds_client.join.node import NOT_KNOWN, OTHER_VERSION

    log = home.folder / "node.log"
    _turn_over(log)
    with log.open("ab") as stream:
        node = subprocess.Popen(
            [*NODE, str(home.folder), str(os.getpid())], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            env=environment(home, way), start_new_session=True,
        )  # fmt: skip
        try:
            status = _watch(node, home, marks, way, say, stop)
        finally:
            _end(node)
    if stop.is_set():
        return
    if status == NOT_KNOWN:
        raise NetworkError(
            "FR-E43", "the coordinator does not know this site's key, or not yet, or no longer", wanted="an enrolled site",
            do="it is tried again; ask the coordinator (coordinator status)",
        )  # fmt: skip
    if status == OTHER_VERSION:
        raise NetworkError(
            "FR-C89", "the coordinator runs a Flower that this one cannot talk to", wanted="the same version at both",
            do="install the version that the coordinator names; node.log has both",
        )  # fmt: skip
    raise NetworkError("FR-E45", f"the SuperNode ended (status {status})", do="it is started again; node.log says more")


def _watch(
    node: subprocess.Popen[bytes], home: SiteHome, marks: Marks, way: Way, say: Say, stop: threading.Event
) -> int:
    """Until the node ends, or somebody says stop or leaves."""
    connected = False
    while not stop.is_set():
        if home.has_left():
            stop.set()
            break
        try:
            return node.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if not connected and marks.connected.exists():
                connected = True
                say(f"connected to {way.address}")
    return 0


def _end(node: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(node.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.wait(timeout=GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(node.pid, signal.SIGKILL)  # what it started and left behind, too
    node.wait()


def environment(home: SiteHome, way: Way) -> dict[str, str]:
    """Of the SuperNode and what it starts. A proxy of site.toml wins over the environment's."""
    made = {**os.environ, **ENVIRONMENT, "FLWR_HOME": str(home.flwr)}
    # Flower starts its own programs by name
    made["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    local = "127.0.0.1,localhost,::1"  # the node's own helpers
    if way.proxy:
        made["HTTPS_PROXY"] = made["https_proxy"] = way.proxy
        made["NO_PROXY"] = made["no_proxy"] = local
    else:
        before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        made["NO_PROXY"] = made["no_proxy"] = f"{before},{local}".strip(",")
    return made


def _turn_over(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two launchers of one site would answer each message twice."""
    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "FR-E46", "this site is joined already by another process", wanted="one at a time",
                do="end that one first; `fedrounds site doctor` shows its number", where=str(lock.parent.parent),
            ) from None  # fmt: skip
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def runs(home: SiteHome) -> int:
    """The process that keeps this site joined, or 0."""
    lock = Marks(home.flwr).lock
    if not lock.is_file():
        return 0
    with lock.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(stream.read().strip() or -1)
    return 0


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that an interrupt or a polite end sets; what was installed before is put back."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str]) -> int:
    """`HOME CASES`, in the background: what would be printed goes to HOME/join.log."""
    os.umask(0o077)
    home = SiteHome(Path(arguments[0]).resolve())

    def say(line: str) -> None:
        print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}", file=sys.stderr, flush=True)  # noqa: T201

    with stopping() as stop:
        try:
            run(home, say, stop, int(arguments[1]))
        except FedroundsError as error:
            say(str(error))
            return error.exit_status
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
