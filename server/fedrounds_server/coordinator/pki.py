"""The coordinator's own certificate authority and its two server certificates.

ca       ten years; every invitation carries it, and a site trusts nothing else
server   one year; the front shows it to hospitals; `renew` makes the next from the same CA
loopback as long as the CA; Flower's SuperLink shows it to programs on this machine only
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrounds_common.disk import write_private, write_whole
from fedrounds_common.errors import NetworkError

CA_DAYS, SERVER_DAYS, WARN_DAYS = 3650, 365, 30
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_BACK = timedelta(hours=1)  # a hospital's clock may be behind ours
Key = ec.EllipticCurvePrivateKey


@final
@dataclass(frozen=True)
class Expiry:
    """Of one certificate: which, and when it ends."""

    what: str
    until: datetime

    def days(self, now: datetime) -> float:
        return (self.until - now) / timedelta(days=1)


def make_authority(keys: Path, name: str, address_host: str, also: Sequence[str], now: datetime | None = None) -> None:
    """CA, server and loopback certificates in an empty folder `keys`."""
    key, now = ec.generate_private_key(ec.SECP256R1()), now or datetime.now(UTC)
    subject = _name(f"{name} fedrounds CA")
    certificate = (
        _builder(subject, subject, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _save_key(keys / "ca.key", key)
    write_whole(keys / "ca.pem", certificate.public_bytes(Encoding.PEM))
    names = list(dict.fromkeys([address_host, *also, *LOOPBACK_NAMES]))
    _issue(keys, "server", key, certificate, names, now, SERVER_DAYS)
    _issue(keys, "loopback", key, certificate, LOOPBACK_NAMES, now, CA_DAYS - 1)


def renew_server(keys: Path, address_host: str, now: datetime | None = None) -> Expiry:
    """A new key and certificate of the same CA for the front, with the names that the old one had.

    Raises:
        NetworkError: FR-C69 the CA or the old certificate cannot be read.
    """
    now = now or datetime.now(UTC)
    authority, key = _certificate(keys / "ca.pem"), _key(keys / "ca.key")
    kept = names_of(_certificate(keys / "server.pem"))
    _issue(keys, "server", key, authority, list(dict.fromkeys([address_host, *kept])), now, SERVER_DAYS)
    return Expiry("server", _certificate(keys / "server.pem").not_valid_after_utc)


def check_certificates(keys: Path, address_host: str, now: datetime | None = None) -> tuple[Expiry, ...]:
    """Every certificate's end, after making sure that each is whole, of this CA, for this address, and valid now.

    Raises:
        NetworkError: FR-C68 one is expired or not yet valid; FR-C69 one is missing or does not fit.
    """
    now = now or datetime.now(UTC)
    authority = _certificate(keys / "ca.pem")
    found = []
    for what in ("ca", "server", "loopback"):
        certificate = _certificate(keys / f"{what}.pem")
        _check_dates(what, certificate, now)
        _check_issued(what, certificate, authority)
        if what != "ca" and _public(_key(keys / f"{what}.key").public_key()) != _public(certificate.public_key()):
            raise _unfit(f"{what}.key is not the key of {what}.pem", "fedrounds coordinator renew")
        found.append(Expiry(what, certificate.not_valid_after_utc))
    if address_host not in names_of(_certificate(keys / "server.pem")):
        raise _unfit(f"server.pem does not name {address_host}", "fedrounds coordinator renew")
    return tuple(found)


def expiries(keys: Path) -> tuple[Expiry, ...]:
    """When each certificate ends, expired or not."""
    return tuple(Expiry(what, _certificate(keys / f"{what}.pem").not_valid_after_utc) for what in ("ca", "server"))


def warnings(ends: Sequence[Expiry], now: datetime | None = None) -> tuple[str, ...]:
    """One line for each certificate that has fewer than 30 days left."""
    now = now or datetime.now(UTC)
    return tuple(
        f"the {end.what} certificate ends in {end.days(now):.0f} days, on {end.until:%Y-%m-%d}: "
        + ("`fedrounds coordinator renew`" if end.what == "server" else "plan a new coordinator folder and enrolments")
        for end in ends
        if end.days(now) < WARN_DAYS
    )


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Host names and IP addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))


def _issue(
    keys: Path,
    what: str,
    authority_key: Key,
    authority: x509.Certificate,
    names: Sequence[str],
    now: datetime,
    days: int,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + timedelta(days=days), authority.not_valid_after_utc)
    certificate = (
        _builder(_name(names[0]), authority.subject, key.public_key(), now, 0, until)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    # key first: a crash in between leaves a pair that `check_certificates` names, never a foreign certificate
    _save_key(keys / f"{what}.key", key)
    write_whole(keys / f"{what}.pem", certificate.public_bytes(Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, days: int,
    until: datetime | None = None,
) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACK)
        .not_valid_after(until or now + timedelta(days=days))
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _save_key(file: Path, key: Key) -> None:
    # a name beside it, then a rename: never half a key, and never one that others could open meanwhile
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    write_private(fresh, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    os.replace(fresh, file)


def _certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        raise _unfit(f"{file.name} cannot be read ({type(error).__name__})", "restore it from a backup") from error


def _key(file: Path) -> Key:
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _unfit(f"{file.name} cannot be read ({type(error).__name__})", "restore it from a backup") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unfit(f"{file.name} is a key of another kind", "restore it from a backup")
    return key


def _public(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _check_dates(what: str, certificate: x509.Certificate, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if start <= now < end:
        return
    do = "fedrounds coordinator renew" if what == "server" else "make a new coordinator folder and enrol anew"
    said = f"expired on {end:%Y-%m-%d}" if now >= end else f"is valid from {start:%Y-%m-%d} only"
    raise NetworkError(
        "FR-C68", f"the {what} certificate {said}", wanted=f"one that is valid today, {now:%Y-%m-%d} by this clock",
        do=do, where=f"{what}.pem",
    )  # fmt: skip


def _check_issued(what: str, certificate: x509.Certificate, authority: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        do = "restore it from a backup" if what == "ca" else "fedrounds coordinator renew"
        raise _unfit(f"{what}.pem is not of this coordinator's CA", do) from error


def _unfit(found: str, do: str) -> NetworkError:
    return NetworkError("FR-C69", found, wanted="the certificates that `init` and `renew` write", do=do)
