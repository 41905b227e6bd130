"""What a coordinator's folder and Flower's lists say together: runs, rounds, sites, certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, final

from fedrounds_common.chain import verify
from fedrounds_common.errors import NetworkError
from fedrounds_common.signing import SigningKey
from fedrounds_server import history
from fedrounds_server.coordinator.enrolment import waiting_request
from fedrounds_server.coordinator.flower import Flower, FlowerRun, Node
from fedrounds_server.coordinator.folder import CoordinatorFolder, read_settings, read_table
from fedrounds_server.coordinator.invitation import read_open
from fedrounds_server.coordinator.pki import expiries, warnings
from fedrounds_server.coordinator.register import Enrolled, read_register
from fedrounds_server.coordinator.submit import cut_off
from fedrounds_server.coordinator.supervisor import supervisor_pid
from fedrounds_server.folder import RunFolder, read_json


@final
@dataclass(frozen=True)
class SiteState:
    """`state`: invited, invitation expired, asks to be enrolled, enrolled, online, offline, not at Flower, revoked."""

    site: str
    state: str
    fingerprint: str
    cases: int | None
    last_seen: str


@final
@dataclass(frozen=True)
class RunState:
    """`sites`: their state in the last round. `waits_for`: who is not there yet and why, until `waits_until` (ISO, UTC)."""

    name: str
    state: str
    exit: int | None
    round: int
    sites: Mapping[str, str]
    waits_for: Mapping[str, str]
    waits_until: str


@final
@dataclass(frozen=True)
class Status:
    name: str
    address: str
    fingerprint: str
    up: bool
    note: str
    sites: tuple[SiteState, ...]
    runs: tuple[RunState, ...]
    certificates: Mapping[str, str]
    warnings: tuple[str, ...]
    journal: tuple[int, str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def status_of(folder: CoordinatorFolder, now: datetime | None = None) -> Status:
    """Everything there is to tell; what Flower does not answer is left out and said."""
    settings, now = read_settings(folder), now or datetime.now(UTC)
    ends = expiries(folder.keys)
    up, note = supervisor_pid(folder) is not None, ""
    nodes: Mapping[int, Node] = {}
    runs: Mapping[int, FlowerRun] | None = None
    if up:
        flower = Flower(folder, settings.superlink_port)
        try:
            nodes = {node.node_id: node for node in flower.nodes()}
            runs = {run.run_id: run for run in flower.runs()}
        except NetworkError as error:
            note = str(error)
    return Status(
        settings.name, settings.address, SigningKey.load(folder.signing_key).public.fingerprint, up, note,
        _sites(folder, nodes, runs is not None, now), _runs(folder, runs),
        {end.what: end.until.isoformat(timespec="seconds") for end in ends}, warnings(ends, now),
        verify(folder.journal),
    )  # fmt: skip


def _sites(folder: CoordinatorFolder, nodes: Mapping[int, Node], asked: bool, now: datetime) -> tuple[SiteState, ...]:
    register = read_register(folder.path)
    found = [_enrolled(entry, nodes, asked) for entry in register.values() if not _asks_again(folder, entry)]
    invited = {file.stem for file in (folder.path / "invitations").glob("*.json")}
    for site in invited - {state.site for state in found}:
        invitation, waiting = read_open(folder, site), folder.pending(site)
        if waiting.exists():
            request = waiting_request(folder, site)
            came = str(read_table(waiting).get("came", ""))
            found.append(SiteState(site, "asks to be enrolled", request.key.fingerprint, request.cases, came))
        elif invitation is not None:
            state = "invited" if now < invitation.expires else "invitation expired"
            found.append(SiteState(site, state, "", None, ""))
    return tuple(sorted(found, key=lambda state: state.site))


def _asks_again(folder: CoordinatorFolder, entry: Enrolled) -> bool:
    """A revoked site with a new invitation is shown as the invited one it is again."""
    invitation = read_open(folder, entry.site)
    return entry.revoked and invitation is not None and not invitation.used


def _enrolled(entry: Enrolled, nodes: Mapping[int, Node], asked: bool) -> SiteState:
    node = nodes.get(entry.node_id) if entry.node_id is not None else None
    if entry.revoked:
        state = "revoked"
    elif node is None:
        state = "not at Flower" if asked else "enrolled"
    else:
        state = "enrolled" if node.status == "registered" else node.status
    seen = "" if node is None else ("now" if node.status == "online" else node.offline_at or node.online_at)
    return SiteState(entry.site, state, entry.key.fingerprint, entry.cases, seen)


def _runs(folder: CoordinatorFolder, known: Mapping[int, FlowerRun] | None) -> tuple[RunState, ...]:
    found = []
    ended = cut_off(folder, tuple(known.values())) if known is not None else ()
    for path in sorted(folder.runs.glob("[0-9]*")):
        if not RunFolder(path).status.is_file():
            continue
        status = read_json(RunFolder(path).status)
        lines = history.read(RunFolder(path).history)
        state = str(status.get("state"))
        if path.name in ended:
            state = "interrupted"  # whoever would have written the end of it was killed
        sites = {line.site: line.state for line in lines[-1].sites} if lines else {}
        waiting = status.get("waiting", {}) if state == "running" else {}
        found.append(
            RunState(
                path.name, state, status.get("exit"), lines[-1].round if lines else 0, sites,
                dict(waiting.get("for", {})), str(waiting.get("until", "")),
            )
        )  # fmt: skip
    return tuple(found)
