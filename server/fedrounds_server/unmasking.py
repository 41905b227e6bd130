"""The coordinator's part in one round of a secure sum: it passes on what sites seal for each other, adds what they mask,
and takes the masks off the sum once the sites have agreed whose updates are in it.

Nothing is sent here and nothing written. Of each site's secrets it ever has only what that site's neighbours give out
(`fedrounds_common.masking.site`): of one that stayed its own mask, of one that was lost its masks with others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.errors import RoundError, UpdateError
from fedrounds_common.masking.graph import Graph, graph_of
from fedrounds_common.masking.keys import Notice, Pair, lot_of, read_notice
from fedrounds_common.masking.masks import U64, add_masks
from fedrounds_common.masking.shares import SHARE_BYTES, join
from fedrounds_common.masking.site import MASK, SEED, Rules, numbers_of, own_key, pair_key, sign_of

MOST_SEALED = 256  # bytes: two shares, a nonce and a tag
SIGNATURE_BYTES = 64  # of Ed25519; it goes on to every other site


@final
@dataclass
class Unmasking:
    """`session`: which round; `count`: numbers of a masked update. Each phase's answers are put in as they come."""

    rules: Rules
    session: str
    count: int
    notices: dict[str, bytes] = field(default_factory=dict)
    sealed: dict[str, dict[str, bytes]] = field(default_factory=dict)  # sender → receiver →
    survivors: set[str] = field(default_factory=set)
    signatures: dict[str, bytes] = field(default_factory=dict)
    liars: set[str] = field(default_factory=set)  # who gave false shares, where enough true ones were there
    _given: dict[str, dict[str, bytes]] = field(default_factory=dict, repr=False)  # holder → "seed NAME", "mask NAME" →
    _total: U64 | None = field(default=None, repr=False)
    _graph: Graph = field(default_factory=dict)

    # ------------------------------------------------------------ keys

    def hear(self, site: str, notice: bytes, fingerprint: str = "") -> None:
        """Take a site's notice in; with another key than all others know every one of them would refuse the round.

        Args:
            fingerprint: of the key that must have signed it; "": any.

        Raises:
            UpdateError: FR-R81 it is no notice of this site's for this round.
        """
        said = read_notice(notice, self.session, site)
        if fingerprint and said.fingerprint != fingerprint:
            raise UpdateError("FR-R81", f"a notice that {site} signed with another key", wanted=fingerprint)
        self.notices[site] = bytes(notice)

    def leave_out(self, site: str) -> None:
        """A site that is not in this round after all."""
        self.notices.pop(site, None)

    def close_keys(self) -> None:
        """From here on it is settled who may take part.

        Raises:
            RoundError: FR-R82 they are too few or too many.
        """
        if not self.rules.minimum <= len(self.notices) <= self.rules.field.sites:
            raise _thrown(f"{len(self.notices)} sites", f"{self.rules.minimum} to {self.rules.field.sites}")
        self._graph = graph_of(self.notices, self.rules.neighbours, lot_of(self.notices))

    # ------------------------------------------------------------ shares

    def take_sealed(self, site: str, sealed: Mapping[str, bytes]) -> None:
        """Raises UpdateError: FR-R81 these are not for its neighbours, each of them."""
        if set(sealed) != self._graph[site] or any(len(data) > MOST_SEALED for data in sealed.values()):
            raise UpdateError("FR-R81", f"shares for {len(sealed)} sites", wanted="one for each neighbour")
        self.sealed[site] = {name: bytes(data) for name, data in sealed.items()}

    def sealed_for(self, site: str) -> dict[str, bytes]:
        return {sender: boxes[site] for sender, boxes in sorted(self.sealed.items()) if site in boxes}

    # ------------------------------------------------------------ masked updates

    def add(self, site: str, came: NDArray[Any]) -> None:
        """Raises UpdateError: FR-R11 it is no masked update of this model."""
        if self._total is None:
            self._total = np.zeros(self.count, np.uint64)
        self.rules.field.add_packed(self._total, came)
        self.survivors.add(site)

    # ------------------------------------------------------------ who stayed

    def check_enough(self, sites: int, did: str) -> None:
        """Raises RoundError: FR-R82 so few can no longer come to a sum."""
        wanted = self.rules.needed(len(self.notices))
        if sites < wanted:
            raise _thrown(f"{sites} of {len(self.notices)} sites {did}", f"at least {wanted}")

    def sign(self, site: str, signature: bytes) -> None:
        """Raises UpdateError: FR-R81 it is no signature; whose and of what the other sites look at."""
        if len(signature) != SIGNATURE_BYTES:
            raise UpdateError("FR-R81", f"{len(signature)} bytes", wanted=f"a signature of {SIGNATURE_BYTES}")
        self.signatures[site] = bytes(signature)

    # ------------------------------------------------------------ masks off

    def take_given(self, site: str, given: Mapping[str, bytes]) -> None:
        """Raises UpdateError: FR-R81 these are not the shares of its neighbours and of itself, one each."""
        near = (self._graph[site] | {site}) & set(self.sealed)
        wanted = {f"{SEED if name in self.survivors else MASK} {name}" for name in near}
        if set(given) != wanted or any(len(data) != SHARE_BYTES for data in given.values()):
            raise UpdateError("FR-R81", f"{len(given)} shares", wanted=f"{len(wanted)}, one of each neighbour")
        self._given[site] = {name: bytes(data) for name, data in given.items()}

    def sum(self) -> NDArray[np.int64]:
        """The weight and every weighted entry of all who stayed, added; what was taken in is used up.

        Raises:
            RoundError: FR-R82 too few shares of some secret came, or they do not give it.
        """
        assert self._total is not None, "no masked update"
        salt = hashlib.sha256(self.session.encode()).digest()
        try:
            keys = [(own_key(self._secret(SEED, name), salt), -1) for name in sorted(self.survivors)]
            for name in sorted(set(self.sealed) - self.survivors):
                keys += self._left_by(name, salt)
        except UpdateError as error:
            raise _thrown(str(error), "enough true shares of every secret") from error
        total, self._total = self._total, None
        add_masks(total, keys)
        self._given.clear()
        return self.rules.field.signed(total)

    def _secret(self, which: str, name: str) -> bytes:
        """One secret of one site, held against what the site promised; with a share to spare, one false one is found."""
        word, wanted = f"{which} {name}", self.rules.holds(len(self._graph[name]) + 1)
        shares = {holder: given[word] for holder, given in sorted(self._given.items()) if word in given}
        shares = {holder: share for holder, share in shares.items() if holder not in self.liars}
        if (found := self._opened(which, name, shares, wanted)) is not None:
            return found
        for liar in list(shares)[:wanted] if len(shares) > wanted else ():
            others = {holder: share for holder, share in shares.items() if holder != liar}
            if (found := self._opened(which, name, others, wanted)) is not None:
                self.liars.add(liar)
                return found
        raise UpdateError(
            "FR-R81", f"{len(shares)} shares that do not give the {which} of {name}", wanted=f"{wanted} true ones"
        )

    def _opened(self, which: str, name: str, shares: Mapping[str, bytes], wanted: int) -> bytes | None:
        numbers = numbers_of(self.notices)
        try:
            secret = join({numbers[holder]: share for holder, share in shares.items()}, wanted)
        except UpdateError:
            return None
        notice = self._notice(name)
        public = hashlib.sha256(secret).hexdigest() if which == SEED else Pair.of(secret).public.hex()
        return secret if public == (notice.promise if which == SEED else notice.mask) else None

    def _left_by(self, name: str, salt: bytes) -> list[tuple[bytes, int]]:
        """The masks of a lost site that are still on the updates of its neighbours; each is taken off as it was put on."""
        pair = Pair.of(self._secret(MASK, name))
        found = []
        for other in sorted(self._graph[name] & self.survivors):
            secret = pair.shared(bytes.fromhex(self._notice(other).mask))
            found.append((pair_key(secret, other, name, salt), -sign_of(other, name)))
        return found

    def _notice(self, name: str) -> Notice:
        return read_notice(self.notices[name], self.session, name)


def _thrown(found: str, wanted: str) -> RoundError:
    return RoundError(
        "FR-R82", f"no sum: {found}", wanted=wanted, do="the round is thrown away, and the consensus stays as it was"
    )
