"""A site's folder: where its settings, keys, permits, journal and runs lie. It belongs to one account and nobody else.

site.toml · invitation.json · keys/ · waiting/DIGEST.json · permits/DIGEST.json · paused · left · withdrawn.csv, .json
lineage.jsonl · journal.jsonl · budget.jsonl · outbox.jsonl · caches.jsonl · log · runs/RUN/{cases.json,splits.json,state,held,cache,scores,pictures,log}
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from fedrounds_client.settings import SiteSettings, read_settings
from fedrounds_common.disk import write_private
from fedrounds_common.errors import UsageError
from fedrounds_common.signing import PublicKey, SigningKey, read_signed

OTHERS = 0o077  # bits that a file or folder of a site never has


@final
@dataclass(frozen=True)
class SiteHome:
    """Paths below `folder`, and what is read from them; nothing is made by looking."""

    folder: Path

    @property
    def site_toml(self) -> Path:
        return self.folder / "site.toml"

    @property
    def invitation(self) -> Path:
        return self.folder / "invitation.json"

    @property
    def signing_key(self) -> Path:
        return self.folder / "keys" / "signing.key"

    @property
    def node_key(self) -> Path:
        return self.folder / "keys" / "node.key"

    @property
    def lineage_key(self) -> Path:
        return self.folder / "keys" / "lineage.key"

    @property
    def waiting(self) -> Path:
        return self.folder / "waiting"

    @property
    def permits(self) -> Path:
        return self.folder / "permits"

    @property
    def paused(self) -> Path:
        return self.folder / "paused"

    @property
    def left(self) -> Path:
        return self.folder / "left"

    @property
    def withdrawn(self) -> Path:
        return self.folder / "withdrawn.csv"

    @property
    def lineage(self) -> Path:
        return self.folder / "lineage.jsonl"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def budget(self) -> Path:
        return self.folder / "budget.jsonl"

    @property
    def outbox(self) -> Path:
        return self.folder / "outbox.jsonl"

    @property
    def caches(self) -> Path:
        return self.folder / "caches.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def flwr(self) -> Path:
        return self.folder / "flwr"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def locks(self) -> Path:
        return self.folder / "locks"

    @property
    def tries(self) -> Path:
        return self.folder / "tries"

    def read_settings(self) -> SiteSettings:
        """Read anew each time: what a person changes holds from the next message on. Raises as `settings`."""
        return read_settings(self.site_toml)

    @cached_property
    def key(self) -> SigningKey:
        """The site's own key. Raises NetworkError: it is not there, or others may read it."""
        return SigningKey.load(self.signing_key)

    def read_invitation(self) -> dict[str, Any]:
        """The invitation this site accepted, its signature checked against the key it names.

        That key is the coordinator's because two people compared its fingerprint when the site joined.

        Raises:
            UsageError: there is none, or it cannot be read. NetworkError: it was changed since it was signed.
        """
        try:
            table = json.loads(self.invitation.read_text(encoding="utf-8"))
            key = PublicKey.of_text(table["coordinator"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                "FR-C25", f"no invitation can be read ({type(error).__name__})", wanted="the one this site joined with",
                do="`fedrounds site join INVITATION`", where=str(self.invitation),
            ) from error  # fmt: skip
        return read_signed(table, key)

    def has_left(self) -> bool:
        """Whether a person here left the federation of the invitation that lies here; a new one may begin another."""
        if not self.left.exists():
            return False
        of = self.left.read_text(encoding="utf-8").strip()
        return not of or of == self.mark_of_invitation()

    def mark_of_invitation(self) -> str:
        """The invitation's signature, which no other invitation has; "" where there is none."""
        return str((read_table(self.invitation) or {}).get("signature", ""))

    def coordinator(self) -> PublicKey:
        """Whose requests this site listens to. Raises as `read_invitation`."""
        return PublicKey.of_text(str(self.read_invitation()["coordinator"]))


def create_home(folder: Path, site_toml: str) -> SiteHome:
    """Make a site's folder with its settings and its signing key; it belongs to this account alone.

    Raises:
        UsageError: a site is there already: its key and its journal are not written over.
    """
    home = SiteHome(folder.resolve())
    if home.site_toml.exists() or home.signing_key.exists():
        raise UsageError(
            "FR-C28", "a site is here already", wanted="an empty or a new folder",
            do="change its site.toml by hand; a new site wants a folder of its own", where=str(home.folder),
        )  # fmt: skip
    home.folder.mkdir(parents=True, exist_ok=True)
    home.folder.chmod(0o700)
    for place in (home.signing_key.parent, home.waiting, home.permits, home.runs):
        place.mkdir(mode=0o700, exist_ok=True)
    SigningKey.create().save(home.signing_key)
    write_private(home.lineage_key, os.urandom(32))
    write_private(home.withdrawn, b"patient\n")
    write_private(home.site_toml, site_toml.encode())
    return home


def read_table(file: Path) -> dict[str, Any] | None:
    """A JSON object of this folder, or None where there is none that can be read."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None
