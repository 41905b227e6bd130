"""The coordinator's certificates: what hospitals check, what a start refuses, what a renewal keeps."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from fedrounds_common.errors import NetworkError
from fedrounds_server.coordinator.pki import check_certificates, make_authority, names_of, renew_server, warnings

NOW = datetime.now(UTC)
HOST = "fl.example.org"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    make_authority(folder, "University X", HOST, ["10.1.2.3"], NOW)
    return folder


def handshake(keys: Path, ca: Path, host: str, what: str = "server") -> None:
    """TLS between two ends in memory, as strict as Python can be; raises what the hospital's end would."""
    far, near = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=str(ca))
    far.load_cert_chain(keys / f"{what}.pem", keys / f"{what}.key")
    near.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = far.wrap_bio(up, down, server_side=True)
    client = near.wrap_bio(down, up, server_hostname=host)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


@pytest.mark.parametrize("host", [HOST, "10.1.2.3", "localhost", "127.0.0.1", "::1"])
def test_a_hospital_that_holds_the_ca_believes_every_name_of_the_server(keys: Path, host: str) -> None:
    handshake(keys, keys / "ca.pem", host)


def test_a_hospital_does_not_believe_another_name_or_another_ca(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="[Hh]ostname"):
        handshake(keys, keys / "ca.pem", "other.example.org")
    other = tmp_path / "other"
    other.mkdir()
    make_authority(other, "University X", HOST, [], NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(keys, other / "ca.pem", HOST)


def test_what_flower_shows_on_loopback_is_no_certificate_for_hospitals(keys: Path) -> None:
    handshake(keys, keys / "ca.pem", "127.0.0.1", "loopback")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(keys, keys / "ca.pem", HOST, "loopback")


def test_fresh_certificates_pass_without_a_warning(keys: Path) -> None:
    ends = check_certificates(keys, HOST, NOW)
    assert [round(end.days(NOW)) for end in ends] == [3650, 365, 3649]
    assert warnings(ends, NOW) == ()


def test_an_end_within_thirty_days_is_told_with_the_mend(keys: Path) -> None:
    ends = check_certificates(keys, HOST, NOW)
    assert warnings(ends, NOW + timedelta(days=334)) == ()
    (line,) = warnings(ends, NOW + timedelta(days=336))
    assert line.startswith("the server certificate ends in 29 days")
    assert "fedrounds coordinator renew" in line


@pytest.mark.parametrize(("days", "word"), [(366, "expired"), (-1, "valid from")])
def test_a_certificate_outside_its_time_is_refused(keys: Path, days: int, word: str) -> None:
    with pytest.raises(NetworkError, match=f"FR-C68.*{word}"):
        check_certificates(keys, HOST, NOW + timedelta(days=days))


def test_a_renewal_keeps_the_ca_and_the_names_and_makes_a_new_key(keys: Path) -> None:
    ca, old_key = (keys / "ca.pem").read_bytes(), (keys / "server.key").read_bytes()
    names = names_of(x509.load_pem_x509_certificate((keys / "server.pem").read_bytes()))
    later = NOW + timedelta(days=400)
    with pytest.raises(NetworkError, match="FR-C68"):
        check_certificates(keys, HOST, later)
    end = renew_server(keys, HOST, later)
    assert round(end.days(later)) == 365
    assert (keys / "ca.pem").read_bytes() == ca
    assert (keys / "server.key").read_bytes() != old_key
    assert names_of(x509.load_pem_x509_certificate((keys / "server.pem").read_bytes())) == names
    assert check_certificates(keys, HOST, later)
    assert (keys / "server.key").stat().st_mode & 0o077 == 0


def test_a_renewed_certificate_does_not_outlive_its_ca(keys: Path) -> None:
    late = NOW + timedelta(days=3500)
    assert round(renew_server(keys, HOST, late).days(late)) == 150


def test_a_renewal_takes_in_a_changed_address(keys: Path) -> None:
    with pytest.raises(NetworkError, match="FR-C69.*does not name new"):
        check_certificates(keys, "new.example.org", NOW)
    renew_server(keys, "new.example.org", NOW)
    check_certificates(keys, "new.example.org", NOW)
    handshake(keys, keys / "ca.pem", HOST)


@pytest.mark.parametrize("name", ["server.pem", "server.key", "ca.pem", "loopback.pem"])
def test_a_damaged_or_missing_file_is_named(keys: Path, name: str) -> None:
    (keys / name).write_bytes(b"-----BEGIN")
    with pytest.raises(NetworkError, match=f"FR-C69 {name}"):
        check_certificates(keys, HOST, NOW)
    (keys / name).unlink()
    with pytest.raises(NetworkError, match=f"FR-C69 {name}"):
        check_certificates(keys, HOST, NOW)


def test_files_of_another_coordinator_are_refused(keys: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_authority(other, "University X", HOST, [], NOW)  # even under the same name
    ours = (keys / "server.key").read_bytes()
    (keys / "server.key").write_bytes((other / "server.key").read_bytes())
    with pytest.raises(NetworkError, match="FR-C69.*not the key of server.pem"):
        check_certificates(keys, HOST, NOW)
    (keys / "server.key").write_bytes(ours)
    (keys / "server.pem").write_bytes((other / "server.pem").read_bytes())
    with pytest.raises(NetworkError, match="FR-C69.*not of this coordinator's CA"):
        check_certificates(keys, HOST, NOW)
