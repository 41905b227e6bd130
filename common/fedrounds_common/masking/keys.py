"""A round's keys: two X25519 pairs a site, fresh each round, and the notice by which a site makes its halves known.

One pair seals what sites say to each other by way of the coordinator, the other makes the masks. They are two because the
mask's private half is handed out, in shares, when its site is lost. A notice is signed with the site's own Ed25519 key.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedrounds_common.errors import FedroundsError, RefusedError, UpdateError
from fedrounds_common.masking.masks import key_of
from fedrounds_common.signing import PublicKey, SigningKey, read_signed, sign_json

NONCE_BYTES = 12
MOST_BYTES = 4096  # of a notice
SURVIVORS = b"fedrounds-survivors-1\0"


@final
@dataclass(frozen=True)
class Pair:
    """`private`, `public`: 32 bytes each, as in RFC 7748."""

    private: bytes
    public: bytes

    def __repr__(self) -> str:
        return f"Pair({self.public.hex()[:8]})"

    @classmethod
    def fresh(cls) -> Pair:
        return cls.of(secrets.token_bytes(32))

    @classmethod
    def of(cls, private: bytes) -> Pair:
        return cls(private, X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())

    def shared(self, public: bytes) -> bytes:
        """What both ends come to.

        Raises:
            UpdateError: FR-R81 the other half is no point that hides anything.
        """
        try:
            other = X25519PublicKey.from_public_bytes(public)
            return X25519PrivateKey.from_private_bytes(self.private).exchange(other)
        except ValueError as error:
            raise UpdateError("FR-R81", "a public key that cannot be used", wanted="a point of X25519") from error


@final
@dataclass(frozen=True)
class Notice:
    """What a site makes known in one round. `session`: which; `identity`: its Ed25519 key; `box`, `mask`: public halves;
    `promise`: SHA-256 of the seed of its own mask, so that a wrong one shows."""

    site: str
    session: str
    identity: str
    box: str
    mask: str
    promise: str

    @property
    def fingerprint(self) -> str:
        """Of its identity, as people compare it."""
        return PublicKey.of_text(self.identity).fingerprint

    def signed(self, key: SigningKey) -> bytes:
        return json.dumps(sign_json(key, vars(self)), sort_keys=True).encode()


@lru_cache(maxsize=1024)  # of one round each is read in every phase, and in a rehearsal by every site
def read_notice(data: bytes, session: str, site: str) -> Notice:
    """A notice whose signature fits the identity that it names; whether that identity is the site's is not looked at.

    Raises:
        UpdateError: FR-R81 it is none, of another round or site, or changed.
    """
    try:
        if len(data) > MOST_BYTES:
            raise ValueError("too long")
        table = json.loads(data)
        said = read_signed(table, PublicKey.of_text(str(table["identity"])))
        notice = Notice(**{name: str(said.pop(name)) for name in list(said)})
        halves = [bytes.fromhex(text) for text in (notice.box, notice.mask, notice.promise)]
        if (notice.session, notice.site) != (session, site) or {len(half) for half in halves} != {32}:
            raise ValueError("of another round or site")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FedroundsError) as error:
        raise UpdateError("FR-R81", f"no notice of {site}'s keys for this round", wanted="one it signed") from error
    return notice


def check_identities(notices: Mapping[str, Notice], known: Mapping[str, str]) -> None:
    """Refuse keys of hospitals other than those that are known here.

    Args:
        known: site → fingerprint of its Ed25519 key. A site that is not in it is unknown.

    Raises:
        RefusedError: FR-C79 with the first that does not fit.
    """
    for name in sorted(notices):
        if known.get(name) != notices[name].fingerprint:
            said = "is not known here" if name not in known else "has another key than the one known here"
            raise RefusedError(
                "FR-C79", f"{name} {said}", wanted="the hospitals of wire.channel.keys, or those of the rounds before",
                do="compare fingerprints with the people there before anything else",
            )  # fmt: skip
    for part in ("identity", "box", "mask"):
        if len({getattr(notice, part) for notice in notices.values()}) < len(notices):
            raise RefusedError("FR-C79", f"two sites with one {part} key", wanted="a key for each site")


def seal(own: Pair, other: bytes, session: bytes, way: str, text: bytes) -> bytes:
    """Text that only the other end can read; `way`: from whom to whom, which is bound to it."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    key = key_of(own.shared(other), f"box {way}", session)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, text, session + way.encode())


def unseal(own: Pair, other: bytes, session: bytes, way: str, data: bytes) -> bytes:
    """Raises UpdateError: FR-R81 it was not sealed by the other end for this way and round."""
    key = key_of(own.shared(other), f"box {way}", session)
    try:
        return ChaCha20Poly1305(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], session + way.encode())
    except (InvalidTag, ValueError) as error:
        raise UpdateError("FR-R81", f"what was sealed on the way {way} cannot be opened", wanted="as sealed") from error


def survivors_bytes(session: str, lot: bytes, shared: tuple[str, ...], survivors: tuple[str, ...]) -> bytes:
    """What sites sign before anybody takes a mask away: whose keys, whose shares and whose updates are in the sum."""
    words = json.dumps([session, lot.hex(), sorted(shared), sorted(survivors)]).encode()
    return SURVIVORS + hashlib.sha256(words).digest()


def lot_of(notices: Mapping[str, bytes]) -> bytes:
    """One digest of all notices of a round: who has it has the same list of keys."""
    said = hashlib.sha256()
    for name in sorted(notices):
        said.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(notices[name]).digest())
    return said.digest()
