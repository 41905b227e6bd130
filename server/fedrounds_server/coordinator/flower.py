"""Flower's own command line, spoken to on loopback: its documented commands with `--format json`.

The only file of the coordinator that knows them. Flower's Control interface has no login: who can reach it
runs the federation, so it is reached on 127.0.0.1 only, over TLS with this coordinator's CA.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fedrounds_common.disk import write_text
from fedrounds_common.errors import MachineError, NetworkError
from fedrounds_server.coordinator.folder import LOOPBACK, UMASK, CoordinatorFolder

CONNECTION = "coordinator"
PATIENCE_S = 120.0
GONE = "unregistered"  # a node's status
KEY_IN_USE, RUN_FINISHED = "[code: 23]", "[code: 18]"  # of Flower's errors
# of a child: nothing sent home, no look for updates, no download for a run
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "DO_NOT_TRACK": "1",
}


@final
@dataclass(frozen=True)
class Node:
    """`status`: registered, online, offline or unregistered; times as Flower writes them, "" for never."""

    node_id: int
    status: str
    online_at: str
    offline_at: str


@final
@dataclass(frozen=True)
class FlowerRun:
    """`status`: pending, starting, running, finished:completed, finished:failed or finished:stopped."""

    run_id: int
    status: str
    details: str

    @property
    def ended(self) -> bool:
        return self.status.startswith("finished")


@final
@dataclass(frozen=True)
class Flower:
    """The SuperLink of one coordinator."""

    folder: CoordinatorFolder
    port: int

    def register_node(self, name: str, node_key: str, others: Collection[int] = ()) -> int:
        """Flower's id of a node with this public key (PEM); `others`: ids that belong to other keys.

        A key that Flower has already and whose id nobody else has was registered by a command that was cut off.

        Raises:
            NetworkError: FR-C72 Flower did not answer or did not take it; FR-C75 it had the key before.
        """
        public = load_pem_public_key(node_key.encode())
        line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        with tempfile.NamedTemporaryFile(dir=self.folder.state, suffix=".pub") as file:
            file.write(line + b"\n")
            file.flush()
            try:
                return int(self._ask("supernode", "register", file.name, CONNECTION, "--name", name)["node-id"])
            except NetworkError as error:
                if KEY_IN_USE not in error.found:
                    raise
        left = [node.node_id for node in self.nodes() if node.status != GONE and node.node_id not in others]
        if len(left) != 1:
            raise NetworkError(
                "FR-C75", f"Flower had the node key of {name} before", wanted="a key that was never taken off its list",
                do="the site makes new keys, and is invited anew",
            )  # fmt: skip
        return left[0]

    def unregister_node(self, node_id: int) -> None:
        self._ask("supernode", "unregister", str(node_id), CONNECTION)

    def nodes(self) -> tuple[Node, ...]:
        said = self._ask("supernode", "list", CONNECTION)
        return tuple(
            Node(int(row["node-id"]), str(row["status"]), _time(row["online-at"]), _time(row["offline-at"]))
            for row in said["nodes"]
        )

    def start_run(self, app: Path, config: Path) -> int:
        """Hand a bundle and its run configuration (TOML) to Flower; its id of the run."""
        return int(self._ask("run", str(app), CONNECTION, "--run-config", str(config))["run-id"])

    def stop_run(self, run_id: int) -> None:
        """End a run; one that has ended meanwhile is as it should be."""
        try:
            self._ask("stop", str(run_id), CONNECTION)
        except NetworkError as error:
            if RUN_FINISHED not in error.found:
                raise

    def runs(self) -> tuple[FlowerRun, ...]:
        return _runs(self._ask("list", CONNECTION))

    def run(self, run_id: int) -> FlowerRun:
        return _runs(self._ask("list", CONNECTION, "--run-id", str(run_id)))[0]

    def _ask(self, *words: str) -> dict[str, Any]:
        write_connection(self.folder, self.port)
        command = [program("flwr"), *words, "--format", "json"]
        try:
            done = subprocess.run(
                command, env=environment(self.folder), capture_output=True, text=True, check=False, timeout=PATIENCE_S,
                cwd=self.folder.path, umask=UMASK,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise _silent(words, f"no answer in {PATIENCE_S:.0f} s") from error
        said = last_object(done.stdout)
        if said is None or not said.get("success"):
            reason = str((said or {}).get("error-message") or done.stderr or done.stdout).strip()
            raise _silent(words, _told(reason))
        return said


def _silent(words: Sequence[str], reason: str) -> NetworkError:
    return NetworkError(
        "FR-C72", f"`flwr {' '.join(words[:2])}` failed: {reason}", wanted="a SuperLink that answers on loopback",
        do="`fedrounds coordinator status` says whether it is up",
    )  # fmt: skip


def _told(reason: str) -> str:
    lines = [line.strip() for line in reason.splitlines() if line.strip() and not line.startswith("Using SuperLink")]
    return " ".join(lines)[-400:] or "it said nothing"


def _runs(said: Mapping[str, Any]) -> tuple[FlowerRun, ...]:
    return tuple(
        FlowerRun(int(row["run-id"]), str(row["status"]), str(row.get("status-details", ""))) for row in said["runs"]
    )


def _time(value: object) -> str:
    return "" if value in (None, "N/A") else str(value)


def last_object(text: str) -> dict[str, Any] | None:
    """The last JSON object in a program's output: Flower prints lines of talk before it."""
    decoder, found = json.JSONDecoder(), None
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            start = text.find("{", start + 1)
            continue
        found = value if isinstance(value, dict) else found
        start = text.find("{", end)
    return found


def program(name: str) -> str:
    """One of Flower's programs, of this very environment.

    Raises:
        MachineError: FR-U72 it is not installed here.
    """
    here = Path(sys.executable).parent / name
    if not here.is_file():
        raise MachineError("FR-U72", f"{name} is not beside {sys.executable}", do="install fedrounds with its flwr")
    return str(here)


def environment(folder: CoordinatorFolder, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """What every child gets: none of the caller's Flower settings, which could open other ports, but ours.

    Flower's programs start each other by name, so the folder of this interpreter leads the path.
    """
    given = os.environ if base is None else base
    clean = {name: value for name, value in given.items() if not name.startswith(("FLWR_", "FLOWER_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{clean.get('PATH', os.defpath)}"
    return {**clean, **QUIET, "PATH": path, "FLWR_HOME": str(folder.flower_home), "PYTHONUNBUFFERED": "1"}


def write_connection(folder: CoordinatorFolder, port: int) -> None:
    """Flower's own settings, with one connection in them: written each time, for the folder may have moved."""
    text = (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{LOOPBACK}:{port}"\n'
        f"root-certificates = {json.dumps(str(folder.keys / 'ca.pem'))}\ninsecure = false\n"
    )
    file = folder.flower_home / "config.toml"
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)
