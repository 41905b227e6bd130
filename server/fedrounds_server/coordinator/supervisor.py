"""Keep the SuperLink and the front up: in order, watched, restarted when they die, and both down at the end.

python -m fedrounds_server.coordinator.supervisor COORD      what `fedrounds coordinator start --detach` starts
"""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import final

from fedrounds_common.disk import write_text
from fedrounds_common.errors import FedroundsError, NetworkError, RunFileError, UsageError
from fedrounds_common.signing import SigningKey
from fedrounds_server.coordinator.flower import GONE, Flower, write_connection
from fedrounds_server.coordinator.folder import (
    LOOPBACK,
    CoordinatorFolder,
    Settings,
    check_closed,
    host_port,
    kept_private,
    read_settings,
)
from fedrounds_server.coordinator.pki import check_certificates, warnings
from fedrounds_server.coordinator.processes import (
    Child,
    check_port_free,
    end_leftover,
    end_orphans,
    front_command,
    front_serves,
    last_lines,
    superlink_command,
    superlink_serves,
    told,
)
from fedrounds_server.coordinator.register import node_ids, read_register, write_entry
from fedrounds_server.coordinator.submit import close_cut_off, cut_off
from fedrounds_server.folder import RunFolder, worker_pid

PATIENCE_S = 120.0
STEADY_S = 60.0  # up for so long, it is healthy again
MOST_FAILURES = 8
LONGEST_PAUSE_S = 60.0
HELPER_S = 5.0  # how often is looked whether Flower's helper, which starts the ServerApps, is there
Say = Callable[[str], None]


def check_before_start(folder: CoordinatorFolder, now: datetime | None = None) -> tuple[Settings, tuple[str, ...]]:
    """Everything that would make a start fail or be unsafe, before anything is started; and what to be told of.

    Raises:
        UsageError: FR-U60 no coordinator's folder; FR-U62, FR-U63 its settings; FR-U71 others may open it.
        NetworkError: FR-C68, FR-C69 certificates; FR-C91, FR-C92 the signing key.
        RunFileError: FR-C73 Flower's database is damaged.
    """
    settings, now = read_settings(folder), now or datetime.now(UTC)
    check_closed(folder)
    ends = check_certificates(folder.keys, host_port(settings.address)[0], now)
    SigningKey.load(folder.signing_key)
    check_database(folder.database)
    return settings, warnings(ends, now)


def check_database(file: Path) -> None:
    """Raises RunFileError FR-C73: the file is there and SQLite finds it damaged."""
    if not file.exists():
        return
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise RunFileError(
            "FR-C73", f"{file.name} is damaged: {found}", wanted="a whole SQLite database",
            do=f"move {file.name}, {file.name}-wal and {file.name}-shm aside and start again: enrolled sites are "
            "registered anew, and runs go on with `fedrounds coordinator resume RUN`",
        )  # fmt: skip


@contextmanager
def _alone(folder: CoordinatorFolder) -> Iterator[None]:
    """One supervisor a folder; the lock goes with the process, however that ends."""
    with (folder.state / "supervisor.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                "FR-U68", "this coordinator is up already", do="`fedrounds coordinator status` shows it"
            ) from error
        write_text(folder.state / "supervisor.pid", f"{os.getpid()}\n")
        try:
            yield
        finally:
            (folder.state / "supervisor.pid").unlink(missing_ok=True)
            (folder.state / "ready").unlink(missing_ok=True)


def supervisor_pid(folder: CoordinatorFolder) -> int | None:
    """The process that keeps this coordinator up, or None."""
    file = folder.state / "supervisor.lock"
    if not file.exists():
        return None
    with file.open("r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            try:
                return int((folder.state / "supervisor.pid").read_text(encoding="ascii"))
            except (OSError, ValueError):
                return None
    return None


def end_supervisor(folder: CoordinatorFolder) -> None:
    """End it and what it keeps up.

    Raises:
        UsageError: FR-U68 it is not up.
    """
    pid = supervisor_pid(folder)
    if pid is None:
        raise UsageError("FR-U68", "this coordinator is not up", do="fedrounds coordinator start")
    os.kill(pid, signal.SIGTERM)
    with (folder.state / "supervisor.lock").open("r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # it lets go when both processes are down


def wait_until_up(folder: CoordinatorFolder, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when a supervisor that was just started has both processes up.

    Raises:
        NetworkError: FR-C71 it ended; with what it said.
    """
    ready = folder.state / "ready"
    while not ready.exists() or ready.read_text(encoding="ascii").strip() != str(process.pid):
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        raise NetworkError("FR-C71", f"the coordinator ended: {last_lines(log, 1)}", do=f"read {log}")


def keep_up(folder: CoordinatorFolder, say: Say, now: datetime | None = None) -> None:
    """Start both processes and keep them up until SIGTERM or an interrupt. SIGHUP starts the front anew.

    Raises:
        FedroundsError: as `check_before_start`; FR-U68 it is up already; FR-C70 a port is taken;
            FR-C71 one of the two does not come up, or dies again and again.
    """
    with kept_private():
        settings, warned = check_before_start(folder, now)
        for line in warned:
            say(f"warning: {line}")
        with _alone(folder):
            Supervisor(folder, settings, say).run()


@final
class Supervisor:
    def __init__(self, folder: CoordinatorFolder, settings: Settings, say: Say) -> None:
        self.folder, self.settings, self.say = folder, settings, say
        self.stop, self.woken, self.renewed = threading.Event(), threading.Event(), threading.Event()
        self.superlink = Child(
            folder, "superlink", superlink_command(folder, settings),
            lambda: superlink_serves(folder, settings.superlink_port),
        )  # fmt: skip
        self.front = Child(folder, "front", front_command(folder), lambda: front_serves(folder, settings))

    @property
    def children(self) -> tuple[Child, Child]:
        return self.superlink, self.front

    def run(self) -> None:
        for child in self.children:
            end_leftover(child.pid_file, child.command)
        end_orphans(self.folder.flower_home)
        check_port_free(f"{LOOPBACK}:{self.settings.superlink_port}", "Flower's SuperLink")
        check_port_free(self.settings.bind, "the front")
        with self._signals():
            try:
                self._up()
                threading.Thread(target=self._watch_helper, daemon=True).start()
                self._watch()
            finally:
                for child in (self.front, self.superlink):
                    child.stop()
                end_orphans(self.folder.flower_home)
                self.folder.note("stopped")

    def _up(self) -> None:
        write_connection(self.folder, self.settings.superlink_port)
        for child in self.children:
            child.start(self.woken)
            child.wait_ready(PATIENCE_S, self.stop)
        if self.stop.is_set():
            return
        write_text(self.folder.state / "ready", f"{os.getpid()}\n")
        self.folder.note("started", address=self.settings.address, bind=self.settings.bind)
        self.say(
            f"{self.settings.name} is up: hospitals dial {self.settings.address}; Flower's Control interface answers "
            f"on {LOOPBACK}:{self.settings.superlink_port} only"
        )
        self._reconcile()

    def _reconcile(self) -> None:
        flower = Flower(self.folder, self.settings.superlink_port)
        reconcile(self.folder, flower, self.superlink.since_unix, self.say)

    def _watch(self) -> None:
        while not self.stop.is_set():
            self.woken.wait()
            self.woken.clear()
            if self.renewed.is_set():
                self.renewed.clear()
                self.front.stop()
                self._again(self.front, "a new certificate")
            for child in self.children:
                if child.ended.is_set() and not self.stop.is_set():
                    self._revive(child)

    def _watch_helper(self) -> None:
        """End a SuperLink whose helper has ended, once no run is worked on: it would start no ServerApp any more."""
        while not self.stop.wait(HELPER_S):
            if self.superlink.helper_ended() and not runs_worked_on(self.folder):
                self.say("the superlink's helper (flower-superexec) has ended")
                self.superlink.end()

    def _revive(self, child: Child) -> None:
        """After a death: a pause that doubles while it keeps dying, then up again."""
        steady = time.monotonic() - child.since > STEADY_S
        child.failures = 1 if steady else child.failures + 1
        self.folder.note("died", process=child.name, times=child.failures)
        if child.failures > MOST_FAILURES:
            child.wait_ready(0, self.stop)  # it has ended: raises with the end of its log
        pause = min(2.0 ** (child.failures - 1), LONGEST_PAUSE_S)
        self.say(f"the {child.name} died; it is started again in {pause:.0f} s (its log: {child.log})")
        if not self.stop.wait(pause):
            self._again(child, "it had died")

    def _again(self, child: Child, why: str) -> None:
        if child is self.superlink:
            end_orphans(self.folder.flower_home)
        child.start(self.woken)
        try:
            child.wait_ready(PATIENCE_S, self.stop)
        except NetworkError as error:
            self.say(told(error))
            child.stop()
            child.ended.set()
            self.woken.set()
            return
        self.folder.note("restarted", process=child.name, why=why)
        self.say(f"the {child.name} is up again")
        if child is self.superlink:
            self._reconcile()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def end(number: int, frame: FrameType | None) -> None:
            self.stop.set()
            self.woken.set()

        def renew(number: int, frame: FrameType | None) -> None:
            self.renewed.set()
            self.woken.set()

        wanted = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: renew}
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def runs_worked_on(folder: CoordinatorFolder) -> bool:
    return any(worker_pid(RunFolder(path)) is not None for path in folder.runs.glob("[0-9]*"))


def reconcile(folder: CoordinatorFolder, flower: Flower, since: float, say: Say) -> None:
    """Bring Flower's list of nodes to what the register says, and tell of runs that were cut off.

    The two differ after a lost database, or after a revocation while Flower was down.
    """
    register = read_register(folder.path)
    if not register:
        return
    try:
        known = {node.node_id for node in flower.nodes() if node.status != GONE}
        for entry in register.values():
            if entry.revoked and entry.node_id in known and entry.node_id is not None:
                flower.unregister_node(entry.node_id)
                write_entry(folder, replace(entry, node_id=None))
            elif not entry.revoked and entry.node_id not in known:
                node_id = flower.register_node(entry.site, entry.node_key, node_ids(folder))
                write_entry(folder, replace(entry, node_id=node_id))
                folder.note("registered anew", site=entry.site, node=node_id)
                say(f"{entry.site} was not on Flower's list and is registered again")
        close_cut_off(folder, flower, since)
        for name in cut_off(folder, flower.runs()):
            say(f"{name} was cut off; to go on: fedrounds coordinator resume {name}")
    except FedroundsError as error:
        say(f"warning: Flower's list of nodes could not be brought to the register: {told(error)}")


def main(arguments: list[str]) -> int:
    def say(line: str) -> None:
        sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")
        sys.stderr.flush()

    try:
        keep_up(CoordinatorFolder(Path(arguments[0]).resolve()), say)
    except FedroundsError as error:
        say(str(error))
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
