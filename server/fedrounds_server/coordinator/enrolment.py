"""Enrolment: a site's keys come through the front, wait, and are let in after two people compared fingerprints.

receive   the front hands over what somebody posted to /v1/enrol; nothing is believed but a valid token
enrol     the operator, with the fingerprint that the hospital reads out; only here a key is let in
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedrounds_common.disk import locked
from fedrounds_common.errors import FedroundsError, NetworkError, RefusedError, UsageError
from fedrounds_common.leaving import MAX_CASES
from fedrounds_common.signing import SIGNATURE, PublicKey, read_signed
from fedrounds_server.coordinator.flower import Flower
from fedrounds_server.coordinator.folder import (
    FORMAT,
    SITE,
    CoordinatorFolder,
    checked_site,
    read_table,
    write_table,
)
from fedrounds_server.coordinator.invitation import mark_used, read_open, token_sum
from fedrounds_server.coordinator.register import Enrolled, node_ids, read_entry, write_entry

MAX_BYTES = 16 * 1024
MAX_PENDING = 1000
HTTP = {"FR-C60": 413, "FR-C61": 400, "FR-C62": 400, "FR-C65": 409, "FR-C67": 503}  # any other: 403
PACKAGES = ("flwr", "torch", "numpy")
SAME = "fedrounds"  # messages of another version may mean something else; of the others only the last bits differ
_FIELDS = {"format", "kind", "site", "token", "signing_key", "node_key", "cases", "versions", "made"}


@final
@dataclass(frozen=True)
class Request:
    """An enrolment request that is signed with the key it brings. `table`: as it came, with its signature."""

    site: str
    token: str
    key: PublicKey
    node_key: str
    cases: int
    versions: Mapping[str, str]
    table: Mapping[str, Any]


def receive(coordinator: Path, body: bytes, now: datetime | None = None) -> tuple[int, dict[str, Any]]:
    """Answer what was posted to /v1/enrol: HTTP status and JSON. Raises nothing that a request can bring about.

    202 {"state": "pending"} it waits for the operator; 200 {"state": "enrolled"}; else {"code": "FR-…"}.
    """
    folder = CoordinatorFolder(coordinator)
    try:
        if len(body) > MAX_BYTES:
            raise RefusedError("FR-C60", f"{len(body)} bytes", wanted=f"at most {MAX_BYTES}")
        request = read_request(body)
        with locked(folder.state / "enrolment"):
            return _answer(folder, request, now or datetime.now(UTC))
    except (RefusedError, NetworkError) as error:
        return HTTP.get(error.code, 403), {"code": error.code}


def _answer(folder: CoordinatorFolder, request: Request, now: datetime) -> tuple[int, dict[str, Any]]:
    enrolled = _entry(folder, request.site)
    if enrolled is not None and not enrolled.revoked and _same_keys(enrolled, request):
        return 200, {"state": "enrolled"}
    _check_token(folder, request, enrolled, now)
    if request.versions.get(SAME) != version(SAME):
        # whose token holds may know what would be taken
        return 403, {"code": "FR-C76", SAME: version(SAME)}
    file = folder.pending(request.site)
    waiting = read_request(json.dumps(read_table(file)["request"]).encode()) if file.exists() else None
    if waiting is not None and (waiting.key, waiting.node_key) != (request.key, request.node_key):
        raise RefusedError("FR-C65", f"the invitation of {request.site} is used", wanted="the keys it was used with")
    if waiting is None or waiting.table != request.table:
        if len(list(file.parent.glob("*.json"))) >= MAX_PENDING and not file.exists():
            raise RefusedError("FR-C67", f"{MAX_PENDING} requests wait", do="enrol or remove some")
        write_table(file, {"request": dict(request.table), "came": now.isoformat(timespec="seconds")})
        folder.note("asked", site=request.site, fingerprint=request.key.fingerprint, cases=request.cases)
    return 202, {"state": "pending"}


def _check_token(folder: CoordinatorFolder, request: Request, enrolled: Enrolled | None, now: datetime) -> None:
    """The token first: who has none learns nothing of which sites there are."""
    invitation = read_open(folder, request.site)
    good = invitation is not None and hmac.compare_digest(invitation.token_sha256, token_sum(request.token))
    if invitation is None or not good:
        raise RefusedError("FR-C63", "no invitation with that token", do="ask the coordinator for an invitation")
    if enrolled is not None and not enrolled.revoked:
        raise RefusedError("FR-C65", f"{request.site} is enrolled with other keys", do="it must be revoked first")
    if enrolled is not None and (request.key.text in enrolled.earlier or request.key == enrolled.key):
        raise RefusedError("FR-C66", f"a revoked key of {request.site}", wanted="new keys and a new invitation")
    if invitation.used:
        raise RefusedError("FR-C65", f"the invitation of {request.site} is used", do="ask for a new one")
    if now >= invitation.expires:
        raise RefusedError("FR-C64", f"it expired on {invitation.expires:%Y-%m-%d}", do="ask for a new one")


def read_request(body: bytes) -> Request:
    """A request, signed with the very key it brings.

    Raises:
        RefusedError: FR-C61 it is no enrolment request; FR-C62 its signature is not of its key.
    """
    try:
        table = json.loads(body)
        if not isinstance(table, dict) or set(table) != {*_FIELDS, SIGNATURE}:
            raise ValueError("other fields than a request has")
        key = PublicKey.of_text(table["signing_key"])
        said = read_signed(table, key)
        return _checked(said, key, table)
    except NetworkError as error:
        signed = error.code == "FR-C90"
        raise RefusedError(
            "FR-C62" if signed else "FR-C61", error.found, do="run `fedrounds site join` again"
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError, UnsupportedAlgorithm) as error:
        raise RefusedError("FR-C61", f"no enrolment request ({error})"[:200]) from error


def _checked(said: Mapping[str, Any], key: PublicKey, table: Mapping[str, Any]) -> Request:
    site, token, cases, node_key, versions = (said[name] for name in ("site", "token", "cases", "node_key", "versions"))
    if said["format"] != FORMAT or said["kind"] != "enrolment" or not SITE.fullmatch(site):
        raise ValueError("another kind or format, or no site's name")
    if type(token) is not str or type(said["made"]) is not str or type(cases) is not int or not 0 <= cases <= MAX_CASES:
        raise ValueError("a value of another type")
    if not isinstance(versions, dict) or not all(type(value) is str for value in versions.values()):
        raise ValueError("versions that are no texts")
    public = load_pem_public_key(node_key.encode())
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp384r1":
        raise ValueError("node_key is not of EC P-384")
    return Request(site, token, key, node_key, cases, versions, dict(table))


def waiting_request(folder: CoordinatorFolder, site: str, patience_s: float = 0.0) -> Request:
    """The request of a site that waits, or that comes within `patience_s` seconds.

    Raises:
        UsageError: FR-U66 there is none.
    """
    file = folder.pending(checked_site(site))
    end = time.monotonic() + patience_s
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.2)
    if not file.exists():
        waiting = ", ".join(sorted(found.stem for found in file.parent.glob("*.json"))) or "none"
        raise UsageError(
            "FR-U66", f"no request of {site} has come; waiting: {waiting}", wanted="`fedrounds site join` at the site",
            do="or hand over the request as a file",
        )  # fmt: skip
    return read_request(json.dumps(read_table(file)["request"]).encode())


def carried_request(folder: CoordinatorFolder, file: Path, now: datetime | None = None) -> Request:
    """A request carried by hand: held against its invitation as one that came through the front.

    Raises:
        RefusedError: as `receive` would have refused it. UsageError: FR-U66 the file cannot be read.
    """
    try:
        body = file.read_bytes()
    except OSError as error:
        raise UsageError("FR-U66", f"{file} cannot be read: {error.strerror}", wanted="a request file") from error
    status, answer = receive(folder.path, body, now)
    request = read_request(body)
    if answer.get("code") == "FR-C76":
        check_version(request)
    if "code" in answer:
        raise RefusedError(
            str(answer["code"]), f"the request of {request.site} is refused ({status})",
            do=f"`fedrounds explain {answer['code']}`", where=str(file),
        )  # fmt: skip
    return request


def check_version(request: Request) -> None:
    """Raises RefusedError FR-C76: the site runs another fedrounds, and its first hello would be refused."""
    theirs, ours = request.versions.get(SAME, "unknown"), version(SAME)
    if theirs != ours:
        raise RefusedError(
            "FR-C76", f"{request.site} runs fedrounds {theirs}", wanted=f"fedrounds {ours}, as here",
            do="install the same on both sides, then `fedrounds site join` there again",
        )  # fmt: skip


def unlike_versions(request: Request) -> tuple[str, ...]:
    """What else is another version there than here: results may differ in their last bits."""
    said = ((name, theirs, version(name)) for name, theirs in sorted(request.versions.items()) if name in PACKAGES)
    return tuple(f"{name} {theirs} (here {ours})" for name, theirs, ours in said if theirs != ours)


def enrol(folder: CoordinatorFolder, request: Request, fingerprint: str, flower: Flower) -> Enrolled:
    """Let a site in whose fingerprint was read out by its own staff.

    Raises:
        RefusedError: FR-U67 the fingerprint is another, FR-C76 the version is; nothing was changed.
        NetworkError: FR-C72, FR-C75 Flower's SuperLink did not take the key.
    """
    check_fingerprint(request, fingerprint)
    check_version(request)
    with locked(folder.state / "enrolment"):
        before = _entry(folder, request.site)
        if before is not None and not before.revoked:
            if _same_keys(before, request):
                return before
            raise RefusedError("FR-C65", f"{request.site} is enrolled with other keys", do="it must be revoked first")
        node_id = flower.register_node(request.site, request.node_key, node_ids(folder))
        earlier = () if before is None else (*before.earlier, before.key.text)
        entry = Enrolled(
            request.site, request.key, request.cases, node_id, False, request.node_key,
            datetime.now(UTC).isoformat(timespec="seconds"), earlier,
        )  # fmt: skip
        write_entry(folder, entry)
        mark_used(folder, request.site)
        folder.pending(request.site).unlink(missing_ok=True)
    folder.note(
        "enrolled", site=entry.site, fingerprint=entry.key.fingerprint, cases=entry.cases, node=node_id,
        versions=dict(request.versions),
    )  # fmt: skip
    return entry


def check_fingerprint(request: Request, fingerprint: str) -> None:
    def plain(text: str) -> str:
        return "".join(text.lower().replace("-", " ").split())

    if not hmac.compare_digest(plain(request.key.fingerprint).encode(), plain(fingerprint).encode()):
        raise RefusedError(
            "FR-U67", f"the fingerprint given is not that of {request.site}", wanted=request.key.fingerprint,
            do="have the hospital read it out again; if it still differs, somebody else sent the request: revoke the "
            "invitation with a new one",
        )  # fmt: skip


def revoke(folder: CoordinatorFolder, entry: Enrolled, flower: Flower) -> tuple[Enrolled, str]:
    """Believe nothing of a site from now on; returns its entry and what Flower said against it, if anything.

    Ours first: every answer is held against the register, which is read anew for each. Flower's own list is
    only the door, and `start` closes it later where Flower cannot be reached now.
    """
    with locked(folder.state / "enrolment"):
        gone = replace(entry, revoked=True)
        write_entry(folder, gone)
    folder.note("revoked", site=entry.site, fingerprint=entry.key.fingerprint)
    try:
        if entry.node_id is not None:
            flower.unregister_node(entry.node_id)
            write_entry(folder, replace(gone, node_id=None))
    except FedroundsError as error:
        return gone, str(error)
    return replace(gone, node_id=None), ""


def _entry(folder: CoordinatorFolder, site: str) -> Enrolled | None:
    return read_entry(folder.site(site)) if folder.site(site).exists() else None


def _same_keys(entry: Enrolled, request: Request) -> bool:
    return entry.key == request.key and entry.node_key.strip() == request.node_key.strip()
