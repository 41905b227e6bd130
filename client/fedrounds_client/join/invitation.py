"""The invitation: a file that the coordinator signed, with its address, its CA and a token that works once.

The signature shows that nothing was changed since it was made. Who made it, two people settle by reading
the fingerprint to each other: a file alone proves nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from cryptography import x509

from fedrounds_client.home import SiteHome, read_table
from fedrounds_common.disk import write_private
from fedrounds_common.errors import NetworkError, UsageError
from fedrounds_common.signing import PublicKey, read_signed

FORMAT = 1
LARGEST = 64 * 1024  # bytes
SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253}):\d{1,5}")
_FIELDS = {"format", "kind", "site", "address", "ca", "coordinator", "token", "study", "issued", "expires"}


@final
@dataclass(frozen=True)
class Invitation:
    """`table`: as it came, with its signature. `ca`: PEM. `study`: a digest, or ""."""

    site: str
    address: str
    ca: str
    coordinator: PublicKey
    token: str
    study: str
    expires: datetime
    table: Mapping[str, Any]


def read_invitation(file: Path) -> Invitation:
    """Read an invitation and check its own signature.

    Raises:
        UsageError: FR-C80 there is no such file, or it is no invitation.
        NetworkError: FR-C90 it was changed since it was signed.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(LARGEST + 1)
    except OSError as error:
        raise _unreadable(file, error.strerror or "it cannot be read") from error
    if len(text) > LARGEST:
        raise _unreadable(file, f"more than {LARGEST} bytes")
    try:
        table = json.loads(text)
        key = PublicKey.of_text(table["coordinator"])
    except (ValueError, KeyError, TypeError, RecursionError, NetworkError) as error:
        raise _unreadable(file, f"no invitation ({type(error).__name__})") from error
    return _checked(read_signed(table, key), table, key, file)


def _checked(said: Mapping[str, Any], table: Mapping[str, Any], key: PublicKey, file: Path) -> Invitation:
    if said.get("kind") != "invitation" or said.get("format") != FORMAT:
        raise _unreadable(file, f"{str(said.get('kind'))[:40]!r} of format {str(said.get('format'))[:10]}")
    texts = {name: said.get(name) for name in _FIELDS - {"format"}}
    if set(said) != _FIELDS or not all(isinstance(value, str) for value in texts.values()):
        raise _unreadable(file, "other fields than an invitation has")
    try:
        expires = datetime.fromisoformat(said["expires"]).astimezone(UTC)
        x509.load_pem_x509_certificate(said["ca"].encode("ascii"))
    except ValueError as error:
        raise _unreadable(file, "a date or a CA that cannot be read") from error
    if not SITE.fullmatch(said["site"]) or not ADDRESS.fullmatch(said["address"]):
        raise _unreadable(file, "a site or an address that is none")
    return Invitation(
        said["site"], said["address"], said["ca"], key, said["token"], said["study"], expires, dict(table)
    )


def _unreadable(file: Path, found: str) -> UsageError:
    return UsageError(
        "FR-C80", found, wanted="the invitation that the coordinator sent", do="have it sent again", where=file.name
    )


def check_fits(invitation: Invitation, name: str, home: SiteHome) -> None:
    """Raise NetworkError FR-C82 unless it is for this site, and from the coordinator that was joined before."""
    if invitation.site != name:
        raise NetworkError(
            "FR-C82", f"an invitation for {invitation.site}; this site is {name}", wanted=f"one for {name}",
            do="ask the coordinator for one with that name, or join from another folder (--site)",
        )  # fmt: skip
    before = read_table(home.invitation)
    if before is not None and before.get("coordinator") != invitation.coordinator.text:
        raise NetworkError(
            "FR-C82", "an invitation of another coordinator than the one that was joined here",
            wanted=PublicKey.of_text(str(before.get("coordinator"))).fingerprint,
            do="a second federation wants a folder of its own (--site)",
        )  # fmt: skip


def check_not_expired(invitation: Invitation, now: datetime) -> None:
    """Raise NetworkError FR-C81: the token no longer works. A site that is enrolled needs none."""
    if now >= invitation.expires:
        raise NetworkError(
            "FR-C81", f"the invitation expired on {invitation.expires:%d %b %Y %H:%M} UTC; it is {now:%d %b %Y %H:%M} here",
            do="ask the coordinator for a new one, and see that this machine's clock is right",
        )  # fmt: skip


def keep(invitation: Invitation, home: SiteHome) -> None:
    """Put it into the site's folder, for its owner alone: the token in it is a secret until it is used."""
    if read_table(home.invitation) == dict(invitation.table):
        return
    part = home.invitation.with_name(".invitation.part")
    part.unlink(missing_ok=True)
    write_private(part, (json.dumps(dict(invitation.table), indent=1) + "\n").encode())
    part.replace(home.invitation)  # a crash leaves the one before
