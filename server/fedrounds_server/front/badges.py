"""Who calls: a node key of the register, a signature of the present moment, and one that was not shown before.

All of it is in the head of a request, so a stranger is sent away before a byte of a body is read. SuperLink
checks key and signature again, and that the node named in the body is the key's.
"""

from __future__ import annotations

import os
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fedrounds_common.errors import FedroundsError
from fedrounds_server.coordinator.register import read_entry
from fedrounds_server.front.flower import (
    EARLIEST_SECONDS,
    KEY_HEADER,
    OLDEST_SECONDS,
    SIGNATURE_HEADER,
    TIME_HEADER,
)
from fedrounds_server.front.refusals import Refused

Stamp = tuple[tuple[str, int, int, int], ...]


@final
@dataclass(frozen=True)
class Badge:
    site: str
    key: ec.EllipticCurvePublicKey
    revoked: bool


@final
class Register:
    """The enrolled sites by their node keys, read again whenever a file of the folder has changed."""

    def __init__(self, sites: Path, say: Callable[[str], None]) -> None:
        self._sites, self._say = sites, say
        self._stamp: Stamp | None = None
        self._badges: Mapping[bytes, Badge] = {}

    def find(self, pem: bytes) -> Badge | None:
        """Raises Refused FR-C54: the folder itself cannot be read, and then nobody is let in."""
        try:
            stamp = self._look()
        except OSError as error:
            raise Refused("FR-C54", 503, f"the register cannot be read ({error.strerror})", retry_after=30) from error
        if stamp != self._stamp:
            self._badges, self._stamp = self._read(), stamp
        return self._badges.get(pem.strip())

    def _look(self) -> Stamp:
        with os.scandir(self._sites) as found:
            files = sorted((entry for entry in found if entry.name.endswith(".json")), key=lambda entry: entry.name)
            stats = [(entry.name, entry.stat()) for entry in files]
        return tuple((name, state.st_mtime_ns, state.st_size, state.st_ino) for name, state in stats)

    def _read(self) -> Mapping[bytes, Badge]:
        badges: dict[bytes, Badge] = {}
        for file in sorted(self._sites.glob("*.json")):
            try:
                entry = read_entry(file)
                badge = Badge(entry.site, _node_key(entry.node_key.encode()), entry.revoked)
            except (FedroundsError, ValueError) as error:
                # closed to this site, open to the others: a round can go on without one
                self._say(f"FR-C54 sites/{file.name} cannot be used ({type(error).__name__}): this site is not let in")
                continue
            badges[_pem(badge.key)] = badge
        return badges


@final
class Badges:
    def __init__(self, register: Register, wall: Callable[[], float] = time.time) -> None:
        self._register, self._wall = register, wall
        self._shown: OrderedDict[tuple[str, int], float] = OrderedDict()

    def check(self, headers: Mapping[str, str]) -> str:
        """The name of the site that sent these headers.

        Raises:
            Refused: FR-C46 headers missing or wrong, FR-C47 a key that is not enrolled or was revoked,
                FR-C48 a clock too far from ours, FR-C49 headers that were used before.
        """
        try:
            pem = b64decode(headers[KEY_HEADER], validate=True)
            signature = b64decode(headers[SIGNATURE_HEADER], validate=True)
            said = headers[TIME_HEADER].encode("ascii")
            signed_at = datetime.fromisoformat(headers[TIME_HEADER])
            number, _ = decode_dss_signature(signature)
        except (KeyError, ValueError) as error:
            raise Refused("FR-C46", 401, "no node key with a signed time") from error
        badge = self._register.find(pem)
        if badge is None or badge.revoked:
            found = f"the node key of {badge.site}, which was revoked" if badge else "a node key that nobody enrolled"
            raise Refused("FR-C47", 401, found, site=badge.site if badge else "")
        try:
            badge.key.verify(signature, said, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise Refused("FR-C46", 401, f"the key of {badge.site} with another's signature") from error
        self._check_time(badge.site, signed_at, number)
        return badge.site

    def _check_time(self, site: str, signed_at: datetime, number: int) -> None:
        now = self._wall()
        age = now - signed_at.timestamp() if signed_at.tzinfo else float("inf")
        if not EARLIEST_SECONDS < age < OLDEST_SECONDS:
            raise Refused("FR-C48", 401, f"signed {age:.0f} s before this clock's time; is a clock wrong?", site=site)
        while self._shown and next(iter(self._shown.values())) < now - OLDEST_SECONDS + EARLIEST_SECONDS:
            self._shown.popitem(last=False)
        # an ECDSA signature can be turned into another valid one, but its first number stays
        if (site, number) in self._shown:
            raise Refused("FR-C49", 401, "a signature that was used before", site=site)
        self._shown[site, number] = now


def _node_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    key = load_pem_public_key(pem)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an elliptic-curve key")
    return key


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip()
