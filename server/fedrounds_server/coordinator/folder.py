"""COORD, the coordinator's folder: where each thing lies, its settings, and who may open it.

Everything in it belongs to one account: folders 0700, files 0600. `kept_private()` sets the mask that makes it so.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from pydantic import ConfigDict, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass as checked

from fedrounds_common.chain import append
from fedrounds_common.disk import write_json, write_text
from fedrounds_common.errors import RunFileError, UsageError

FORMAT = 1
SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # as in leaving.py: it becomes a file name
LOOPBACK = "127.0.0.1"
SUPERLINK_PORT = 39092
UMASK = 0o077
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@final
@dataclass(frozen=True)
class CoordinatorFolder:
    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "coordinator.toml"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def signing_key(self) -> Path:
        return self.keys / "signing.key"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def database(self) -> Path:
        return self.path / "superlink.db"

    @property
    def flower_home(self) -> Path:
        return self.path / "flwr"

    @property
    def app(self) -> Path:
        return self.path / "app"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def state(self) -> Path:
        """Pids of the processes that are up."""
        return self.path / "state"

    def invitation(self, site: str) -> Path:
        return self.path / "invitations" / f"{site}.json"

    def pending(self, site: str) -> Path:
        return self.path / "pending" / f"{site}.json"

    def site(self, site: str) -> Path:
        return self.path / "sites" / f"{site}.json"

    def note(self, event: str, **facts: Any) -> None:
        """One line in the journal."""
        with kept_private():
            append(self.journal, event, facts)


@final
@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """`coordinator.toml`. `address`: what hospitals dial; `bind`: where the front listens; `limits`: the front's own."""

    format: Literal[1]
    name: str
    address: str
    bind: str
    superlink_port: int = SUPERLINK_PORT
    superlink_host: str = LOOPBACK
    limits: Mapping[str, float] = field(default_factory=dict)

    @field_validator("address", "bind")
    @classmethod
    def _has_a_port(cls, value: str) -> str:
        host_port(value)
        return value

    @field_validator("superlink_port")
    @classmethod
    def _is_a_port(cls, value: int) -> int:
        if not 1 <= value <= 65535:
            raise ValueError(f"{value} is no port: 1 to 65535")
        return value

    @model_validator(mode="after")
    def _two_ports(self) -> Settings:
        if host_port(self.bind)[1] == self.superlink_port:
            raise ValueError(f"superlink_port is bind's own, {self.superlink_port}: two processes need two ports")
        return self


def host_port(address: str) -> tuple[str, int]:
    """`fl.example.org:8443` or `[::1]:8443` as host and port; ValueError for anything else."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    name = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", host) is not None
    if not colon or not (name or _is_ip(host)) or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host, int(port)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def read_settings(folder: CoordinatorFolder) -> Settings:
    """The settings, all faults at once.

    Raises:
        UsageError: FR-U60 this is no coordinator's folder; FR-U62 its settings have faults;
            FR-U63 they would show Flower's own interfaces to a network.
    """
    if not folder.settings.is_file():
        raise UsageError(
            "FR-U60", f"{folder.path} is no coordinator's folder", wanted="one with a coordinator.toml",
            do="name it with --folder, or make one with `fedrounds coordinator init HOST:PORT`",
        )  # fmt: skip
    try:
        table = tomllib.loads(folder.settings.read_text(encoding="utf-8"))
        settings = TypeAdapter(Settings).validate_python(table)
    except ValidationError as error:
        raise UsageError("FR-U62", faults_of(error), wanted="coordinator.toml as `init` writes it") from error
    except (OSError, ValueError) as error:
        raise UsageError("FR-U62", f"coordinator.toml cannot be read: {error}", do="mend it or restore it") from error
    if settings.superlink_host != LOOPBACK:
        raise UsageError(
            "FR-U63", f"superlink_host = {settings.superlink_host!r}", wanted=f"{LOOPBACK}, or leave it out",
            do="hospitals reach the front (`bind`); Flower's Control interface has no login and stays on loopback",
        )  # fmt: skip
    return settings


def faults_of(error: ValidationError) -> str:
    """Every fault on one line, each with its key."""
    said = ((".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")) for fault in error.errors())
    return "; ".join(f"{key}: {message}" if key else message for key, message in said)


def write_settings(folder: CoordinatorFolder, settings: Settings) -> None:
    limits = "".join(f"{name} = {value:g}\n" for name, value in settings.limits.items())
    text = (
        f"format = {FORMAT}\n"
        f"name = {json.dumps(settings.name, ensure_ascii=False)}\n"
        f"address = {json.dumps(settings.address)}  # what hospitals dial\n"
        f"bind = {json.dumps(settings.bind)}  # where the front listens for them\n"
        f"superlink_port = {settings.superlink_port}  # Flower, on this machine's loopback only\n"
        f"\n[limits]  # of one hospital at the front; left out: the front's own\n{limits}"
    )
    with kept_private():
        write_text(folder.settings, text)


def private() -> int:
    """From now on no file that this process makes is open to others; returns the mask that was."""
    return os.umask(UMASK)


@contextmanager
def kept_private() -> Iterator[None]:
    """Within, no file that this process makes is open to others."""
    before = private()
    try:
        yield
    finally:
        os.umask(before)


def make_folders(folder: CoordinatorFolder) -> None:
    """The folder and those inside it, 0700 whatever the mask is.

    Raises:
        UsageError: FR-U61 there is a coordinator already, or something else.
    """
    if folder.path.exists() and any(folder.path.iterdir()):
        raise UsageError(
            "FR-U61", f"{folder.path} is there already", wanted="a new or an empty folder",
            do="name another with --folder; keys are never written over",
        )  # fmt: skip
    with kept_private():
        folder.path.mkdir(parents=True, exist_ok=True)
    folder.path.chmod(0o700)
    for name in ("keys", "invitations", "pending", "sites", "flwr", "app", "runs", "logs", "state"):
        (folder.path / name).mkdir(mode=0o700)


def check_closed(folder: CoordinatorFolder) -> None:
    """Refuse to work where others may look in.

    Raises:
        UsageError: FR-U71 naming the first thing that is open.
    """
    for place in (folder.path, folder.keys, *sorted(folder.keys.iterdir())):
        mode = stat.S_IMODE(place.stat().st_mode)
        if mode & OTHERS and place.suffix != ".pem":
            raise UsageError(
                "FR-U71", f"others may open {place.name} (mode {mode:04o})", wanted="0700 for folders, 0600 for keys",
                do=f"chmod go= {place}, and ask whether it was copied meanwhile",
            )  # fmt: skip


def read_table(file: Path) -> dict[str, Any]:
    """A JSON object of ours.

    Raises:
        RunFileError: FR-F02 it is damaged.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError(f"an object of format {FORMAT} is wanted")
    except (OSError, ValueError) as error:
        raise RunFileError(
            "FR-F02", f"{file.parent.name}/{file.name} cannot be read: {error}", do="restore it from a backup"
        ) from error
    return value


def write_table(file: Path, table: Mapping[str, Any]) -> None:
    """Whole or not at all, for its owner alone."""
    with kept_private():
        write_json(file, {"format": FORMAT, **table})


def checked_site(name: str) -> str:
    """A site's name, fit to be a file's.

    Raises:
        UsageError: FR-U64.
    """
    if not SITE.fullmatch(name):
        raise UsageError(
            "FR-U64", f"{name!r} is no site's name", wanted="up to 64 letters, digits, dots, dashes, underscores"
        )
    return name
