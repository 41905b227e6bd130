"""Can this site join, and is it as closed as it should be? One line a check: what was found, and the mend.

`fedrounds site doctor` prints them; docs/security/hardening.md has the same list.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fedrounds.health import GB, Finding, free_memory_bytes
from fedrounds_client.caches import caches
from fedrounds_client.home import OTHERS, SiteHome
from fedrounds_client.jail import can_be_walled
from fedrounds_client.join.invitation import Invitation, read_invitation
from fedrounds_client.join.node import moved, read_node_key
from fedrounds_client.join.reach import Seen, Way, check_clock, look
from fedrounds_client.join.supernode import Marks, runs
from fedrounds_client.settings import SiteSettings
from fedrounds_common.chain import verify
from fedrounds_common.errors import DONE, FedroundsError, MachineError, NetworkError
from fedrounds_common.signing import SigningKey
from fedrounds_sites.cache import CaseStore

WHATS = (
    "account", "settings", "folder", "keys", "journal", "data", "walls", "memory", "disk", "GPU", "Flower",
    "invitation", "proxy", "coordinator", "certificate", "clock", "joined",
)  # fmt: skip
OF_NETWORK = {"invitation", "proxy", "coordinator", "certificate", "clock"}
SOON_DAYS = 21
FEWEST_GB = 2.0


def examine_site(home: SiteHome) -> tuple[Finding, ...]:
    """Every check, in the order of WHATS; what cannot be asked because something before it failed is left out."""
    found = [_account(), *_private(home)]
    settings = _settings(home, found)
    if settings is not None:
        found += [
            *_kept(home, settings),
            *_data(settings),
            _walls(settings),
            _memory(settings),
            _disk(home, settings),
            _gpu(settings),
        ]
    found.append(_flower())
    invitation = _invitation(home, found)
    if settings is not None and invitation is not None:
        found += _way(Way(invitation.address, invitation.ca, settings.machine.proxy))
        found.append(_joined(home))
    return tuple(sorted(found, key=lambda finding: WHATS.index(finding.what)))


def status_of(findings: Sequence[Finding]) -> int:
    """The exit status: 6 if only the way to the coordinator is at fault, 5 if anything here is."""
    faults = {finding.what for finding in findings if finding.level == "fault"}
    if not faults:
        return DONE
    return NetworkError.exit_status if faults <= OF_NETWORK else MachineError.exit_status


def is_up(home: SiteHome) -> bool:
    """Whether the launcher runs and its SuperNode has reached the coordinator."""
    return bool(runs(home)) and Marks(home.flwr).connected.exists()


def _account() -> Finding:
    if os.getuid() == 0:
        return Finding("account", "advice", "root", "run it as an account of its own: useradd --system fedrounds")
    return Finding("account", "ok", f"number {os.getuid()}, not root")


def _settings(home: SiteHome, found: list[Finding]) -> SiteSettings | None:
    try:
        settings = home.read_settings()
    except FedroundsError as error:
        found.append(Finding("settings", "fault", _line(error), "mend site.toml, or `fedrounds site init`"))
        return None
    found.append(Finding("settings", "ok", f"site {settings.name}, reader {settings.data.get('name', '?')}"))
    return settings


def _private(home: SiteHome) -> Iterator[Finding]:
    if not home.folder.is_dir():
        yield Finding("folder", "fault", f"{home.folder} is not there", "`fedrounds site init`, or name it with --site")
        return
    open_ = [place for place in (home.folder, *_below(home.folder)) if _is_open(place)]
    names = ", ".join(str(place.relative_to(home.folder)) for place in open_[:3])
    if open_:
        yield Finding("folder", "fault", f"others may open {len(open_)}: {names}", f"chmod -R go= {home.folder}")
    elif home.folder.stat().st_uid != os.getuid():
        yield Finding("folder", "fault", "it belongs to another account", f"chown -R $(id -un) {home.folder}")
    else:
        yield Finding("folder", "ok", "nobody else may open it")
    yield _checked("keys", lambda: _read_keys(home), "made anew by `fedrounds site join` where they are missing")
    yield _checked("journal", lambda: f"{verify(home.journal)[0]} lines, unbroken", "keep it; ask who wrote there")


def _read_keys(home: SiteHome) -> str:
    fingerprint = SigningKey.load(home.signing_key).public.fingerprint
    if home.node_key.exists():
        read_node_key(home.node_key)
    return fingerprint


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        yield from (Path(root) / name for name in (*folders, *files))


def _is_open(place: Path) -> bool:
    try:
        found = place.lstat()
    except OSError:
        return False  # it went meanwhile
    return not stat.S_ISLNK(found.st_mode) and bool(stat.S_IMODE(found.st_mode) & OTHERS)


def _kept(home: SiteHome, settings: SiteSettings) -> Iterator[Finding]:
    """Of each folder that keeps prepared images between runs, or kept them, which may lie elsewhere."""
    for folder in caches(home, settings.cache):
        if folder.exists() and any(map(_is_open, (folder, *_below(folder)))):
            said = f"others may open prepared images kept in {folder}"
            yield Finding("folder", "fault", said, f"chmod -R go= {folder}")
        if folder != settings.cache and any(CaseStore(folder).refs()):
            said = f"prepared images are still kept in {folder}, which site.toml names no more"
            yield Finding("folder", "advice", said, f"fedrounds cache {folder} --clear")


def _data(settings: SiteSettings) -> Iterator[Finding]:
    root = Path(str(settings.data["root"])) if settings.data.get("root") else None
    if root is None:
        yield Finding("data", "ok", "made by the reader; nothing is read")
    elif not os.access(root, os.R_OK | os.X_OK):
        yield Finding("data", "fault", f"{root} cannot be read", "give this account the right to read it, and no more")
    elif os.access(root, os.W_OK):
        yield Finding("data", "advice", f"this account can write to {root}", "give it the right to read only")
    else:
        yield Finding("data", "ok", "can be read, and not written to")


def _walls(settings: SiteSettings) -> Finding:
    if settings.machine.network == "host":
        return Finding(
            "walls", "advice", "site.toml gives the training process a network", '[machine] network = "none"'
        )
    why = can_be_walled()
    if why:
        do = "sysctl kernel.unprivileged_userns_clone=1 (or AppArmor's), or a container without network"
        return Finding("walls", "fault", f"the training process cannot be shut in: {why}", do)
    return Finding("walls", "ok", "the training process has no network, and cannot write to the data")


def _memory(settings: SiteSettings) -> Finding:
    free, limit = free_memory_bytes(), settings.machine.memory_gb
    if free is None:
        return Finding("memory", "advice", "cannot be told here")
    found = f"{free / GB:.1f} GB free, limit {f'{limit:g} GB' if limit else 'none'}"
    if free < max(limit, FEWEST_GB) * GB:
        return Finding("memory", "advice", found, f"{max(limit, FEWEST_GB):g} GB wanted: end other programs")
    return Finding("memory", "ok" if limit else "advice", found, "" if limit else "set [machine] memory_gb")


def _disk(home: SiteHome, settings: SiteSettings) -> Finding:
    free = shutil.disk_usage(home.folder if home.folder.is_dir() else Path("/")).free / GB
    found = f"{free:.1f} GB free, {settings.policy.disk_gb:g} GB allowed"
    if free < min(settings.policy.disk_gb, 0.5):
        return Finding("disk", "fault", found, "make room")
    if free <= settings.policy.disk_gb:
        return Finding("disk", "advice", found, "make room, or lower disk_gb")
    return Finding("disk", "ok", found)


def _gpu(settings: SiteSettings) -> Finding:
    wanted = settings.policy.gpu
    if wanted == "none":
        return Finding("GPU", "ok", "none is allowed in site.toml; the processor is used")
    import torch

    if torch.cuda.device_count() <= int(wanted):
        return Finding(
            "GPU", "fault", f"no GPU number {wanted}; {torch.cuda.device_count()} seen", '[policy] gpu = "none"'
        )
    return Finding("GPU", "ok", torch.cuda.get_device_name(int(wanted)))


def _flower() -> Finding:
    """The functions of Flower's that the launcher wraps are private to it and may move."""
    from flwr import __version__

    if lost := moved():
        return Finding(
            "Flower", "fault", f"{__version__} has no {', '.join(lost)}", "pip install -c constraints.txt flwr"
        )
    return Finding("Flower", "ok", f"{__version__}; bundles with code in them are refused")


def _invitation(home: SiteHome, found: list[Finding]) -> Invitation | None:
    if not home.invitation.exists():
        found.append(Finding("invitation", "advice", "none yet", "`fedrounds site join INVITATION`"))
        return None
    try:
        invitation = read_invitation(home.invitation)
    except FedroundsError as error:
        found.append(Finding("invitation", "fault", _line(error), "join again with the file that the coordinator sent"))
        return None
    enrolled = Marks(home.flwr).enrolled.exists()
    if not enrolled and datetime.now(UTC) >= invitation.expires:
        found.append(Finding("invitation", "fault", "expired before this site was enrolled", "ask for a new one"))
    else:
        key = invitation.coordinator.fingerprint
        found.append(
            Finding("invitation", "ok", f"{'enrolled' if enrolled else 'not enrolled yet'}; coordinator {key}")
        )
    return invitation


def _way(way: Way) -> Iterator[Finding]:
    yield Finding("proxy", "ok", way.used_proxy or "none")
    try:
        seen = look(way)
    except NetworkError as error:
        what = "certificate" if error.code in {"FR-C85", "FR-C86", "FR-C87"} else "coordinator"
        yield Finding(what, "fault", f"{error.code} {error.found}", error.do)
        return
    yield Finding("coordinator", "ok", f"{way.address} answers, with a certificate of the invitation's CA")
    yield _certificate(seen)
    yield _checked("clock", lambda: _clock(seen), "timedatectl set-ntp true")


def _certificate(seen: Seen) -> Finding:
    if seen.expires is None:
        return Finding("certificate", "advice", "its end cannot be told")
    days = (seen.expires - datetime.now(UTC)).days
    found = f"valid until {seen.expires:%d %b %Y}, {days} days"
    if days < SOON_DAYS:
        return Finding("certificate", "advice", found, "ask the coordinator to renew it (coordinator renew)")
    return Finding("certificate", "ok", found)


def _clock(seen: Seen) -> str:
    check_clock(seen)
    return "not told by the coordinator" if seen.ahead_s is None else f"{seen.ahead_s:+.0f} s from the coordinator's"


def _joined(home: SiteHome) -> Finding:
    number = runs(home)
    if not number:
        return Finding("joined", "advice", "no process keeps this site joined", "`fedrounds site join`, or --systemd")
    state = "connected" if is_up(home) else "trying to connect"
    return Finding("joined", "ok", f"process {number}, {state}")


def _checked(what: str, ask: Callable[[], str], do: str) -> Finding:
    try:
        return Finding(what, "ok", ask())
    except FedroundsError as error:
        return Finding(what, "fault", f"{error.code} {error.found}", error.do or do)


def _line(error: FedroundsError) -> str:
    return str(error).replace("\n", "; ")[:300]
