"""Enrolment: what the front may hand over, what is refused, what never happens to an enrolled site."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedrounds_common import chain
from fedrounds_common.errors import FedroundsError, NetworkError, RefusedError, UsageError
from fedrounds_common.signing import PublicKey, SigningKey, read_signed, sign_json
from fedrounds_server.coordinator.enrolment import (
    MAX_BYTES,
    carried_request,
    enrol,
    receive,
    revoke,
    unlike_versions,
    waiting_request,
)
from fedrounds_server.coordinator.flower import Flower
from fedrounds_server.coordinator.folder import CoordinatorFolder
from fedrounds_server.coordinator.invitation import invite
from fedrounds_server.coordinator.register import entry_of, read_register
from fedrounds_server.coordinator.setup import create

NOW = datetime.now(UTC)
PENDING, ENROLLED = {"state": "pending"}, {"state": "enrolled"}


@dataclass(frozen=True)
class Site:
    """A hospital's side: two keys, and what it posts."""

    name: str = "A"
    key: SigningKey = field(default_factory=SigningKey.create)
    node: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))

    @property
    def node_key(self) -> str:
        return self.node.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def request(self, token: str, /, key: SigningKey | None = None, **other: Any) -> bytes:
        table = {
            "format": 1, "kind": "enrolment", "site": self.name, "token": token, "signing_key": self.key.public.text,
            "node_key": self.node_key, "cases": 40, "versions": {"fedrounds": version("fedrounds")}, "made": NOW.isoformat(), **other,
        }  # fmt: skip
        return json.dumps(sign_json(key or self.key, table)).encode()


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorFolder:
    folder = CoordinatorFolder(tmp_path / "coord")
    create(folder, "fl.example.org:8443")
    return folder


@pytest.fixture
def flower(coordinator: CoordinatorFolder) -> Flower:
    """A Flower that nobody started: nothing listens on port 1."""
    return Flower(coordinator, 1)


def invited(folder: CoordinatorFolder, site: str = "A", **options: Any) -> dict[str, Any]:
    out = folder.path.parent / f"out{len(list(folder.path.parent.iterdir()))}"
    return dict(json.loads(invite(folder, site, out, **options).read_text()))


def put_in(folder: CoordinatorFolder, site: Site, node_id: int = 7) -> None:
    """Enrol without a Flower: the register's entry as `enrol` writes it."""
    from fedrounds_server.coordinator.invitation import mark_used
    from fedrounds_server.coordinator.register import Enrolled, write_entry

    write_entry(folder, Enrolled(site.name, site.key.public, 40, node_id, False, site.node_key))
    mark_used(folder, site.name)
    folder.pending(site.name).unlink(missing_ok=True)


def test_an_invitation_is_signed_and_its_token_is_kept_as_a_sum_only(coordinator: CoordinatorFolder) -> None:
    table = invited(coordinator, study="ab" * 32)
    key = SigningKey.load(coordinator.signing_key).public
    said = read_signed(table, key)
    assert (said["site"], said["address"], said["study"]) == ("A", "fl.example.org:8443", "ab" * 32)
    assert PublicKey.of_text(said["coordinator"]) == key
    assert "BEGIN CERTIFICATE" in said["ca"]
    assert all(said["token"] not in path.read_text() for path in coordinator.path.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["address", "ca", "coordinator", "token", "expires", "site"])
def test_a_tampered_invitation_does_not_carry_its_signature(coordinator: CoordinatorFolder, name: str) -> None:
    table = invited(coordinator)
    with pytest.raises(NetworkError, match="FR-C90"):
        read_signed({**table, name: table[name] + " "}, SigningKey.load(coordinator.signing_key).public)


def test_an_invitation_file_is_its_owners_only_and_never_written_over(
    coordinator: CoordinatorFolder, tmp_path: Path
) -> None:
    file = invite(coordinator, "A", tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="FR-U10"):
        invite(coordinator, "A", tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", "-a", "x" * 65, "å"])
def test_a_name_that_is_no_file_name_is_not_invited(coordinator: CoordinatorFolder, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="FR-U64"):
        invite(coordinator, name, tmp_path)


def test_a_request_waits_and_may_come_again(coordinator: CoordinatorFolder) -> None:
    site = Site()
    body = site.request(invited(coordinator)["token"])
    assert [receive(coordinator.path, body) for _ in range(3)] == [(202, PENDING)] * 3
    request = waiting_request(coordinator, "A")
    assert (request.key, request.cases) == (site.key.public, 40)
    assert [line["event"] for line in chain.read(coordinator.journal)] == ["made", "invited", "asked"]
    assert stat.S_IMODE(coordinator.pending("A").stat().st_mode) == 0o600


def test_a_token_is_used_by_one_pair_of_keys_only(coordinator: CoordinatorFolder) -> None:
    token, first = invited(coordinator)["token"], Site()
    receive(coordinator.path, first.request(token))
    assert receive(coordinator.path, Site().request(token)) == (409, {"code": "FR-C65"})
    other_node = Site(key=first.key)
    assert receive(coordinator.path, other_node.request(token)) == (409, {"code": "FR-C65"})
    assert waiting_request(coordinator, "A").key == first.key.public


def test_the_same_keys_may_correct_what_they_said(coordinator: CoordinatorFolder) -> None:
    token, site = invited(coordinator)["token"], Site()
    receive(coordinator.path, site.request(token))
    assert receive(coordinator.path, site.request(token, cases=41)) == (202, PENDING)
    assert waiting_request(coordinator, "A").cases == 41


def test_a_token_of_another_site_or_of_nobody_says_nothing_of_which_sites_there_are(
    coordinator: CoordinatorFolder,
) -> None:
    of_b = invited(coordinator, "B")["token"]
    invited(coordinator, "A")
    answers = {receive(coordinator.path, Site(name).request(token))[1]["code"]
               for name, token in (("A", of_b), ("A", ""), ("C", of_b), ("C", "x"))}  # fmt: skip
    assert answers == {"FR-C63"}


def test_a_newer_invitation_ends_the_older_and_what_came_with_it(coordinator: CoordinatorFolder) -> None:
    old = invited(coordinator)["token"]
    receive(coordinator.path, Site().request(old))
    new = invited(coordinator)["token"]
    with pytest.raises(UsageError, match="FR-U66"):
        waiting_request(coordinator, "A")
    assert receive(coordinator.path, Site().request(old)) == (403, {"code": "FR-C63"})
    assert receive(coordinator.path, Site().request(new)) == (202, PENDING)


def test_an_invitation_expires(coordinator: CoordinatorFolder) -> None:
    body = Site().request(invited(coordinator, days=2)["token"])
    assert receive(coordinator.path, body, NOW + timedelta(days=2.1)) == (403, {"code": "FR-C64"})
    assert receive(coordinator.path, body, NOW + timedelta(days=1.9)) == (202, PENDING)


def test_a_request_is_signed_with_the_key_it_brings(coordinator: CoordinatorFolder) -> None:
    token = invited(coordinator)["token"]
    assert receive(coordinator.path, Site().request(token, key=SigningKey.create())) == (400, {"code": "FR-C62"})
    body = Site().request(token)
    assert receive(coordinator.path, body.replace(b'"cases": 40', b'"cases": 41')) == (400, {"code": "FR-C62"})


def test_a_request_is_bounded_before_it_is_read(coordinator: CoordinatorFolder) -> None:
    body = Site().request(invited(coordinator)["token"])
    assert receive(coordinator.path, body + b" " * (MAX_BYTES - len(body))) == (202, PENDING)
    assert receive(coordinator.path, body + b" " * (MAX_BYTES - len(body) + 1)) == (413, {"code": "FR-C60"})


P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
ODD: list[dict[str, Any]] = [
    {"site": "../a"}, {"site": 7}, {"token": 7}, {"cases": -1}, {"cases": 1.5}, {"cases": True}, {"cases": 10**12},
    {"format": 2}, {"kind": "invitation"}, {"versions": {"a": 1}}, {"versions": "x"}, {"made": 1}, {"extra": 1},
    {"node_key": "x"}, {"node_key": None},
    {"node_key": P256.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()},
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=[f"{number}-{next(iter(odd))}" for number, odd in enumerate(ODD)])
def test_an_odd_request_is_refused_though_it_is_signed(coordinator: CoordinatorFolder, odd: dict[str, Any]) -> None:
    body = Site().request(invited(coordinator)["token"], **odd)
    assert receive(coordinator.path, body) == (400, {"code": "FR-C61"})
    assert list((coordinator.path / "pending").iterdir()) == []


def test_another_version_of_ours_is_refused_and_the_invitation_stays_good(coordinator: CoordinatorFolder) -> None:
    token, site, ours = invited(coordinator)["token"], Site(), version("fedrounds")
    assert receive(coordinator.path, Site().request("no token", versions={})) == (403, {"code": "FR-C63"})
    for versions in ({"fedrounds": "0.0.9"}, {}):
        said = receive(coordinator.path, site.request(token, versions=versions))
        assert said == (403, {"code": "FR-C76", "fedrounds": ours})
    assert list((coordinator.path / "pending").iterdir()) == []
    assert receive(coordinator.path, site.request(token)) == (202, PENDING)


def test_a_carried_request_of_another_version_names_both(coordinator: CoordinatorFolder, tmp_path: Path) -> None:
    file = tmp_path / "request"
    file.write_bytes(Site().request(invited(coordinator)["token"], versions={"fedrounds": "0.0.9"}))
    with pytest.raises(
        RefusedError, match=rf"FR-C76 A runs fedrounds 0.0.9; fedrounds {version('fedrounds')}, as here"
    ):
        carried_request(coordinator, file)


def test_other_packages_of_another_version_are_named_and_let_in(coordinator: CoordinatorFolder) -> None:
    versions = {"fedrounds": version("fedrounds"), "torch": "1.0", "numpy": version("numpy"), "odd": "1"}
    assert receive(coordinator.path, Site().request(invited(coordinator)["token"], versions=versions))[0] == 202
    assert unlike_versions(waiting_request(coordinator, "A")) == (f"torch 1.0 (here {version('torch')})",)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 9000, b'{"format": 1}', b'{"signing_key": 1}']
)
def test_what_is_no_request_is_refused(coordinator: CoordinatorFolder, body: bytes) -> None:
    assert receive(coordinator.path, body) == (400, {"code": "FR-C61"})


def test_an_enrolled_site_is_never_written_over(coordinator: CoordinatorFolder) -> None:
    token, site = invited(coordinator)["token"], Site()
    receive(coordinator.path, site.request(token))
    put_in(coordinator, site)
    before = coordinator.site("A").read_bytes()
    assert receive(coordinator.path, site.request(token)) == (200, ENROLLED)
    assert receive(coordinator.path, Site().request(token)) == (409, {"code": "FR-C65"})
    assert coordinator.site("A").read_bytes() == before
    with pytest.raises(UsageError, match="FR-U65"):
        invited(coordinator)


def test_a_wrong_fingerprint_lets_nobody_in(coordinator: CoordinatorFolder, flower: Flower) -> None:
    site = Site()
    receive(coordinator.path, site.request(invited(coordinator)["token"]))
    request = waiting_request(coordinator, "A")
    right = site.key.public.fingerprint
    for wrong in ("", right[:-1], right.replace(right[0], "x", 1), SigningKey.create().public.fingerprint):
        with pytest.raises(RefusedError, match="FR-U67"):
            enrol(coordinator, request, wrong, flower)
    assert read_register(coordinator.path) == {}


def test_a_right_fingerprint_reaches_flower_and_nothing_is_written_where_that_fails(
    coordinator: CoordinatorFolder, flower: Flower
) -> None:
    site = Site()
    receive(coordinator.path, site.request(invited(coordinator)["token"]))
    spoken = site.key.public.fingerprint.upper().replace("-", " ")
    with pytest.raises(NetworkError, match="FR-C72"):
        enrol(coordinator, waiting_request(coordinator, "A"), spoken, flower)
    assert read_register(coordinator.path) == {}
    assert waiting_request(coordinator, "A").key == site.key.public


def test_a_revoked_key_is_never_taken_again_and_a_new_one_needs_a_new_invitation(
    coordinator: CoordinatorFolder, flower: Flower
) -> None:
    token, site = invited(coordinator)["token"], Site()
    put_in(coordinator, site)
    entry, trouble = revoke(coordinator, entry_of(coordinator, "A"), flower)
    assert entry.revoked
    assert "FR-C72" in trouble  # this Flower is down: its list follows at the next start
    assert read_register(coordinator.path)["A"].revoked
    assert receive(coordinator.path, site.request(token))[1] == {"code": "FR-C66"}
    assert receive(coordinator.path, Site().request(token)) == (409, {"code": "FR-C65"})
    fresh = invited(coordinator)["token"]
    assert receive(coordinator.path, site.request(fresh)) == (403, {"code": "FR-C66"})
    assert receive(coordinator.path, Site().request(fresh)) == (202, PENDING)


def test_a_request_carried_by_hand_is_held_against_its_invitation_too(
    coordinator: CoordinatorFolder, tmp_path: Path
) -> None:
    file, site = tmp_path / "A.request", Site()
    file.write_bytes(site.request("wrong"))
    with pytest.raises(RefusedError, match="FR-C63"):
        carried_request(coordinator, file)
    file.write_bytes(site.request(invited(coordinator)["token"]))
    assert carried_request(coordinator, file).key == site.key.public
    with pytest.raises(UsageError, match="FR-U66"):
        carried_request(coordinator, tmp_path / "none")


def test_a_register_with_a_damaged_entry_is_not_used(coordinator: CoordinatorFolder) -> None:
    invited(coordinator)
    put_in(coordinator, Site())
    text = coordinator.site("A").read_text()
    for damaged in (text[:-5], text.replace('"site": "A"', '"site": "B"'), text.replace("ed25519:", "rsa:")):
        coordinator.site("A").write_text(damaged)
        with pytest.raises(FedroundsError):
            read_register(coordinator.path)


def test_a_key_that_says_neither_revoked_nor_not_counts_as_revoked(coordinator: CoordinatorFolder) -> None:
    invited(coordinator)
    put_in(coordinator, Site())
    coordinator.site("A").write_text(coordinator.site("A").read_text().replace('"revoked": false', '"revoked": "no"'))
    assert read_register(coordinator.path)["A"].revoked
