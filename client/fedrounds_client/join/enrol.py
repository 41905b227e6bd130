"""Enrolment: the site's keys go to the coordinator, and wait there until two people have compared a fingerprint."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fedrounds_client.home import SiteHome, read_table
from fedrounds_client.join.invitation import Invitation
from fedrounds_client.join.node import read_node_key
from fedrounds_client.join.reach import Way, named
from fedrounds_common.chain import append
from fedrounds_common.disk import write_private
from fedrounds_common.errors import CODE, NetworkError, RefusedError
from fedrounds_common.signing import SigningKey, sign_json

FORMAT = 1
PACKAGES = ("fedrounds", "flwr", "torch", "numpy")
FIRST_S, LONGEST_S = 2.0, 60.0  # between two questions
BUSY = {408, 425, 429, 500, 502, 503, 504}
LARGEST = 16 * 1024
VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,31}")
Say = Callable[[str], None]


def make_keys(home: SiteHome) -> SigningKey:
    """The site's two keys, made if they are not there: Ed25519 for what it says, EC P-384 for Flower's door."""
    home.signing_key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not home.signing_key.exists():
        SigningKey.create().save(home.signing_key)
    if not home.node_key.exists():
        made = ec.generate_private_key(ec.SECP384R1())
        # OpenSSH's form, because Flower's own command reads no other
        write_private(home.node_key, made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return SigningKey.load(home.signing_key)


def request_of(home: SiteHome, invitation: Invitation, key: SigningKey, cases: int) -> dict[str, Any]:
    """The signed request; the same one each time it is asked for again."""
    file = home.folder / "enrolment.json"
    before = read_table(file)
    node = read_node_key(home.node_key).public_key()
    table = {
        "format": FORMAT,
        "kind": "enrolment",
        "site": invitation.site,
        "token": invitation.token,
        "signing_key": key.public.text,
        "node_key": node.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "cases": cases,
        "versions": {name: version(name) for name in PACKAGES},
    }
    if before is not None and {name: before.get(name) for name in table} == table:
        return before
    made = sign_json(key, {**table, "made": datetime.now(UTC).isoformat(timespec="seconds")})
    file.unlink(missing_ok=True)
    write_private(file, json.dumps(made, indent=1).encode() + b"\n")
    return made


def ask(way: Way, request: dict[str, Any]) -> bool:
    """Hand the request in once; True when this site is enrolled, False while it waits.

    Raises:
        RefusedError: with the coordinator's own code: asking again will not help.
        NetworkError: FR-C84 to FR-C88, see `reach`.
    """
    with named(way), way.client() as client:
        answer = client.post(f"{way.url}/v1/enrol", content=json.dumps(request).encode())
    state, code, theirs = _said(answer)
    if answer.status_code in BUSY:
        raise NetworkError("FR-C84", f"{way.address} answered {answer.status_code}", do="it is tried again")
    if code == "FR-C76":
        raise RefusedError(
            code, f"this site runs fedrounds {version('fedrounds')}, the coordinator {theirs or 'another'}",
            do="install the same version, then `fedrounds site join` again",
        )  # fmt: skip
    if answer.status_code not in (200, 202) or state not in ("pending", "enrolled"):
        raise RefusedError(
            code or "FR-E44", f"the coordinator refuses the enrolment (status {answer.status_code})",
            do=f"`fedrounds explain {code}`, or ask the coordinator" if code else "ask whether that is its address",
        )  # fmt: skip
    return state == "enrolled"


def _said(answer: httpx.Response) -> tuple[str, str, str]:
    """State, code and the coordinator's version in an answer; empty what is not as it must be."""
    try:
        table = json.loads(answer.content[:LARGEST])
        state, code, theirs = (str(table.get(name, "")) for name in ("state", "code", "fedrounds"))
    except (ValueError, AttributeError, RecursionError):
        return "", "", ""
    return state, code if CODE.fullmatch(code) else "", theirs if VERSION.fullmatch(theirs) else ""


def wait_until_enrolled(home: SiteHome, way: Way, request: dict[str, Any], say: Say, stop: threading.Event) -> None:
    """Ask until the coordinator has let this site in, or `stop` is set; what is in the way is said once each time it changes.

    Raises:
        RefusedError, NetworkError: as `ask`, where waiting cannot help.
    """
    said, pause = "", FIRST_S
    while not stop.is_set():
        try:
            if ask(way, request):
                append(home.journal, "enrolled", {"coordinator": way.address})
                return
            now = "waiting to be enrolled: read your fingerprint to the coordinator by telephone"
        except NetworkError as error:
            if error.code != "FR-C84":
                raise
            now = str(error)
        if now != said:
            say(now)
            said = now
        stop.wait(pause)
        pause = min(pause * 1.5, LONGEST_S if now.startswith("FR-") else 10.0)
