"""An invitation is believed only unchanged, in time, for this site, and from the coordinator joined before."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fedrounds_client.home import SiteHome
from fedrounds_client.join.invitation import read_invitation
from fedrounds_client.join.supernode import accept
from fedrounds_common.errors import FedroundsError, NetworkError, UsageError
from fedrounds_common.signing import SigningKey

Make = Callable[..., Path]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def code(home: SiteHome, file: Path, now: datetime = NOW) -> str:
    with pytest.raises(FedroundsError) as raised:
        accept(home, file, now)
    return raised.value.code


def test_an_invitation_that_fits_is_kept_and_both_keys_are_made(home: SiteHome, invitation_of: Make) -> None:
    invitation = accept(home, invitation_of(), NOW)
    assert invitation.address == "127.0.0.1:8443"
    assert home.coordinator() == invitation.coordinator
    for secret in (home.invitation, home.node_key, home.signing_key):
        assert secret.stat().st_mode & 0o777 == 0o600
    assert home.node_key.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")


def test_joining_again_changes_no_key(home: SiteHome, invitation_of: Make) -> None:
    accept(home, invitation_of(), NOW)
    before = home.node_key.read_bytes(), home.signing_key.read_bytes()
    accept(home, invitation_of(address="127.0.0.1:9443"), NOW)
    assert (home.node_key.read_bytes(), home.signing_key.read_bytes()) == before
    assert read_invitation(home.invitation).address == "127.0.0.1:9443"


@pytest.mark.parametrize("field", ["site", "address", "ca", "coordinator", "token", "study", "expires"])
def test_no_field_can_be_changed_after_signing(home: SiteHome, invitation_of: Make, field: str) -> None:
    file = invitation_of()
    table = json.loads(file.read_text())
    table[field] = SigningKey.create().public.text if field == "coordinator" else table[field] + " "
    file.write_text(json.dumps(table))
    assert code(home, file) == "FR-C90"
    assert not home.invitation.exists()


def test_an_expired_one_is_refused_with_both_times(home: SiteHome, invitation_of: Make) -> None:
    file = invitation_of(expires="2026-11-20T12:00:00+00:00")
    with pytest.raises(NetworkError, match=r"FR-C81 the invitation expired on 20 Nov 2026 12:00 UTC; it is 20 Nov"):
        accept(home, file, NOW)
    accept(home, file, replace_minutes(NOW, -1))


def replace_minutes(when: datetime, minutes: int) -> datetime:
    return datetime.fromtimestamp(when.timestamp() + 60 * minutes, UTC)


def test_one_for_another_site_is_refused(home: SiteHome, invitation_of: Make) -> None:
    with pytest.raises(NetworkError, match="FR-C82 an invitation for B; this site is A"):
        accept(home, invitation_of(site="B"), NOW)


def test_another_coordinator_cannot_take_a_site_over(home: SiteHome, invitation_of: Make) -> None:
    accept(home, invitation_of(), NOW)
    before = home.invitation.read_bytes()
    assert code(home, invitation_of(key=SigningKey.create())) == "FR-C82"
    assert home.invitation.read_bytes() == before


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "permit"}, {"format": 2}, {"extra": "1"}, {"address": "https://c:1/"}, {"address": "c"}, {"site": "../a"},
        {"ca": "no certificate"}, {"expires": "soon"}, {"token": 7},
    ],
)  # fmt: skip
def test_a_signed_table_of_another_shape_is_no_invitation(
    home: SiteHome, invitation_of: Make, changed: dict[str, Any]
) -> None:
    assert code(home, invitation_of(**changed)) == "FR-C80"


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 10_000, "\x00", '{"coordinator": 1}', "x" * 70_000])
def test_what_is_no_invitation_is_said_to_be_none(home: SiteHome, tmp_path: Path, text: str) -> None:
    file = tmp_path / "A.invitation"
    file.write_text(text)
    assert code(home, file) == "FR-C80"


def test_a_missing_file_is_named(home: SiteHome, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FR-C80 none.invitation: No such file"):
        accept(home, tmp_path / "none.invitation", NOW)


def test_what_was_accepted_reads_as_it_was_sent(home: SiteHome, invitation_of: Make) -> None:
    file = invitation_of()
    accept(home, file, NOW)
    assert replace(read_invitation(file), table={}) == replace(read_invitation(home.invitation), table={})
