"""What a person at this site said of a study: yes within bounds, or no. Signed with the site's key, one file a study."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from fedrounds_client.home import SiteHome, read_table
from fedrounds_client.journal import head, note
from fedrounds_client.settings import SiteSettings
from fedrounds_common.disk import write_json
from fedrounds_common.errors import FedroundsError, RefusedError, RunFileError
from fedrounds_common.signing import read_signed, sign_json
from fedrounds_common.study.canonical import digest_of_text

FORMAT = 1


@final
@dataclass(frozen=True)
class Said:
    """`text`: the study's very text, which `review` compares the next one with. `policy`: the digest of the policy
    it was said under, `coordinator`: the fingerprint of the key whose requests it is for. `rounds` counts from `when`; `until`, `when`: ISO times, in UTC. `journal`: number and sum
    of the journal's last line before it."""

    site: str
    study: str
    text: str
    allowed: bool
    rounds: int
    until: str
    who: str
    when: str
    policy: str
    coordinator: str
    journal: tuple[int, str]


def say(
    home: SiteHome, settings: SiteSettings, text: str, who: str, now: datetime,
    allowed: bool, rounds: int = 0, until: datetime | None = None,
) -> Said:  # fmt: skip
    """Sign and keep a person's answer, and enter it in the journal."""
    number, total = head(home)
    said = Said(
        settings.name, digest_of_text(text), text, allowed, rounds, _time(until or now), who, _time(now),
        settings.policy.digest, home.coordinator().fingerprint, (number, total),
    )  # fmt: skip
    table = {"format": FORMAT, "kind": "permit", **asdict(said), "journal": [number, total]}
    facts = {"study": said.study, "who": who} | ({"rounds": rounds, "until": said.until} if allowed else {})
    note(home, "permitted" if allowed else "refused", **facts)
    write_json(_file(home, said.study), sign_json(home.key, table))
    return said


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def heard(home: SiteHome, name: str, study: str) -> Said | None:
    """What was said of the study with this digest, or None: nobody said anything.

    Raises:
        RefusedError: FR-C07 the file is not as this site's key signed it.
    """
    file = _file(home, study)
    if not file.exists():
        return None
    said = _read(home, file)
    if (said.site, said.study, digest_of_text(said.text)) != (name, study, study):
        raise _tampered(file)
    return said


def last_allowed(home: SiteHome, name: str) -> Said | None:
    """The newest yes that is whole: what a study that asks is compared with."""
    found = [said for file in home.permits.glob("*.json") if (said := _whole(home, name, file)) and said.allowed]
    return max(found, key=lambda said: datetime.fromisoformat(said.when), default=None)


def verify_permits(home: SiteHome, lines: tuple[dict[str, Any], ...]) -> int:
    """Check each permit's signature, and that the journal still holds the line it names; returns how many there are.

    Raises:
        RunFileError: FR-F40 the journal was rewritten after a permit was signed. RefusedError: FR-C07.
    """
    sums = {0: "0" * 64} | {line["n"]: line["sum"] for line in lines}
    files = sorted(home.permits.glob("*.json"))
    for file in files:
        number, total = _read(home, file).journal
        if sums.get(number) != total:
            raise RunFileError(
                "FR-F40", f"line {number} is not the one that permit {file.stem[:12]} was signed after",
                wanted="the journal as it was then", do="keep both files, and find out who could write them",
                where=home.journal.name,
            )  # fmt: skip
    return len(files)


def _whole(home: SiteHome, name: str, file: Path) -> Said | None:
    try:
        return heard(home, name, file.stem)
    except RefusedError:
        return None


def _read(home: SiteHome, file: Path) -> Said:
    table = read_table(file)
    try:
        signed = read_signed(table or {}, home.key.public)
        if (signed.pop("format"), signed.pop("kind")) != (FORMAT, "permit"):
            raise ValueError("another kind of file")
        number, total = signed.pop("journal")
        return Said(**signed, journal=(int(number), str(total)))
    except (FedroundsError, KeyError, TypeError, ValueError) as error:
        raise _tampered(file) from error


def _tampered(file: Path) -> RefusedError:
    return RefusedError(
        "FR-C07", f"permit {file.stem[:12]} is not as it was signed", wanted="this site's own signature",
        do="find out who changed it; then review the study again",
    )  # fmt: skip


def _file(home: SiteHome, study: str) -> Path:
    return home.permits / f"{study}.json"
