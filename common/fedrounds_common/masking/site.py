"""One site's part in one round of a secure sum: what it knows, what it answers in each phase, and what it refuses.

    keys      fresh keys                                     → a signed notice of their public halves
    shares    everybody's notices                            → shares of its two secrets, sealed for each neighbour
    masked    what was sealed for it                         → its update under masks (whose keys are given out here)
    agree     whose updates came                             → its signature under that list
    unmask    enough others' signatures under the same list  → of each who stayed the share of his seed, of each who was
                                                               lost the share of his mask's key; of nobody both

Every function is pure: state and message in, state and answer out, nothing sent and nothing written. The same message
again gets the same answer; another one in its place is refused, which is what a lying coordinator meets.

Source: Bonawitz et al. 2017 (doi:10.1145/3133956.3133982), figure 4, with its consistency check.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import final

from fedrounds_common.errors import RefusedError, RunFileError
from fedrounds_common.masking.field import Field
from fedrounds_common.masking.graph import graph_of, is_connected, needed
from fedrounds_common.masking.keys import (
    Notice,
    Pair,
    check_identities,
    lot_of,
    read_notice,
    seal,
    survivors_bytes,
    unseal,
)
from fedrounds_common.masking.masks import key_of
from fedrounds_common.masking.shares import SHARE_BYTES, split
from fedrounds_common.signing import PublicKey, SigningKey

PHASES = ("keys", "shares", "masked", "agree", "unmask")
SEED, MASK = "seed", "mask"  # the two secrets of a site
Blobs = Mapping[str, bytes]


@final
@dataclass(frozen=True)
class Rules:
    """What the study says: the fewest sites in a sum, the share of them whose help is needed, neighbours (0: all)."""

    minimum: int
    threshold: float
    neighbours: int
    field: Field

    def needed(self, sites: int) -> int:
        """How many of so many must stay to the end, and sign."""
        return max(self.minimum, needed(sites, self.threshold))

    def holds(self, holders: int) -> int:
        """How many of a secret's holders give it back."""
        return min(holders, needed(holders, self.threshold))


@final
@dataclass(frozen=True)
class SiteRound:
    """What a site keeps to itself from phase to phase. Hex, so that it is JSON; it is secret until the round is over.

    `notices`, `sealed`: as they came and went. `got`: sender → (share of its seed, share of its mask's key).
    `partners`: whose masks are on its update. `shared`, `survivors`: what it signed. `done`: it gave its shares out.
    """

    site: str
    session: str
    box: str = field(repr=False)
    mask: str = field(repr=False)
    seed: str = field(repr=False)
    notices: Mapping[str, str] = field(default_factory=dict, repr=False)
    sealed: Mapping[str, str] = field(default_factory=dict, repr=False)
    got: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    partners: tuple[str, ...] = ()
    masked: bool = False
    shared: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()
    done: bool = False

    @property
    def salt(self) -> bytes:
        return hashlib.sha256(self.session.encode()).digest()

    @property
    def blobs(self) -> dict[str, bytes]:
        return {name: bytes.fromhex(text) for name, text in self.notices.items()}

    def pair(self, which: str) -> Pair:
        return Pair.of(bytes.fromhex(self.box if which == "box" else self.mask))

    def to_bytes(self) -> bytes:
        return json.dumps({entry.name: getattr(self, entry.name) for entry in fields(self)}).encode()

    @classmethod
    def of_bytes(cls, data: bytes) -> SiteRound:
        """Raises RunFileError: FR-F10 it is damaged."""
        try:
            table = json.loads(data)
            lists = {name: tuple(table[name]) for name in ("partners", "shared", "survivors")}
            got = {name: (str(one), str(two)) for name, (one, two) in table["got"].items()}
            return cls(**{**table, **lists, "got": got})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFileError("FR-F10", "the round's keys cannot be read", wanted="as this site wrote them") from error


def session_of(study: str, run: str, round_: int, nonce: str) -> str:
    """What names a round, and one attempt at it, to everybody in it."""
    return f"fedrounds-sum-1/{study}/{run}/{round_}/{nonce}"


def begin(site: str, session: str) -> SiteRound:
    """Fresh secrets, of the operating system."""
    return SiteRound(site, session, secrets.token_hex(32), secrets.token_hex(32), secrets.token_hex(32))


def notice_of(state: SiteRound, identity: SigningKey) -> bytes:
    """Ed25519 signs the same bytes alike, so this is the same whenever it is asked for."""
    promise = hashlib.sha256(bytes.fromhex(state.seed)).hexdigest()
    box, mask = (state.pair(which).public.hex() for which in ("box", "mask"))
    return Notice(state.site, state.session, identity.public.text, box, mask, promise).signed(identity)


def share(
    state: SiteRound, rules: Rules, notices: Blobs, own: bytes, known: Mapping[str, str]
) -> tuple[SiteRound, dict[str, bytes]]:
    """Shares of both secrets, sealed, by neighbour.

    Args:
        notices: of everybody who takes part. own: as this site sent it. known: site → fingerprint, see `check_identities`.

    Raises:
        RefusedError: FR-C77 it answered another list, FR-C78 too few or too many take part, FR-C79 unknown keys.
        UpdateError: FR-R81 a notice that is none.
    """
    if state.notices:
        if state.done or dict(notices) != state.blobs:
            raise _other("another list of keys")
        return state, {name: bytes.fromhex(text) for name, text in state.sealed.items()}
    if notices.get(state.site) != own:
        raise _other("a list of keys without this site's own")
    if not rules.minimum <= len(notices) <= rules.field.sites:
        raise _few(f"{len(notices)} sites", f"{rules.minimum} to {rules.field.sites}")
    read = {name: read_notice(data, state.session, name) for name, data in notices.items()}
    check_identities(read, known)
    state = replace(state, notices={name: data.hex() for name, data in notices.items()})
    near, numbers = _neighbours(state, rules), _numbers(state)
    holders = sorted({*near, state.site})
    parts = [
        split(bytes.fromhex(secret), [numbers[name] for name in holders], rules.holds(len(holders)))
        for secret in (state.seed, state.mask)
    ]
    both = {name: tuple(part[numbers[name]] for part in parts) for name in holders}
    box, sealed = state.pair("box"), {}
    for name in near:
        way = f"{state.site}>{name}"
        sealed[name] = seal(box, bytes.fromhex(read[name].box), state.salt, way, b"".join(both[name]))
    kept = {state.site: (both[state.site][0].hex(), both[state.site][1].hex())}
    return replace(state, sealed={name: data.hex() for name, data in sealed.items()}, got=kept), sealed


def mask_keys(state: SiteRound, rules: Rules, sealed: Blobs) -> tuple[SiteRound, list[tuple[bytes, int]]]:
    """The keys of the masks on this site's update, each with its sign.

    Args:
        sealed: sender → what it sealed for this site, of each neighbour that got so far.

    Raises:
        RefusedError: FR-C77 it masked with others before, or they are no neighbours; FR-C78 they are too few.
        UpdateError: FR-R81 a box that does not open.
    """
    near, partners = _neighbours(state, rules), tuple(sorted(sealed))
    if state.done or not state.sealed or not set(partners) <= near:
        raise _other("shares of sites that are no neighbours")
    if state.masked and partners != state.partners:
        raise _other("masks with other sites")
    if len(partners) + 1 < max(rules.holds(len(near) + 1), 2):
        raise _few(f"{len(partners)} neighbours", f"{rules.holds(len(near) + 1) - 1}")
    notices = {name: read_notice(state.blobs[name], state.session, name) for name in partners}
    if not state.masked:
        state = replace(state, partners=partners, masked=True, got={**state.got, **_opened(state, notices, sealed)})
    mask = state.pair("mask")
    keys = [(own_key(bytes.fromhex(state.seed), state.salt), 1)]
    for name in partners:
        secret = mask.shared(bytes.fromhex(notices[name].mask))
        keys.append((pair_key(secret, state.site, name, state.salt), sign_of(state.site, name)))
    return state, keys


def _opened(state: SiteRound, notices: Mapping[str, Notice], sealed: Blobs) -> dict[str, tuple[str, str]]:
    box, found = state.pair("box"), {}
    for name, data in sealed.items():
        said = unseal(box, bytes.fromhex(notices[name].box), state.salt, f"{name}>{state.site}", data)
        found[name] = (said[:SHARE_BYTES].hex(), said[SHARE_BYTES:].hex())
    return found


def agree(
    state: SiteRound,
    rules: Rules,
    shared: Collection[str],
    survivors: Collection[str],
    identity: SigningKey,
    before: Collection[str] | None = None,
) -> tuple[SiteRound, bytes]:
    """This site's signature under whose updates are in the sum.

    Args:
        shared: who sent shares; survivors: whose masked update came. before: the list under which a sum with the same
            update of this site was let go already: the difference of two such sums would be other sites' updates alone.

    Raises:
        RefusedError: FR-C77 it signed another list, or this one does not fit what it saw; FR-C78 too few are on it.
    """
    pair = tuple(sorted(shared)), tuple(sorted(survivors))
    if state.survivors and pair != (state.shared, state.survivors):
        raise _other("a second list of who stayed")
    if before is not None and tuple(sorted(before)) != pair[1]:
        raise _other("a sum of the same update with other sites")
    near, everybody = _neighbours(state, rules), set(state.notices)
    fits = state.masked and state.site in pair[1] and set(pair[1]) <= set(pair[0]) <= everybody
    if not fits or near & set(pair[0]) != set(state.partners):
        raise _other("a list that does not fit what this site was sent")
    if len(pair[1]) < rules.needed(len(everybody)):
        raise _few(f"{len(pair[1])} of {len(everybody)} sites stayed", str(rules.needed(len(everybody))))
    if not is_connected(_graph(state, rules), pair[1]):
        raise _few("sites in parts without a mask between them", "one part")
    signature = identity.sign(survivors_bytes(state.session, lot_of(state.blobs), *pair))
    return replace(state, shared=pair[0], survivors=pair[1]), signature


def reveal(
    state: SiteRound, rules: Rules, signatures: Blobs, before: Collection[str] | None = None
) -> tuple[SiteRound, dict[str, bytes]]:
    """One share of each neighbour and of this site: "seed NAME" of who stayed, "mask NAME" of who was lost.

    Args:
        before: as in `agree`; another run may have let such a sum go since this one's list was signed.

    Raises:
        RefusedError: FR-C77 it signed no list, too few others signed the same one, or `before` is another.
    """
    if not state.survivors:
        raise _other("shares before the list of who stayed")
    if before is not None and tuple(sorted(before)) != state.survivors:
        raise _other("a sum of the same update with other sites")
    text = survivors_bytes(state.session, lot_of(state.blobs), state.shared, state.survivors)
    good = [name for name in state.survivors if name in signatures and _signed(state, name, text, signatures[name])]
    if len(good) < rules.needed(len(state.notices)):
        raise _other(f"{len(good)} signatures under the list that this site signed")
    found = {}
    for name, shares in state.got.items():
        if name in state.survivors:
            found[f"{SEED} {name}"] = bytes.fromhex(shares[0])
        elif name in state.shared:
            found[f"{MASK} {name}"] = bytes.fromhex(shares[1])
    got = {name: (part[0] if name in state.survivors else "", part[1] if name not in state.survivors else "")
           for name, part in state.got.items() if name in state.shared}  # fmt: skip
    # what is left of the round gives nothing away that has not left
    return replace(state, done=True, box="", mask="", seed="", sealed={}, got=got), found


def _signed(state: SiteRound, name: str, text: bytes, signature: bytes) -> bool:
    notice = read_notice(bytes.fromhex(state.notices[name]), state.session, name)
    return PublicKey.of_text(notice.identity).holds(text, signature)


# ---------------------------------------------------------------- what both ends work out alike


def own_key(seed: bytes, salt: bytes) -> bytes:
    """Of the mask that a site puts on its own update."""
    return key_of(seed, "own mask", salt)


def pair_key(secret: bytes, one: str, other: str, salt: bytes) -> bytes:
    """Of the mask between two sites, which the one adds and the other takes away."""
    return key_of(secret, f"mask {min(one, other)}>{max(one, other)}", salt)


def sign_of(site: str, other: str) -> int:
    return 1 if site < other else -1


def _graph(state: SiteRound, rules: Rules) -> dict[str, frozenset[str]]:
    return graph_of(state.notices, rules.neighbours, lot_of(state.blobs))


def _neighbours(state: SiteRound, rules: Rules) -> frozenset[str]:
    return _graph(state, rules)[state.site] if state.notices else frozenset()


def _numbers(state: SiteRound) -> dict[str, int]:
    return numbers_of(state.notices)


def numbers_of(sites: Collection[str]) -> dict[str, int]:
    """Each site's number as a holder of shares."""
    return {name: number for number, name in enumerate(sorted(sites), 1)}


def _other(found: str) -> RefusedError:
    return RefusedError(
        "FR-C77", found, wanted="the one round that this site is in, step by step",
        do="nothing, if the coordinator was started again; if it goes on, ask who runs it why",
    )  # fmt: skip


def _few(found: str, wanted: str) -> RefusedError:
    return RefusedError(
        "FR-C78", found, wanted=f"{wanted}, as the study says", do="wait until more hospitals are there"
    )
