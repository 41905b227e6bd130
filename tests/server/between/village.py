"""A network of hospitals that are functions with keys of their own, under a clock that is turned by hand.

What is between them and here may change what they say; the rest is the coordinator's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Error, Message
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedrounds_common.arrays import Array, Arrays
from fedrounds_common.leaving import (
    Ask,
    Hello,
    Leaving,
    Refusal,
    Scores,
    Statistics,
    Update,
    from_wire,
    signed_bytes,
    to_wire,
)
from fedrounds_common.signing import PublicKey, SigningKey
from fedrounds_common.study.canonical import study_from_canonical
from fedrounds_common.tasks.segmentation import Segmentation
from fedrounds_common.wire import parts_of, record_of, signature_of
from fedrounds_server import history
from fedrounds_server.app import Afterwards, carry_out
from fedrounds_server.clock import Clock
from fedrounds_server.engines.inline import SERVER_NODE, identify
from fedrounds_server.folder import RunFolder
from fedrounds_server.greeting import own_versions
from fedrounds_server.keys import Keys
from fedrounds_server.plan import Plan
from fedrounds_server.release import read_model
from fedrounds_server.rounds import Outcome

CUBES = Path(__file__).parents[2] / "data" / "cubes"
START: dict[str, Array] = {"w": np.array([10.0, -1.0], np.float32), "seen": np.array(0, np.int64)}
# site → training cases, and by how much it moves the weights in a round
SITES = {"A": (1, 1.0), "B": (3, 5.0), "C": (4, -3.0), "D": (2, 2.0)}
NODES = {"A": 11, "B": 12, "C": 13, "D": 14}
KEYS = {name: SigningKey.create() for name in SITES}
COORDINATOR = SigningKey.create()

Says = Leaving | Error | None
Behaves = Callable[[str, Ask], Says]
Changes = Callable[[str, bytes, bytes], tuple[str, bytes, bytes]]  # header, buffer, signature on their way


def well(site: str, ask: Ask) -> Says:
    """What a site answers that has no trouble at all."""
    cases, moves = SITES[site]
    if ask.kind == "hello":
        return Hello(site, own_versions(), cases, 1, 0, 10, {}, ask.run, ask.nonce, ask.digest)
    if ask.kind == "score":
        study = study_from_canonical(ask.study)
        tally = Segmentation().tally((), study.cases, study.evaluation, 0)
        return Scores(site, ask.run, ask.round, ask.nonce, ask.model, ask.cohort, 1, tally, ask.digest)
    if ask.kind == "statistics":
        sums = {"sum": cases * (ask.arrays["w"].astype(np.float64) + moves / 7), "cases": np.array([float(cases)])}
        return Statistics(site, ask.run, ask.round, ask.nonce, ask.digest, ask.purpose, cases, sums)
    arrays = {"w": np.float32(moves) * np.cos(ask.arrays["w"]), "seen": np.asarray(np.int64(1))}
    return Update(site, ask.run, ask.round, ask.nonce, ask.digest, cases, 10, 0.5, 1.0, "float32", arrays)


def by_hand(sites_by_round: Iterable[str], late: Mapping[int, tuple[str, float]] | None = None) -> Array:
    """FedAvg of the sites' moves weighted by cases; `late`: round → a site's move of the round before, and its factor."""
    w = before = START["w"].astype(np.float64)
    for round_, sites in enumerate(sites_by_round, start=1):
        moves = {
            s: (SITES[s][0], (np.float32(SITES[s][1]) * np.cos(w.astype(np.float32))).astype(np.float64)) for s in sites
        }
        if late and round_ in late:
            name, factor = late[round_]
            moved = np.float32(SITES[name][1]) * np.cos(before.astype(np.float32)) * np.float32(factor)
            moves[name] = (SITES[name][0], moved.astype(np.float64))
        before = w
        total = sum(cases for cases, _ in moves.values())
        w = w.astype(np.float32).astype(np.float64) + sum(moves[s][0] * moves[s][1] for s in sorted(moves)) / total
        w = w.astype(np.float32).astype(np.float64)
    return w.astype(np.float32)


@dataclass
class Time:
    t: float = 1000.0

    def pass_(self, seconds: float) -> None:
        self.t += max(seconds, 0.001)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.t, self.pass_)


@dataclass
class Village(Grid):
    """A network of hospitals. It knows no names: who is there is seen, who they are is what they say."""

    time: Time
    behaves: Mapping[str, Behaves]
    online: Callable[[str, float], bool] = lambda site, t: True
    takes: Callable[[str, Ask], float] = lambda site, ask: 1.0  # seconds from the request to the answer
    changes: Mapping[str, Changes] = field(default_factory=dict)
    signs: bool = True
    waits: bool = True
    asked: list[tuple[str, Ask, float]] = field(default_factory=list)
    signatures: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    due: dict[str, tuple[float, Message]] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        identify(SERVER_NODE)

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [NODES[name] for name in self.behaves if self.online(name, self.time.t)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        (message,) = messages
        self.count += 1
        message.metadata.__dict__["_message_id"] = str(self.count)
        header, buffer = parts_of(message.content)
        self.signatures.append((header, buffer, signature_of(message.content)))
        ask = from_wire(header, buffer)
        assert isinstance(ask, Ask)
        name = self._name(message)
        self.asked.append((name, ask, self.time.t))
        self.due[str(self.count)] = self.time.t + self.takes(name, ask), message
        return [str(self.count)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for number in message_ids:
            if number in self.due and self.due[number][0] <= self.time.t:
                reply = self._reply(self.due.pop(number)[1])
                found += [] if reply is None else [reply]
        if not found:
            self.time.pass_(0.5)
        return found

    def _name(self, message: Message) -> str:
        return next(name for name, node in NODES.items() if node == message.metadata.dst_node_id)

    def _reply(self, message: Message) -> Message | None:
        name = self._name(message)
        if not self.online(name, self.time.t):
            return None
        ask = from_wire(*parts_of(message.content))
        assert isinstance(ask, Ask)
        said = self.behaves[name](name, ask)
        if said is None:
            return None
        if isinstance(said, Error):
            return Message(said, reply_to=message)
        header, buffer = to_wire(said)
        letter = header, buffer, KEYS[name].sign(signed_bytes(header, buffer)) if self.signs else b""
        if ask.kind in ("train", "statistics") and name in self.changes:
            letter = self.changes[name](*letter)
        return Message(record_of(*letter), reply_to=message)


@dataclass(frozen=True)
class Entry:
    key: PublicKey
    cases: int
    node_id: int | None
    revoked: bool = False


def register(**changed: Entry | None) -> dict[str, Entry]:
    found = {name: Entry(KEYS[name].public, SITES[name][0], NODES[name]) for name in "ABC"}
    found |= {name: entry for name, entry in changed.items() if entry is not None}
    return {name: entry for name, entry in found.items() if name not in changed or changed[name] is not None}


def keys(**changed: Entry | None) -> Keys:
    entries = register(**changed)
    return Keys(COORDINATOR, lambda: entries)


@dataclass
class Made:
    plan: Plan
    time: Time

    @property
    def folder(self) -> RunFolder:
        return self.plan.folder

    @property
    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.folder.status.read_text("utf-8")))

    @property
    def lines(self) -> tuple[history.RoundLine, ...]:
        return history.read(self.folder.history)

    @property
    def states(self) -> list[dict[str, str]]:
        return [{site.site: site.state for site in line.sites} for line in self.lines]

    @property
    def consensus(self) -> Arrays:
        return read_model(self.folder.consensus, START)

    def run(self, grid: Grid, **changed: Any) -> Outcome:
        return carry_out(grid, replace(self.plan, **changed), lambda grid, plan, outcome: Afterwards())

    def village(self, behaves: Mapping[str, Behaves] | None = None, sites: str = "ABC", **more: Any) -> Village:
        return Village(self.time, {**dict.fromkeys(sites, well), **(behaves or {})}, **more)


Make = Callable[..., Made]


def only(kind: str, round_: int, says: Behaves) -> Behaves:
    return lambda site, ask: says(site, ask) if (ask.kind, ask.round) == (kind, round_) else well(site, ask)


def changed(**fields: Any) -> Behaves:
    def says(site: str, ask: Ask) -> Says:
        update = well(site, ask)
        assert isinstance(update, Update)
        return replace(update, **fields)

    return says


def refusal(code: str, refused: bool = False) -> Behaves:
    return lambda site, ask: Refusal(site, ask.run, ask.round, ask.nonce, code, "0123abcdef", refused)


def trained(grid: Village, round_: int) -> list[str]:
    return sorted(name for name, ask, _ in grid.asked if (ask.kind, ask.round) == ("train", round_))


def slow(site: str, round_: int, seconds: float) -> Callable[[str, Ask], float]:
    return lambda name, ask: seconds if (name, ask.kind, ask.round) == (site, "train", round_) else 1.0


def both(*slows: Callable[[str, Ask], float]) -> Callable[[str, Ask], float]:
    return lambda name, ask: max(each(name, ask) for each in slows)


class Killed(BaseException):
    """As if by kill -9: nothing of ours catches it to tidy up."""


# ---------------------------------------------------------------- what is changed on the way


def flipped(header: str, buffer: bytes, signature: bytes) -> tuple[str, bytes, bytes]:
    return header, bytes([buffer[0] ^ 1]) + buffer[1:], signature


def signed_by(name: str) -> Changes:
    return lambda header, buffer, signature: (header, buffer, KEYS[name].sign(signed_bytes(header, buffer)))


def as_another(header: str, buffer: bytes, signature: bytes) -> tuple[str, bytes, bytes]:
    """B says it is A and signs as A, whose key it must have stolen."""
    header = json.dumps({**json.loads(header), "site": "A"}, sort_keys=True)
    return header, buffer, KEYS["A"].sign(signed_bytes(header, buffer))


def more_cases(header: str, buffer: bytes, signature: bytes) -> tuple[str, bytes, bytes]:
    return json.dumps({**json.loads(header), "cases": 3000}, sort_keys=True), buffer, signature


ATTACKS: dict[str, tuple[Changes, str]] = {
    "no signature": (lambda header, buffer, signature: (header, buffer, b""), "error:FR-R50"),
    "half a signature": (lambda header, buffer, signature: (header, buffer, signature[:32]), "error:FR-R53"),
    "one bit of the arrays": (flipped, "error:FR-R53"),
    "another number of cases": (more_cases, "error:FR-R53"),
    "another site's key": (signed_by("C"), "error:FR-R53"),
    "another's name and key": (as_another, "error:FR-R54"),
    "a name that nobody has": (
        lambda header, buffer, signature: (header.replace('"site": "B"', '"site": "Z"'), buffer, signature), "error:FR-R51",
    ),
    "no name": (lambda header, buffer, signature: ("[]", buffer, signature), "error:FR-R51"),
}  # fmt: skip
