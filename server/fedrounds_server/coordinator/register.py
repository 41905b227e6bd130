"""The register of enrolled sites: a site is its name and its key, never Flower's node id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from fedrounds_common.errors import RunFileError, UsageError
from fedrounds_common.signing import PublicKey
from fedrounds_server.coordinator.folder import CoordinatorFolder, read_table, write_table


@final
@dataclass(frozen=True)
class Enrolled:
    """`cases`: the most it may say it trained on; `node_id`: Flower's, or None where Flower does not know it."""

    site: str
    key: PublicKey
    cases: int
    node_id: int | None
    revoked: bool
    node_key: str = ""  # PEM
    since: str = ""
    earlier: tuple[str, ...] = ()  # keys of this site that were revoked


def read_register(folder: Path) -> Mapping[str, Enrolled]:
    """Every site that was enrolled, by name, in their order; revoked ones say so. Read anew each time.

    Raises:
        RunFileError: FR-F02 an entry is damaged. A register with a hole in it is not used.
    """
    return {file.stem: read_entry(file) for file in sorted((folder / "sites").glob("*.json"))}


def read_entry(file: Path) -> Enrolled:
    table = read_table(file)
    try:
        site, cases, node_id = table["site"], table["cases"], table["node_id"]
        if site != file.stem or type(cases) is not int or type(node_id) not in (int, type(None)):
            raise ValueError("the entry of another site, or cases that are no number")
        return Enrolled(
            site, PublicKey.of_text(table["signing_key"]), cases, node_id, table["revoked"] is not False,
            str(table["node_key"]), str(table["since"]), tuple(table.get("earlier", ())),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise RunFileError("FR-F02", f"sites/{file.name} cannot be read: {error}", do="restore it") from error


def write_entry(folder: CoordinatorFolder, entry: Enrolled) -> None:
    table: dict[str, Any] = {
        "site": entry.site,
        "signing_key": entry.key.text,
        "fingerprint": entry.key.fingerprint,
        "node_key": entry.node_key,
        "cases": entry.cases,
        "node_id": entry.node_id,
        "since": entry.since or datetime.now(UTC).isoformat(timespec="seconds"),
        "revoked": entry.revoked,
        "earlier": list(entry.earlier),
    }
    write_table(folder.site(entry.site), table)


def entry_of(folder: CoordinatorFolder, site: str) -> Enrolled:
    """Raises UsageError FR-U70: no such site is enrolled."""
    register = read_register(folder.path)
    if site not in register:
        known = ", ".join(register) or "none"
        raise UsageError("FR-U70", f"{site!r} is not enrolled", wanted=f"one of the enrolled sites: {known}")
    return register[site]


def node_ids(folder: CoordinatorFolder) -> frozenset[int]:
    """Flower's ids of all enrolled sites."""
    return frozenset(entry.node_id for entry in read_register(folder.path).values() if entry.node_id is not None)
