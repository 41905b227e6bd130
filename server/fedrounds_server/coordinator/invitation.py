"""Invitations: a signed file that a hospital is sent, with the address, the CA and a token that works once."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import final

from fedrounds_common.disk import write_private
from fedrounds_common.errors import UsageError
from fedrounds_common.signing import SigningKey, sign_json
from fedrounds_server.coordinator.folder import (
    FORMAT,
    CoordinatorFolder,
    checked_site,
    read_settings,
    read_table,
    write_table,
)
from fedrounds_server.coordinator.register import read_entry

DAYS = 14


@final
@dataclass(frozen=True)
class Open:
    """What the coordinator keeps of an invitation: never the token itself."""

    site: str
    token_sha256: str
    issued: datetime
    expires: datetime
    used: bool


def invite(
    folder: CoordinatorFolder, site: str, out: Path, study: str = "", days: float = DAYS, now: datetime | None = None
) -> Path:
    """Write `out`/SITE.invitation for one hospital; an earlier invitation of that site ends with it.

    Args:
        study: digest of the study it is for, or "".
        days: how long the token may be used.

    Raises:
        UsageError: FR-U65 the site is enrolled already; FR-U10 the file is there.
    """
    checked_site(site)
    if folder.site(site).exists() and not read_entry(folder.site(site)).revoked:
        raise UsageError(
            "FR-U65", f"{site} is enrolled already", do=f"to enrol it with new keys, first: coordinator revoke {site}"
        )
    settings, key, now = read_settings(folder), SigningKey.load(folder.signing_key), now or datetime.now(UTC)
    token, expires = secrets.token_urlsafe(32), now + timedelta(days=days)
    table = {
        "format": FORMAT,
        "kind": "invitation",
        "site": site,
        "address": settings.address,
        "ca": (folder.keys / "ca.pem").read_text(encoding="ascii"),
        "coordinator": key.public.text,
        "token": token,
        "study": study,
        "issued": now.isoformat(timespec="seconds"),
        "expires": expires.isoformat(timespec="seconds"),
    }
    file = out / f"{site}.invitation"
    try:
        write_private(file, (json.dumps(sign_json(key, table), indent=1) + "\n").encode())
    except FileExistsError as error:
        raise UsageError(
            "FR-U10", "there is a file already", do="take it away, or name another folder with --out", where=str(file)
        ) from error
    kept = {
        "site": site,
        "token_sha256": token_sum(token),
        "issued": table["issued"],
        "expires": table["expires"],
        "used": False,
    }
    write_table(folder.invitation(site), kept)
    folder.pending(site).unlink(missing_ok=True)  # a request that came with the old token
    folder.note("invited", site=site, study=study, expires=kept["expires"])
    return file


def token_sum(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def read_open(folder: CoordinatorFolder, site: str) -> Open | None:
    """What is kept of a site's invitation, or None if it never had one."""
    file = folder.invitation(site)
    if not file.exists():
        return None
    table = read_table(file)
    return Open(
        str(table["site"]), str(table["token_sha256"]), datetime.fromisoformat(table["issued"]),
        datetime.fromisoformat(table["expires"]), table["used"] is not False,
    )  # fmt: skip


def mark_used(folder: CoordinatorFolder, site: str) -> None:
    table = read_table(folder.invitation(site))
    write_table(folder.invitation(site), {**table, "used": True})
