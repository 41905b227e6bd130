"""The way to the coordinator: TLS that trusts the invitation's CA alone, through a proxy if need be.

Whatever is in the way is named with what to do: `fedrounds site doctor` and the launcher both look here.
"""

from __future__ import annotations

import contextlib
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import final

import httpx
from cryptography import x509

from fedrounds_common.errors import NetworkError

TIMEOUT_S = 15.0
# Flower signs the time of each request and takes it from 5 s ahead to 5 minutes behind
AHEAD_S, BEHIND_S = 5.0, 300.0
HOPELESS = frozenset({"FR-C85", "FR-C86", "FR-C87", "FR-C88", "FR-C89"})  # somebody must do something first
# OpenSSL's X509_V_ERR numbers
EXPIRED, NOT_YET = {10}, {9}
OTHER_CA = {2, 7, 18, 19, 20, 21, 24}
OTHER_NAME = {62, 64}


@final
@dataclass(frozen=True)
class Seen:
    """`ahead_s`: how far this machine's clock is ahead of the coordinator's; None if it does not tell the time."""

    ahead_s: float | None
    expires: datetime | None


@final
@dataclass(frozen=True)
class Way:
    """`ca`: PEM. `proxy`: http://[user:password@]host:port, or "" for what the environment says."""

    address: str
    ca: str
    proxy: str = ""

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def used_proxy(self) -> str:
        """The proxy that is gone through, without any password; "" if none is."""
        found = self.proxy or ("" if urllib.request.proxy_bypass(self.host) else _of_environment())
        parts = urllib.parse.urlsplit(found)
        return f"{parts.hostname}:{parts.port}" if parts.hostname else ""

    def client(self, timeout_s: float = TIMEOUT_S) -> httpx.Client:
        return httpx.Client(
            verify=trusting(self.ca), proxy=self.proxy or None, timeout=timeout_s, trust_env=not self.proxy
        )


def _of_environment() -> str:
    found = urllib.request.getproxies()
    return found.get("https") or found.get("all") or ""


def trusting(ca: str) -> ssl.SSLContext:
    """TLS 1.2 or newer that trusts this CA and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca)
    return context


def look(way: Way, now: datetime | None = None) -> Seen:
    """Reach the coordinator once, and say what time it is there.

    Raises:
        NetworkError: FR-C84 not reachable, C85 another CA, C86 an expired certificate, C87 another name,
        C88 no TLS there. Those of HOPELESS end only when somebody does something.
    """
    with named(way), way.client() as client, client.stream("GET", f"{way.url}/v1/enrol") as response:
        stream = response.extensions["network_stream"]
        tls = stream.get_extra_info("ssl_object")
        certificate = tls.getpeercert(True) if tls is not None else None
        told = response.headers.get("date")
    ends = x509.load_der_x509_certificate(certificate).not_valid_after_utc if certificate else None
    return Seen(_ahead(told, now or datetime.now(UTC)), ends)


def _ahead(told: str | None, now: datetime) -> float | None:
    try:
        return (now - parsedate_to_datetime(told or "")).total_seconds()
    except (ValueError, TypeError):
        return None


def check_clock(seen: Seen) -> None:
    """Raise NetworkError FR-C83 for a clock that Flower would not take: it signs the time of each request."""
    if seen.ahead_s is None or -BEHIND_S <= seen.ahead_s <= AHEAD_S:
        return
    way = "ahead of" if seen.ahead_s > 0 else "behind"
    raise NetworkError(
        "FR-C83", f"this machine's clock is {abs(seen.ahead_s):.0f} s {way} the coordinator's",
        wanted=f"at most {AHEAD_S:.0f} s ahead and {BEHIND_S:.0f} s behind", do="set the clock: timedatectl set-ntp true",
    )  # fmt: skip


@contextlib.contextmanager
def named(way: Way) -> Iterator[None]:
    """Turn what httpx raises within into a NetworkError that says what is in the way."""
    try:
        yield
    except httpx.ProxyError as error:
        raise _unreachable(way, f"the proxy {way.used_proxy} answered {_short(error)}") from error
    except (httpx.HTTPError, ssl.SSLError, OSError) as error:
        tls = _tls_error(error)
        raise (_unreachable(way, _short(error)) if tls is None else _of_tls(tls, way)) from error


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error that an error came from, if one is in its chain."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _of_tls(error: ssl.SSLError, way: Way) -> NetworkError:
    number = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    if number in OTHER_CA:
        return NetworkError(
            "FR-C85", f"{way.address} shows a certificate of another CA{_issuer(way)}", wanted="the CA of the invitation",
            do="a firewall may open TLS: have IT exempt this address; or the invitation is of another coordinator",
        )  # fmt: skip
    if number in EXPIRED | NOT_YET:
        word = "has expired" if number in EXPIRED else "is not valid yet"
        return NetworkError(
            "FR-C86", f"the certificate of {way.address} {word}; it is {datetime.now(UTC):%d %b %Y %H:%M} UTC here",
            do="if that time is right, the coordinator must renew it (coordinator renew)",
        )  # fmt: skip
    if number in OTHER_NAME:
        return NetworkError(
            "FR-C87", f"the certificate at {way.address} is not for {way.host}", wanted="the address of the invitation",
            do="ask the coordinator for an invitation with the address that its certificate names",
        )  # fmt: skip
    if (error.reason or "") in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"}:
        return NetworkError(
            "FR-C88", f"{way.address} does not speak TLS", wanted="the coordinator's own port",
            do="check the port; nothing is ever sent in the clear",
        )  # fmt: skip
    return _unreachable(way, _short(error))


def _issuer(way: Way) -> str:
    """Who signed what is shown there; left out where it cannot be fetched directly."""
    host, _, port = way.address.rpartition(":")
    try:
        shown = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=5)
        name = x509.load_pem_x509_certificate(shown.encode()).issuer.rfc4514_string()
    except (OSError, ValueError):
        return ""
    return f" ({name[:120]})"


def _unreachable(way: Way, why: str) -> NetworkError:
    through = f" through the proxy {way.used_proxy}" if way.used_proxy else ""
    return NetworkError(
        "FR-C84", f"{way.address} cannot be reached{through}: {why}", wanted="an outgoing connection to that port",
        do="it is tried again; if it lasts, ask IT whether this machine may go out there, or set [machine] proxy",
    )  # fmt: skip


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]
