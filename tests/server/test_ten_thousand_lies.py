"""Ten thousand updates that the site did not make for this round: forged, changed by a bit, or sent again. None counts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from fedrounds_common.codecs.float32 import Float32
from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import Ask, Update, from_wire, signed_bytes, to_wire
from fedrounds_common.signing import PublicKey, SigningKey
from fedrounds_server.guard import Guard
from fedrounds_server.keys import Keys

TRIES = 10_000
MODEL = {"w": np.linspace(-1, 1, 64, dtype=np.float32), "seen": np.array(3, np.int64)}
ASK = Ask("train", "0001-run", 500, "nonce-500", "text", "d" * 64, arrays=MODEL)
Signed = tuple[str, bytes, bytes]


@dataclass(frozen=True)
class Entry:
    key: PublicKey
    cases: int
    node_id: int | None
    revoked: bool = False


OWN = {name: SigningKey.create() for name in ("A", "B")}
KEYS = Keys(SigningKey.create(), lambda: {n: Entry(key.public, 20, i) for i, (n, key) in enumerate(OWN.items())})


def made(draw: random.Random, ask: Ask = ASK, site: str = "A") -> Update:
    arrays = {"w": np.full(64, draw.random(), np.float32), "seen": np.array(1, np.int64)}
    return Update(site, ask.run, ask.round, ask.nonce, ask.digest, 12, 4, 0.5, 1.0, "float32", arrays)


def signed(update: Update, key: SigningKey) -> Signed:
    header, buffer = to_wire(update)
    return header, buffer, key.sign(signed_bytes(header, buffer))


def received(message: Signed, guard: Guard, site: str = "A") -> str:
    """As the coordinator takes an answer: whose it is, then whether it is fit; the code of what was in the way, or ""."""
    header, buffer, signature = message
    try:
        who = KEYS.check(header, buffer, signature, {"A": 0, "B": 1}[site])
        answer = from_wire(header, buffer)
        assert isinstance(answer, Update)
        guard.admit(answer, ASK, who)
    except UpdateError as error:
        return error.code
    return ""


def forged(draw: random.Random) -> Signed:
    """A good update in A's name, signed with what others have: another's key, a new one, noise, another update's."""
    header, buffer = to_wire(made(draw))
    other = signed(made(draw), OWN["A"])[2]
    text = signed_bytes(header, buffer)
    return header, buffer, draw.choice(
        [OWN["B"].sign(text), SigningKey.create().sign(text), draw.randbytes(64), draw.randbytes(draw.randrange(200)), other, b""]
    )  # fmt: skip


def flipped(draw: random.Random) -> Signed:
    """A's own update of this round, one bit changed on its way."""
    header, buffer, signature = signed(made(draw), OWN["A"])
    parts = [bytearray(header.encode()), bytearray(buffer), bytearray(signature)]
    part = draw.choice(parts)
    part[draw.randrange(len(part))] ^= 1 << draw.randrange(8)
    return parts[0].decode("utf-8", "replace"), bytes(parts[1]), bytes(parts[2])


def replayed(draw: random.Random) -> Signed:
    """A's own and rightly signed, of another round, run or request."""
    before = draw.randrange(1, 500)
    ask = draw.choice(
        [replace(ASK, round=before, nonce=f"nonce-{before}"), replace(ASK, nonce=f"nonce-{before}"),
         replace(ASK, run="0002-run"), replace(ASK, digest="e" * 64)]
    )  # fmt: skip
    return signed(made(draw, ask), OWN["A"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lie", "codes"),
    [(forged, {"FR-R50", "FR-R53"}), (flipped, {"FR-R51", "FR-R53"}), (replayed, {"FR-R16", "FR-R18"})],
)
def test_of_ten_thousand_lies_none_counts_and_each_is_named(
    lie: Callable[[random.Random], Signed], codes: set[str]
) -> None:
    draw = random.Random(20261120)
    guard = Guard({"A": 20, "B": 20}, 1e4, Float32())
    said = Counter(received(lie(draw), guard) for _ in range(TRIES))
    assert set(said) == codes
    assert guard.norms == {}  # nothing was admitted on the way
    # and none of them has used up the turn of the site itself
    honest = signed(made(draw), OWN["A"])
    assert received(honest, guard) == ""
    assert received(honest, guard) == "FR-R18"
