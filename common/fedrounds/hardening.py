"""Is a coordinator's folder as it should be? One finding for each line of the hardening checklist (docs/security).

Nothing is changed and nothing is started; a coordinator that is up is only asked on its two ports.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from fedrounds.health import GB, Finding, Level
from fedrounds_common.chain import verify
from fedrounds_common.errors import FedroundsError
from fedrounds_common.signing import SigningKey
from fedrounds_server.coordinator.flower import QUIET
from fedrounds_server.coordinator.folder import (
    LOOPBACK,
    OTHERS,
    CoordinatorFolder,
    Settings,
    host_port,
    read_settings,
)
from fedrounds_server.coordinator.invitation import read_open
from fedrounds_server.coordinator.pki import WARN_DAYS, check_certificates
from fedrounds_server.coordinator.processes import front_serves, superlink_serves
from fedrounds_server.coordinator.register import read_register
from fedrounds_server.coordinator.supervisor import check_database, supervisor_pid
from fedrounds_server.front.settings import limits_of

WHATS = (
    "account", "folder", "settings", "signing key", "certificates", "database", "register", "journal", "bundle",
    "Flower's port", "front", "telemetry", "clock", "disk",
)  # fmt: skip
MAY_BE_OPEN = {".pem"}  # certificates are public
CODE = {".py", ".pyc", ".so", ".whl", ".sh"}
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
MINIMUM_GB, COMFORTABLE_GB = 0.5, 5.0
LISTENING = "0A"  # proc(5), /proc/net/tcp


def examine_coordinator(path: Path, now: datetime | None = None) -> tuple[Finding, ...]:
    """Every check of `fedrounds doctor --coordinator`, in the checklist's order.

    Raises:
        UsageError: FR-U60 this is no coordinator's folder; FR-U62, FR-U63 its settings cannot be used.
    """
    folder, now = CoordinatorFolder(path.absolute()), now or datetime.now(UTC)
    settings = read_settings(folder)
    return tuple(_checks(folder, settings, now))


def _checks(folder: CoordinatorFolder, settings: Settings, now: datetime) -> Iterator[Finding]:
    yield account(os.getuid())
    yield closed(folder.path)
    yield tried("settings", lambda: _settings(settings))
    yield tried("signing key", lambda: f"fingerprint {SigningKey.load(folder.signing_key).public.fingerprint}")
    yield _certificates(folder, settings, now)
    yield tried("database", lambda: _database(folder))
    yield _register(folder, now)
    yield tried("journal", lambda: "{} lines, chain whole, ends in {:.12}".format(*verify(folder.journal)))
    yield _bundle(folder)
    yield from _ports(folder, settings)
    yield clock()
    yield disk(folder.path)


def tried(what: str, found: Callable[[], str]) -> Finding:
    """What a check found, or its error as a fault."""
    try:
        return Finding(what, "ok", found())
    except FedroundsError as error:
        return Finding(what, "fault", f"{error.code} {error.found}".partition("\n")[0], error.do)


def account(user: int) -> Finding:
    if user == 0:
        return Finding("account", "advice", "root", "an account of its own, without a shell")
    return Finding("account", "ok", f"uid {user}, not root")


def closed(folder: Path) -> Finding:
    """No file or folder below may be opened by others than its owner; certificates may."""
    opened = [place for place in (folder, *sorted(folder.rglob("*"))) if _is_open(place)]
    if not opened:
        return Finding("folder", "ok", "nothing in it is open to other accounts")
    first = opened[0].relative_to(folder.parent)
    more = f" and {len(opened) - 1} more" if len(opened) > 1 else ""
    return Finding("folder", "fault", f"{first}{more} may be opened by others", f"chmod -R go= {folder}")


def _is_open(place: Path) -> bool:
    try:
        mode = place.lstat().st_mode
    except OSError:  # gone meanwhile: a coordinator that is up writes and renames
        return False
    return not stat.S_ISLNK(mode) and bool(mode & OTHERS) and place.suffix not in MAY_BE_OPEN


def _settings(settings: Settings) -> str:
    limits_of(settings.limits)
    return f"Flower's SuperLink on {LOOPBACK}:{settings.superlink_port}, hospitals at {settings.bind}"


def _certificates(folder: CoordinatorFolder, settings: Settings, now: datetime) -> Finding:
    what = "certificates"
    try:
        ends = check_certificates(folder.keys, host_port(settings.address)[0], now)
    except FedroundsError as error:
        return Finding(what, "fault", f"{error.code} {error.found}", error.do)
    soonest = min(ends, key=lambda end: end.until)
    found = f"for {host_port(settings.address)[0]}; {soonest.what} ends in {soonest.days(now):.0f} days"
    soon = soonest.days(now) < WARN_DAYS
    return Finding(what, "advice" if soon else "ok", found, "fedrounds coordinator renew" if soon else "")


def _database(folder: CoordinatorFolder) -> str:
    check_database(folder.database)
    return "whole" if folder.database.exists() else "none yet: made by the first start"


def _register(folder: CoordinatorFolder, now: datetime) -> Finding:
    """Who is let in, and what still lies about that would let somebody in."""
    what = "register"
    try:
        sites = read_register(folder.path).values()
        invited = [read_open(folder, file.stem) for file in sorted((folder.path / "invitations").glob("*.json"))]
    except FedroundsError as error:
        return Finding(what, "fault", f"{error.code} {error.found}", error.do)
    waiting = len(list((folder.path / "pending").glob("*.json")))
    still = [each.site for each in invited if each is not None and not each.used and now < each.expires]
    gone = sum(site.revoked for site in sites)
    found = f"{len(sites) - gone} sites, {gone} revoked, {waiting} waiting, {len(still)} open invitations"
    if waiting:
        return Finding(what, "advice", found, "fedrounds coordinator enrol SITE, once fingerprints are compared")
    return Finding(what, "ok", found)


def _bundle(folder: CoordinatorFolder) -> Finding:
    """What Flower hands to hospitals holds studies: no hospital accepts code, and none should be sent."""
    code = sorted(file.name for file in folder.app.rglob("*") if file.suffix in CODE)
    if code:
        return Finding("bundle", "fault", f"holds {', '.join(code[:3])}", "take it away: studies travel, code does not")
    return Finding("bundle", "ok", "nothing executable in it")


def _ports(folder: CoordinatorFolder, settings: Settings) -> Iterator[Finding]:
    up = supervisor_pid(folder) is not None
    if not up:
        yield Finding("Flower's port", "advice", "the coordinator is not up", "fedrounds coordinator start")
        yield Finding("front", "advice", "the coordinator is not up", "fedrounds coordinator start")
        yield Finding("telemetry", "advice", "the coordinator is not up", "fedrounds coordinator start")
        return
    heard = listeners(settings.superlink_port)
    level: Level = "ok" if superlink_serves(folder, settings.superlink_port) and heard <= {LOOPBACK} else "fault"
    where = ", ".join(sorted(heard)) or "nowhere"
    yield Finding(
        "Flower's port",
        level,
        f"{settings.superlink_port} listens on {where}",
        _unless(level, "coordinator stop, start"),
    )
    level = "ok" if front_serves(folder, settings) else "fault"
    yield Finding(
        "front", level, f"{settings.bind} over TLS with our certificate", _unless(level, "read logs/front.log")
    )
    yield _telemetry(folder)


def _unless(level: Level, do: str) -> str:
    return "" if level == "ok" else do


def listeners(port: int, tables: tuple[Path, ...] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> set[str]:
    """The addresses of this machine on which something listens at `port`; every IPv6 one is named by its hex."""
    found = set()
    for table in tables:
        lines = table.read_text(encoding="ascii").splitlines()[1:] if table.is_file() else []
        for line in lines:
            address, state = line.split()[1], line.split()[3]
            host, _, number = address.partition(":")
            if state == LISTENING and int(number, 16) == port:
                found.add(_ipv4(host) if len(host) == 8 else host)
    return found


def _ipv4(digits: str) -> str:
    # four bytes in the machine's own order, which on the machines torch is built for is little-endian
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(digits)))


def clock() -> Finding:
    """Whether the kernel says that something keeps its clock right: a site's requests are dated."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex"):
        return Finding("clock", "advice", "cannot be told on this system", "keep it right by NTP")
    # struct timex is 208 bytes on every 64-bit Linux; modes = 0 only asks
    state = libc.adjtimex(ctypes.create_string_buffer(256))
    if state < 0 or state == TIME_ERROR:
        return Finding("clock", "advice", "not synchronised, says the kernel", "keep it right by NTP")
    return Finding("clock", "ok", "synchronised")


def _telemetry(folder: CoordinatorFolder) -> Finding:
    """What the SuperLink that is up was really told, not what we meant to tell it."""
    try:
        pid = int((folder.state / "superlink.pid").read_text(encoding="ascii"))
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return Finding("telemetry", "advice", "the SuperLink's environment cannot be read", "ask as its own account")
    loud = [name for name, value in QUIET.items() if f"{name}={value}".encode() not in words]
    if loud:
        return Finding("telemetry", "fault", f"{', '.join(loud)} not set", "start it by fedrounds coordinator start")
    return Finding("telemetry", "ok", "off, and nothing is installed for a run")


def disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / GB
    found = f"{free:.1f} GB free"
    if free < MINIMUM_GB:
        return Finding("disk", "fault", found, f"{MINIMUM_GB} GB wanted at least")
    return Finding("disk", "advice" if free < COMFORTABLE_GB else "ok", found)
