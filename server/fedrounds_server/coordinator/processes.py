"""The coordinator's two processes: how each is started, how its talk is kept, and when it is ready."""

from __future__ import annotations

import http.client
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, final

from fedrounds_common.disk import write_text
from fedrounds_common.errors import FedroundsError, NetworkError
from fedrounds_server.coordinator.flower import environment, program
from fedrounds_server.coordinator.folder import LOOPBACK, UMASK, CoordinatorFolder, Settings, host_port

LOG_BYTES, LOGS_KEPT = 10_000_000, 5
GRACE_S = 15.0


def superlink_command(folder: CoordinatorFolder, settings: Settings) -> list[str]:
    """Flower's SuperLink: on loopback, over TLS, nodes by their keys, its state on disk, nothing installed for a run."""
    return [
        program("flower-superlink"),
        f"--host={LOOPBACK}",
        f"--port={settings.superlink_port}",
        f"--ssl-ca-certfile={folder.keys / 'ca.pem'}",
        f"--ssl-certfile={folder.keys / 'loopback.pem'}",
        f"--ssl-keyfile={folder.keys / 'loopback.key'}",
        "--enable-supernode-auth",
        f"--database={folder.database}",
        "--isolation=subprocess",
        "--disable-runtime-dependency-installation",
    ]


def front_command(folder: CoordinatorFolder) -> list[str]:
    return [sys.executable, "-m", "fedrounds_server.front", str(folder.path)]


@final
class Child:
    """A process that is kept up. Its output goes to `logs/NAME.log`, which is rotated; its pid to `state/NAME.pid`."""

    def __init__(self, folder: CoordinatorFolder, name: str, command: Sequence[str], ready: Callable[[], bool]) -> None:
        self.folder, self.name, self.command, self.ready = folder, name, list(command), ready
        self.ended = threading.Event()
        self.failures = 0
        self.since, self.since_unix = 0.0, 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder.logs / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        return self.folder.state / f"{self.name}.pid"

    def start(self, woken: threading.Event) -> None:
        """Start it; `woken` is set when it ends."""
        end_leftover(self.pid_file, self.command)
        self.ended.clear()
        self.since, self.since_unix = time.monotonic(), time.time()
        process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment(self.folder), cwd=self.folder.path, umask=UMASK, start_new_session=True,
        )  # fmt: skip
        self._process = process
        write_text(self.pid_file, f"{process.pid}\n")
        assert process.stdout is not None
        threading.Thread(target=_keep_talk, args=(process.stdout, self.log), daemon=True).start()
        threading.Thread(target=self._wait, args=(process, woken), daemon=True).start()

    def _wait(self, process: subprocess.Popen[bytes], woken: threading.Event) -> None:
        process.wait()
        if process is self._process:
            self.ended.set()
            woken.set()

    def wait_ready(self, patience_s: float, stop: threading.Event) -> None:
        """Return when it serves.

        Raises:
            NetworkError: FR-C71 it ended or did not serve in time; with the last lines of its log.
        """
        end = time.monotonic() + patience_s
        while not stop.is_set():
            if self.ready():
                return
            if self.ended.wait(0.2):
                raise self._failed(f"ended with {self._code()}")
            if time.monotonic() > end:
                raise self._failed(f"did not serve within {patience_s:.0f} s")

    def _code(self) -> int | None:
        return None if self._process is None else self._process.returncode

    def _failed(self, what: str) -> NetworkError:
        return NetworkError(
            "FR-C71", f"the {self.name} {what}: {last_lines(self.log)}", wanted="a process that stays up",
            do=f"read {self.log}",
        )  # fmt: skip

    def helper_ended(self) -> bool:
        """Whether a process that this one had started has ended without its noticing."""
        return self._process is not None and has_ended_child(self._process.pid)

    def end(self) -> None:
        """End it as if it had died: whoever keeps it up starts it again."""
        if self._process is not None:
            end_process(self._process.pid)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.pid_file.unlink(missing_ok=True)


def _keep_talk(stream: IO[bytes], file: Path) -> None:
    """What a child prints, line by line, into a log that does not grow without end."""
    keeper = RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8", errors="replace")
    keeper.setFormatter(logging.Formatter("%(message)s"))
    with stream:
        for line in stream:
            text = line.decode("utf-8", "replace").rstrip()
            keeper.emit(logging.LogRecord(file.stem, logging.INFO, "", 0, text, None, None))
    keeper.close()


def last_lines(log: Path, count: int = 3) -> str:
    """The end of a log on one line."""
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return "it said nothing"
    return " | ".join([line for line in lines if line][-count:])[-600:] or "it said nothing"


def end_leftover(pid_file: Path, command: Sequence[str]) -> None:
    """End a process of ours that outlived its supervisor (a kill -9), if that pid still runs that very command."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        running = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return
    # a script runs as `python script …`: its own words stand at the end
    if running[:-1][-len(command) + 1 :] != [os.fsencode(word) for word in command[1:]]:
        return
    end_process(pid)


def end_orphans(flower_home: Path) -> int:
    """End the ServerApps of a SuperLink that is gone; how many there were.

    Such a process lives on when its SuperLink is killed, and would write into a run that is resumed meanwhile.
    """
    mine = b"FLWR_HOME=" + os.fsencode(flower_home)
    found = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            ours = mine in (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone meanwhile, or another account's
        if ours and any(word.endswith(b"/flwr-serverapp") for word in words):
            found += 1
            end_process(int(place.name))
    return found


def end_process(pid: int) -> None:
    """SIGTERM, and SIGKILL to what does not go."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + GRACE_S
        try:
            os.kill(pid, number)
            while time.monotonic() < end and not _is_dead(pid):
                time.sleep(0.1)
        except ProcessLookupError:
            return
        if _is_dead(pid):
            return


def _is_dead(pid: int) -> bool:
    """Gone, or only waiting for its parent to take note."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "Z"
        )
    except OSError:
        return True


def has_ended_child(pid: int) -> bool:
    """Whether a child of this process has ended and is still on its list."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if words[0] == "Z" and int(words[1]) == pid:
            return True
    return False


def superlink_serves(folder: CoordinatorFolder, port: int) -> bool:
    """Whether a SuperLink with this coordinator's certificate answers on loopback."""
    connection = None
    try:
        context = ssl.create_default_context(cafile=str(folder.keys / "ca.pem"))
        connection = http.client.HTTPSConnection(LOOPBACK, port, timeout=5, context=context)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        if connection is not None:
            connection.close()


def front_serves(folder: CoordinatorFolder, settings: Settings) -> bool:
    """Whether something shows this coordinator's certificate where hospitals dial in."""
    host, port = host_port(settings.bind)
    here = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    try:
        context = ssl.create_default_context(cafile=str(folder.keys / "ca.pem"))
        with (
            socket.create_connection((here, port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=host_port(settings.address)[0]),
        ):
            return True
    except OSError:
        return False


def check_port_free(address: str, what: str) -> None:
    """Raises NetworkError FR-C70: something listens there already, or the address is not of this machine."""
    host, port = host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NetworkError(
                "FR-C70", f"{what} cannot listen on {address}: {error.strerror}", wanted="a free port of this machine",
                do=f"end what listens there (`ss -ltnp sport = :{port}`), or change it in coordinator.toml",
            ) from error  # fmt: skip


def told(error: FedroundsError) -> str:
    """One line of an error, for a journal."""
    return str(error).partition("\n")[0][:500]
