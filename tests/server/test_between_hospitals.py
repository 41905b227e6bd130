"""Rounds over a network that is not ours: who said it, who is there, who is late, and what a crash leaves.

The hospitals are functions with keys of their own, the clock is turned by hand, the rest is the coordinator's own.
"""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedrounds_common.arrays import Array, Arrays, digest
from fedrounds_common.codecs.float32 import Float32
from fedrounds_common.disk import SystemSteps, through
from fedrounds_common.errors import RunFileError, TooFewSites, UpdateError
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
from fedrounds_common.shelves import STRATEGIES
from fedrounds_common.signing import PublicKey, SigningKey
from fedrounds_common.study.canonical import canonical_text, study_from_canonical
from fedrounds_common.study.canonical import digest as digest_of_study
from fedrounds_common.study.parse import read_study
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
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.words import withheld
from fedrounds_server.rounds import Outcome
from fedrounds_server.tables import read_metrics

CUBES = Path(__file__).parents[1] / "data" / "cubes"
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


@pytest.fixture
def made(tmp_path: Path, cubes: Callable[..., Path]) -> Make:
    def make(*overrides: str, rounds: int = 3, name: str = "0001-run", **more: Any) -> Made:
        given = ("cohort.deadline_s=30", "cohort.wait_s=600", *overrides)
        study = read_study(cubes(tmp_path / "study", rounds=rounds), given, [CUBES]).study
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        time = Time()
        more = {"keys": keys(), "clock": time.clock, **more}
        return Made(
            Plan(
                study, canonical_text(study), digest_of_study(study), folder, Segmentation(),
                STRATEGIES.load({"name": "fedavg"}), Float32(), dict(START), **more,
            ),
            time,
        )  # fmt: skip

    return make


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


# ---------------------------------------------------------------- who said it


def test_signed_or_not_the_same_sites_make_the_same_consensus(made: Make) -> None:
    signed, unsigned = made(name="signed"), made('cohort.sites=["A","B","C"]', name="unsigned", keys=None)
    signed.run(signed.village())
    unsigned.run(unsigned.village(signs=False))
    np.testing.assert_array_equal(signed.consensus["w"], by_hand(["ABC"] * 3))
    assert digest(signed.consensus) == digest(unsigned.consensus)
    assert signed.status["exit"] == 0


def test_every_request_is_signed_by_the_coordinator(made: Make) -> None:
    run = made()
    grid = run.village()
    run.run(grid)
    assert {ask.kind for _, ask, _ in grid.asked} == {"hello", "train", "score"}
    assert all(COORDINATOR.public.holds(signed_bytes(h, b), s) for h, b, s in grid.signatures)


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


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_its_site_did_not_sign_costs_that_site_and_no_other(attack: str, made: Make) -> None:
    changes, state = ATTACKS[attack]
    run = made(rounds=1)
    run.run(run.village(changes={"B": changes}))
    assert run.states == [{"A": "ok", "B": state, "C": "ok"}]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC"]))
    assert run.status["failed"] == {"B": state}


def test_a_site_whose_node_is_not_known_is_bound_by_its_key_and_the_request(made: Make) -> None:
    # without node numbers in the register A's stolen key is not seen through, and yet B cannot answer for A
    loose = {name: replace(entry, node_id=None) for name, entry in register().items()}
    run = made(rounds=1, keys=Keys(COORDINATOR, lambda: loose))
    run.run(run.village(changes={"B": as_another}))
    assert run.states == [{"A": "ok", "B": "error:FR-R17", "C": "ok"}]


def test_of_ten_thousand_changed_letters_none_is_believed() -> None:
    update = well("B", Ask("train", "run", 1, "n", "text", "d", arrays=START))
    assert isinstance(update, Update)
    header, buffer = to_wire(update)
    signature = KEYS["B"].sign(signed_bytes(header, buffer))
    guardian, draw = keys(), random.Random(1)
    assert guardian.check(header, buffer, signature, NODES["B"]) == "B"
    for _ in range(10_000):
        parts = [bytearray(header.encode()), bytearray(buffer), bytearray(signature)]
        part = draw.choice(parts)
        part[draw.randrange(len(part))] ^= 1 << draw.randrange(8)
        with pytest.raises(UpdateError, match="FR-R5[134]"):
            guardian.check(parts[0].decode("utf-8", "replace"), bytes(parts[1]), bytes(parts[2]), NODES["B"])


def test_last_rounds_signed_update_is_not_taken_again(made: Make) -> None:
    said: list[tuple[str, bytes, bytes]] = []

    def replayed(header: str, buffer: bytes, signature: bytes) -> tuple[str, bytes, bytes]:
        said.append((header, buffer, signature))
        return said[0]

    run = made(rounds=2)
    run.run(run.village(changes={"B": replayed}))
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}, {"A": "ok", "B": "error:FR-R18", "C": "ok"}]


def test_a_replayed_refusal_does_not_pass_for_one_of_this_round(made: Make) -> None:
    run = made(rounds=1)
    stale = only("train", 1, lambda site, ask: Refusal(site, ask.run, 0, "old", "FR-C02", "ab", True))
    run.run(run.village({"B": stale}))
    assert run.states == [{"A": "ok", "B": "error:FR-R18", "C": "ok"}]


def test_a_site_revoked_in_mid_run_is_out_from_its_next_answer_on(made: Make) -> None:
    entries = register()

    def revoke(site: str, ask: Ask) -> Says:
        entries["B"] = replace(entries["B"], revoked=True)
        return well(site, ask)

    run = made(keys=Keys(COORDINATOR, lambda: entries))
    grid = run.village({"A": only("train", 2, revoke)}, takes=lambda site, ask: 1.0 if site == "A" else 2.0)
    run.run(grid)
    assert [states["B"] for states in run.states] == ["ok", "error:FR-R52", "error:FR-R52"]
    assert trained(grid, 3) == ["A", "C"]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC", "AC", "AC"]))


def test_a_node_of_nobody_is_no_site_of_the_study(made: Make) -> None:
    run = made(rounds=1)
    grid = run.village(sites="ABCD")  # D has a key, and is not enrolled
    run.run(grid)
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}]
    assert trained(grid, 1) == ["A", "B", "C"]
    assert run.status["exit"] == 0


@pytest.mark.parametrize(("kind", "fields"), [("hello", {"training_cases": 500}), ("train", {"cases": 4})])
def test_no_site_weighs_more_than_it_enrolled_with(kind: str, fields: dict[str, int], made: Make) -> None:
    # B enrolled with 3 cases
    run = made("cohort.wait_s=20", rounds=1)

    def lie(site: str, ask: Ask) -> Says:
        said = well(site, ask)
        assert isinstance(said, Hello | Update)
        return replace(said, **fields)  # type: ignore[arg-type]

    run.run(run.village({"B": only(kind, 1 if kind == "train" else 0, lie)}))
    assert run.states == [{"A": "ok", "B": "error:FR-R19", "C": "ok"}]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC"]))


# ---------------------------------------------------------------- who is there


def hellos(grid: Village, site: str) -> list[tuple[Ask, float]]:
    return [(ask, at) for name, ask, at in grid.asked if name == site and ask.kind == "hello"]


def test_a_site_that_has_not_been_permitted_yet_is_asked_again_until_it_is(made: Make) -> None:
    run = made()
    allowed = run.time.t + 60

    def asks_a_person(site: str, ask: Ask) -> Says:
        return well(site, ask) if run.time.t > allowed else refusal("FR-C02", True)(site, ask)

    grid = run.village({"B": asks_a_person})
    run.run(grid)
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}] * 3
    said = hellos(grid, "B")
    gaps = [later - at for (_, at), (_, later) in pairwise(said)]
    # each answer takes a second; between one and the next request 1, 2, 4, 8 and then 10 seconds
    assert [round(gap - 1) for gap in gaps[:6]] == [1, 2, 4, 8, 10, 10]
    assert len({ask.nonce for ask, _ in said}) == len(said) > 6
    assert len(hellos(grid, "A")) == 1
    assert (run.status["exit"], run.status["failed"]) == (0, {})


def test_a_site_that_never_comes_is_waited_for_as_the_study_says_and_then_is_absent(made: Make) -> None:
    run = made("cohort.minimum=2")
    grid = run.village(online=lambda site, t: site != "B")
    run.run(grid)
    first = min(at for _, ask, at in grid.asked if ask.kind == "train")
    assert 1600 <= first < 1620  # wait_s = 600 from 1000
    assert run.states == [{"A": "ok", "B": "absent", "C": "ok"}] * 3
    assert run.status["failed"] == {"B": "absent"}


def test_fewer_than_the_minimum_when_the_wait_is_over_make_no_run(made: Make) -> None:
    run = made("cohort.minimum=3")
    with pytest.raises(TooFewSites, match=r"FR-R40 2 sites are ready to train; at least 3 .*B \(refused:FR-C02\)"):
        run.run(run.village({"B": refusal("FR-C02", True)}))
    assert 1600 <= run.time.t < 1630
    assert run.status["exit"] == 11


def test_a_site_that_joins_late_takes_part_from_then_on(made: Make) -> None:
    run = made('cohort.sites=["A","B","C"]', "cohort.wait_s=5", rounds=4)
    grid = run.village(online=lambda site, t: site != "B" or t > 1013, takes=lambda site, ask: 4.0)
    run.run(grid)
    states = [each["B"] for each in run.states]
    assert states[0] == "absent"
    assert states[-1] == "ok"
    assert states == sorted(states), "once it is there, it stays"
    joined = states.index("ok")
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC"] * joined + ["ABC"] * (4 - joined)))


def test_a_site_that_leaves_for_good_is_absent_and_nobody_waits_for_it(made: Make) -> None:
    run = made(rounds=3)
    left: list[float] = []

    def last_answer(site: str, ask: Ask) -> Says:
        left.append(run.time.t)
        return well(site, ask)

    grid = run.village(
        {"B": only("train", 1, last_answer)}, online=lambda site, t: site != "B" or not left or t < left[0]
    )
    run.run(grid)
    assert [each["B"] for each in run.states] == ["ok", "absent", "absent"]
    assert [line.seconds < 10 for line in run.lines] == [True] * 3
    assert trained(grid, 3) == ["A", "C"]


def test_a_site_that_is_slow_to_say_hello_holds_up_no_other(made: Make) -> None:
    run = made("cohort.wait_s=30", "cohort.deadline_s=900")
    grid = run.village(
        takes=lambda site, ask: 45.0 if (site, ask.kind) == ("B", "hello") else 20.0 if ask.kind == "train" else 1.0
    )
    run.run(grid)
    # greeted once; its answer came while round 1 was under way
    assert len(hellos(grid, "B")) == 1
    assert [each["B"] for each in run.states] == ["late", "ok", "ok"]


def test_without_a_list_and_without_keys_those_who_are_there_begin_once_nobody_new_comes(made: Make) -> None:
    run = made(keys=None, rounds=1)
    grid = run.village(online=lambda site, t: t >= {"A": 1000, "B": 1006, "C": 1013}[site], signs=False)
    run.run(grid)
    assert trained(grid, 1) == ["A", "B", "C"]
    assert min(at for _, ask, at in grid.asked if ask.kind == "train") < 1060


def test_another_version_is_refused_with_both_named(made: Make) -> None:
    def older(site: str, ask: Ask) -> Says:
        said = well(site, ask)
        return replace(said, versions={**own_versions(), "fedrounds": "0.0.9"}) if isinstance(said, Hello) else said

    run = made("cohort.wait_s=20", rounds=1)
    run.run(run.village({"B": older}))
    assert run.states == [{"A": "ok", "B": "error:FR-R56", "C": "ok"}]
    told = " ".join(run.status["warnings"])
    assert "B has fedrounds 0.0.9" in told
    assert f"fedrounds {own_versions()['fedrounds']}, as here" in told


def test_another_torch_is_said_and_takes_part(made: Make) -> None:
    def other(site: str, ask: Ask) -> Says:
        said = well(site, ask)
        return replace(said, versions={**own_versions(), "torch": "1.0"}) if isinstance(said, Hello) else said

    run = made(rounds=1)
    run.run(run.village({"B": other}))
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}]
    assert run.status["not_bit_exact"] == {"B": f"torch 1.0 (here {own_versions()['torch']})"}
    assert any("not bit-exact" in line for line in run.status["warnings"])


@pytest.mark.parametrize("field_", ["nonce", "run", "study"])
def test_a_hello_that_answers_something_else_is_no_hello(field_: str, made: Make) -> None:
    def stale(site: str, ask: Ask) -> Says:
        said = well(site, ask)
        return replace(said, **{field_: "old"}) if isinstance(said, Hello) else said  # type: ignore[arg-type]

    run = made("cohort.wait_s=20", rounds=1)
    run.run(run.village({"B": stale}))
    assert run.states[0]["B"] in ("error:FR-R18", "error:FR-R16")


def test_a_site_whose_answer_was_lost_says_hello_again(made: Make) -> None:
    run = made(rounds=2)
    grid = run.village({"B": only("train", 1, lambda site, ask: Error(0, "gone"))})
    run.run(grid)
    assert [each["B"] for each in run.states] == ["error:FR-R03", "ok"]
    assert len(hellos(grid, "B")) == 2


# ---------------------------------------------------------------- who is late, who is enough


def slow(site: str, round_: int, seconds: float) -> Callable[[str, Ask], float]:
    return lambda name, ask: seconds if (name, ask.kind, ask.round) == (site, "train", round_) else 1.0


def test_a_late_update_is_dropped_by_default(made: Make) -> None:
    run = made()
    run.run(run.village(takes=slow("B", 1, 32.0)))
    assert run.states == [{"A": "ok", "B": "late", "C": "ok"}, *[{"A": "ok", "B": "ok", "C": "ok"}] * 2]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC", "ABC", "ABC"]))


def both(*slows: Callable[[str, Ask], float]) -> Callable[[str, Ask], float]:
    return lambda name, ask: max(each(name, ask) for each in slows)


def test_a_late_update_stands_in_in_the_next_round_and_counts_for_less(made: Make) -> None:
    run = made('cohort.late="next"', "cohort.late_factor=0.25")
    run.run(run.village(takes=both(slow("B", 1, 40.0), slow("B", 2, 500.0))))
    assert [each["B"] for each in run.states] == ["late", "late", "ok"]
    stood_in = run.lines[1].sites[1]
    assert (stood_in.part, stood_in.cases, stood_in.bytes_up > 0) == ("round-1", 3, True)
    np.testing.assert_allclose(run.consensus["w"], by_hand(["AC", "AC", "ABC"], {2: ("B", 0.25)}), rtol=1e-6)
    assert not np.array_equal(run.consensus["w"], by_hand(["AC", "AC", "ABC"]))


def test_a_late_update_is_not_needed_where_the_site_sends_one_in_time(made: Make) -> None:
    run = made('cohort.late="next"')
    run.run(run.village(takes=slow("B", 1, 31.0)))
    assert [each["B"] for each in run.states] == ["late", "ok", "ok"]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC", "ABC", "ABC"]))


def test_a_late_update_is_checked_against_its_own_round(made: Make) -> None:
    run = made('cohort.late="next"')
    grid = run.village(
        {"B": only("train", 1, changed(nonce="another"))}, takes=both(slow("B", 1, 40.0), slow("B", 2, 500.0))
    )
    run.run(grid)
    assert run.lines[1].sites[1].part == ""
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC", "AC", "ABC"]))
    assert any("FR-R18" in line for line in run.status["warnings"])


def drawn_order(run: Made, round_: int) -> list[str]:
    from fedrounds_server.cohort import ranked

    return list(ranked("ABCD", run.plan.study.cohort, run.plan.study.seed, round_))


@pytest.fixture
def four() -> Keys:
    return keys(D=Entry(KEYS["D"].public, SITES["D"][0], NODES["D"]))


def test_spares_take_the_place_of_the_drawn_that_fail_whoever_answers_first(made: Make, four: Keys) -> None:
    found = set()
    for number, quick in enumerate("ABCD"):
        run = made("cohort.per_round=2", "cohort.over_select=0.5", rounds=1, keys=four, name=f"{number}")
        first, second, spare, idle = drawn_order(run, 1)
        grid = run.village(
            {first: only("train", 1, refusal("FR-D12"))},
            "ABCD",
            takes=lambda site, ask, q=quick: 1.0 if site == q else 3.0,
        )
        run.run(grid)
        assert trained(grid, 1) == sorted([first, second, spare])
        line = {site.site: (site.state, site.part) for site in run.lines[0].sites}
        assert line == {first: ("error:FR-D12", ""), second: ("ok", ""), spare: ("ok", ""), idle: ("absent", "idle")}
        found.add(digest(run.consensus))
    assert len(found) == 1


def test_a_spare_that_is_quicker_than_the_drawn_is_not_averaged(made: Make, four: Keys) -> None:
    run = made("cohort.per_round=2", "cohort.over_select=0.5", rounds=1, keys=four)
    first, second, spare, _ = drawn_order(run, 1)
    run.run(run.village(sites="ABCD", takes=lambda site, ask: 1.0 if site == spare else 5.0))
    np.testing.assert_array_equal(run.consensus["w"], by_hand([sorted([first, second])]))
    line = {site.site: (site.state, site.part) for site in run.lines[0].sites}
    assert line[spare] == ("ok", "spare")
    assert [site.site for site in run.lines[0].ok] == sorted([first, second])
    assert run.status["exit"] == 0


def test_a_spare_that_is_not_needed_is_not_waited_for_and_has_not_failed(made: Make, four: Keys) -> None:
    run = made("cohort.per_round=2", "cohort.over_select=0.5", rounds=1, keys=four)
    _, _, spare, _ = drawn_order(run, 1)
    run.run(run.village(sites="ABCD", takes=slow(spare, 1, 29.0)))
    assert run.lines[0].seconds < 10
    assert {site.site: (site.state, site.part) for site in run.lines[0].sites}[spare] == ("absent", "spare")
    assert (run.status["exit"], run.status["failed"]) == (0, {})


def test_without_the_largest_hospital_there_is_no_round_where_the_study_says_so(made: Make) -> None:
    # A and B have 4 of 8 cases
    run = made("cohort.minimum_cases_share=0.6", "cohort.wait_s=60")
    with pytest.raises(
        TooFewSites, match=r"FR-R55 .*round 2 stand for 4 of 8 cases; at least 60%.*missing: C \(4\).*on disk.*A, B"
    ):
        run.run(run.village({"C": only("train", 2, refusal("FR-D12"))}))
    assert len(run.states) == 1
    run.run(run.village(), resume=True)
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


def test_a_round_short_of_sites_waits_for_them_and_asks_nobody_twice(made: Make) -> None:
    run = made("cohort.minimum=3", rounds=2)
    away: list[float] = []

    def online(site: str, t: float) -> bool:
        return site != "B" or not away or not away[0] < t < away[0] + 120

    def go(site: str, ask: Ask) -> Says:
        away.append(run.time.t)
        return well(site, ask)

    grid = run.village({"A": only("train", 2, go)}, online=online, takes=slow("B", 2, 5.0))
    run.run(grid)
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}] * 2
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 2))
    asked = trained(grid, 2)
    assert (asked.count("A"), asked.count("C")) == (1, 1)


def test_who_has_not_answered_in_a_round_short_of_sites_is_not_asked_again_if_its_data_are_broken(made: Make) -> None:
    run = made("cohort.minimum=3", rounds=2)
    grid = run.village({"B": only("train", 1, refusal("FR-D12"))})
    with pytest.raises(TooFewSites):
        run.run(grid)
    assert trained(grid, 1) == ["A", "B", "C"]
    assert run.time.t < 1100


# ---------------------------------------------------------------- what a crash leaves


class NoRoom:
    """A disk that has room for small files and for no update."""

    def __init__(self) -> None:
        self.system = SystemSteps()

    def open(self, file: Path, flags: int, mode: int) -> int:
        if ".answer" in file.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return self.system.open(file, flags, mode)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.system, name)


def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(made: Make) -> None:
    run = made()
    with through(NoRoom()), pytest.raises(OSError, match="No space left"):
        run.run(run.village())
    assert (run.status["state"], run.status["exit"], run.status["code"]) == ("failed", 5, "FR-E01")
    assert "the disk is full" in run.status["message"]
    run.run(run.village(), resume=True)
    assert run.status["state"] == "done"
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


class Killed(BaseException):
    """As if by kill -9: nothing of ours catches it to tidy up."""


def kill_at(round_: int, after: int, counted: list[str]) -> Callable[[str], Behaves]:
    """Dies while reading the answer that comes when `after` were read in this round."""

    def of(site: str) -> Behaves:
        def says(name: str, ask: Ask) -> Says:
            if (ask.kind, ask.round) == ("train", round_):
                if len(counted) == after:
                    raise Killed
                counted.append(name)
            return well(name, ask)

        return says

    return of


@pytest.mark.parametrize("after", [0, 1, 2])
def test_killed_in_mid_round_it_goes_on_with_what_it_had_and_asks_only_the_others(after: int, made: Make) -> None:
    run, counted = made(), list[str]()
    dying = kill_at(2, after, counted)
    first = run.village(
        {name: dying(name) for name in "ABC"}, takes=lambda site, ask: {"A": 1.0, "B": 2.0, "C": 3.0}[site]
    )
    with pytest.raises(Killed):
        run.run(first)
    had = "ABC"[:after]
    assert sorted(file.stem for file in run.folder.updates(2).glob("*.answer")) == list(had)
    again = run.village()
    run.run(again, resume=True)
    assert trained(again, 2) == sorted(set("ABC") - set(had))
    nonces = {ask.nonce for grid in (first, again) for _, ask, _ in grid.asked if (ask.kind, ask.round) == ("train", 2)}
    assert len(nonces) == 1, "the same request, so that a site that answered already answers the same"
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}] * 3
    assert not list(run.folder.rounds.glob("*"))


def test_an_update_had_counts_though_its_site_has_left(made: Make) -> None:
    run, counted = made("cohort.minimum=3", rounds=2), list[str]()
    dying = kill_at(2, 1, counted)
    with pytest.raises(Killed):
        run.run(run.village({name: dying(name) for name in "ABC"}, takes=lambda site, ask: 1.0 if site == "A" else 2.0))
    # the minimum must be there to begin with: D stands by and A is gone
    entries = register(D=Entry(KEYS["D"].public, SITES["D"][0], NODES["D"]))
    run.run(run.village(sites="BCD"), resume=True, keys=Keys(COORDINATOR, lambda: entries))
    assert run.states[1] == {"A": "ok", "B": "ok", "C": "ok", "D": "ok"}
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC", "ABCD"]))


@pytest.mark.parametrize("harm", ["cut", "forged", "revoked", "of another round"])
def test_what_was_kept_is_checked_as_if_it_had_just_come(harm: str, made: Make) -> None:
    run, counted = made(), list[str]()
    dying = kill_at(2, 2, counted)
    with pytest.raises(Killed):
        run.run(
            run.village(
                {name: dying(name) for name in "ABC"}, takes=lambda site, ask: {"A": 1.0, "B": 2.0, "C": 3.0}[site]
            )
        )
    file = run.folder.updates(2) / "A.answer"
    changed_keys = keys()
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "forged":
        says, buffer = file.read_bytes().split(b"\n", 1)
        file.write_bytes(json.dumps(json.loads(says) | {"signature": ""}).encode() + b"\n" + buffer)
    elif harm == "revoked":
        changed_keys = keys(A=Entry(KEYS["A"].public, 1, NODES["A"], revoked=True))
    else:
        other = replace(well("A", Ask("train", "0001-run", 1, "n", "", run.plan.digest, arrays=START)), nonce="n")  # type: ignore[type-var]
        header, buffer = to_wire(other)  # type: ignore[arg-type]
        from fedrounds_server.midround import keep

        keep(file, (header, buffer, KEYS["A"].sign(signed_bytes(header, buffer))))
    again = run.village()
    run.run(again, resume=True, keys=changed_keys)
    assert any("FR-R59" in line and "A" in line for line in run.status["warnings"])
    if harm == "revoked":
        np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC", "BC", "BC"]))
    else:
        assert trained(again, 2) == ["A", "C"]
        np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


def test_a_late_update_that_was_had_stands_in_after_a_crash_too(made: Make) -> None:
    def dies(site: str, ask: Ask) -> Says:
        raise Killed

    takes = both(slow("B", 1, 40.0), slow("B", 2, 500.0), slow("C", 2, 25.0))
    whole, run = made('cohort.late="next"', name="whole", rounds=2), made('cohort.late="next"', rounds=2)
    whole.run(whole.village(takes=takes))
    with pytest.raises(Killed):
        run.run(run.village({"C": only("train", 2, dies)}, takes=takes))
    run.run(run.village({"B": only("train", 2, lambda site, ask: None)}), resume=True)
    assert run.lines[1].sites[1].part == "round-1"
    assert digest(run.consensus) == digest(whole.consensus)


def test_updates_that_do_not_fit_in_memory_are_read_from_where_they_were_kept(made: Make) -> None:
    small, large = made(name="small", update_budget_bytes=0), made(name="large")
    written: list[str] = []

    def look(event: str, facts: Mapping[str, Any]) -> None:
        if event == "site":
            written.extend(file.name for file in small.folder.rounds.glob("*/updates/*"))

    small.run(small.village(), listen=look)
    large.run(large.village())
    assert digest(small.consensus) == digest(large.consensus)
    assert set(written) == {"A.answer", "B.answer", "C.answer"}, "nothing is written twice"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_at_any_write_is_gone_on_from_to_the_same_bits(
    call: str, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(name="whole", rounds=2)
    real_fsync, real_replace = os.fsync, Path.replace
    count = [0, -1]

    def crash() -> None:
        count[0] += 1
        if count[0] == count[1]:
            raise Killed

    def fsync(handle: int) -> None:
        crash()
        real_fsync(handle)

    def replaced(self: Path, target: Path) -> Path:
        crash()
        return real_replace(self, target)

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fsync)
    else:
        monkeypatch.setattr(Path, "replace", replaced)
    whole.run(whole.village())
    wanted, writes = digest(whole.consensus), count[0]
    assert writes > 15
    for at in range(1, writes + 1):
        run = made(name=f"{at}", rounds=2)
        count[:] = [0, at]
        with pytest.raises(Killed):
            run.run(run.village())
        count[1] = -1
        run.run(run.village(), resume=True)
        assert digest(run.consensus) == wanted, f"after a crash at {call} {at}"
        assert [line.round for line in run.lines] == [1, 2]
        assert run.states == whole.states


# ---------------------------------------------------------------- checkpoints


def test_where_every_checkpoint_is_damaged_the_run_is_not_begun_anew_in_silence(made: Make) -> None:
    run = made()
    run.run(run.village())
    for file in run.folder.checkpoints.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    grid = run.village()
    with pytest.raises(RunFileError, match="FR-R57 .*3 damaged checkpoints and none that is whole, after 3 rounds"):
        run.run(grid, resume=True)
    assert trained(grid, 1) == []
    assert len(run.states) == 3, "what is known of the rounds is still there"
    run.run(grid, resume=True, anew=True)
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


def test_where_the_checkpoints_are_gone_it_is_not_either(made: Make) -> None:
    run = made()
    run.run(run.village())
    for file in run.folder.checkpoints.iterdir():
        file.unlink()
    with pytest.raises(RunFileError, match="FR-R57 .*0 damaged"):
        run.run(run.village(), resume=True)


def test_of_a_damaged_checkpoint_the_one_before_is_used_and_said(made: Make) -> None:
    run = made()
    run.run(run.village())
    newest = run.folder.checkpoints / "round-0003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    grid = run.village()
    run.run(grid, resume=True)
    assert (trained(grid, 2), trained(grid, 3)) == ([], ["A", "B", "C"])
    assert any("round-0003" in line for line in run.status["warnings"])
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


# ---------------------------------------------------------------- who is waited for


def test_status_says_who_is_waited_for_and_until_when(made: Make) -> None:
    run = made("cohort.minimum=3", 'cohort.sites=["A","B","C"]')
    seen: list[Any] = []

    def look(event: str, facts: Mapping[str, Any]) -> None:
        if event in ("waiting", "plan"):
            seen.append(run.status.get("waiting"))

    def undecided(site: str, ask: Ask) -> Says:
        return refusal("FR-C02", refused=True)(site, ask) if run.time.t < 1060 else well(site, ask)

    run.run(run.village({"B": undecided}, online=lambda site, t: site != "C" or t > 1030), listen=look)
    said = [None if each is None else each["for"] for each in seen]
    first = {"B": "has not permitted the study yet (FR-C02)", "C": "not there"}
    assert said == [first, {"B": first["B"]}, None, None]
    until = datetime.fromisoformat(seen[0]["until"])
    assert 500 < (until - datetime.now(UTC)).total_seconds() <= 600
    assert "waiting" not in run.status
    assert run.status["exit"] == 0


def test_a_run_that_nobody_joined_says_no_more_that_it_waits(made: Make) -> None:
    run = made()
    with pytest.raises(TooFewSites):
        run.run(run.village(online=lambda site, t: False))
    assert "waiting" not in run.status


# ---------------------------------------------------------------- what a site's policy withholds


def few_cases(site: str, ask: Ask) -> Says:
    return refusal("FR-C19", refused=True)(site, ask) if ask.kind == "score" else well(site, ask)


def test_a_site_that_withholds_its_scores_is_named_and_has_not_failed(made: Make) -> None:
    run = made()
    run.run(run.village({"B": few_cases}))
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}] * 3
    assert (run.status["exit"], run.status["failed"], run.status["finished"]) == (0, {}, 3)
    assert run.status["withheld"] == {"B": "too few cases"}
    assert {row.site for row in read_metrics(run.folder.metrics)} == {"A", "C", "all"}
    shown = withheld(read_run(run.folder.path, with_sites=False))
    assert shown == ("Not in the scores, by their own policy: B (withheld: too few cases).",)


def test_what_was_withheld_is_not_asked_for_again_and_still_named_after_a_crash(made: Make) -> None:
    run = made()
    run.run(run.village({"B": few_cases}))
    run.folder.status.unlink()
    grid = run.village()
    run.run(grid, resume=True)
    assert [name for name, ask, _ in grid.asked if ask.kind == "score"] == []
    assert run.status["withheld"] == {"B": "too few cases"}


def test_a_run_whose_sites_all_withhold_their_scores_has_a_consensus_and_no_table(made: Make) -> None:
    run = made()
    run.run(run.village(dict.fromkeys("ABC", few_cases)))
    assert (run.status["exit"], sorted(run.status["withheld"])) == (0, ["A", "B", "C"])
    assert read_metrics(run.folder.metrics) == ()
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


def test_too_few_cases_to_train_on_is_still_a_refusal(made: Make) -> None:
    run = made()
    run.run(run.village({"B": only("train", 2, refusal("FR-C19", refused=True))}))
    assert run.status["failed"] == {"B": "refused:FR-C19"}
    assert "withheld" not in run.status


# ---------------------------------------------------------------- statistics


@dataclass(frozen=True)
class Summed(Segmentation):
    """The weights are moved by what all sites' sums amount to, before round 1 and after the last."""

    before: Any = ("first",)
    after: Any = ("last",)

    def network(self, network: Any, form: Any) -> Any:
        return None

    def gather(self, purpose: str, network: Any, cases: Any, form: Any, training: Any) -> Any:
        return {"sum": np.zeros(2), "cases": np.zeros(1)}

    def settle(self, purpose: str, total: Any, arrays: Arrays, form: Any) -> Arrays:
        return {**arrays, "w": (total["sum"] / total["cases"]).astype(np.float32)}


def summed(sites: str, start: Array) -> Array:
    """What the sums of these sites amount to."""
    total, cases = np.zeros(2), 0
    for site in sites:
        total = total + SITES[site][0] * (start.astype(np.float64) + SITES[site][1] / 7)
        cases += SITES[site][0]
    return (total / cases).astype(np.float32)


def rounds_from(start: Array, rounds: int) -> Array:
    w = start
    for _ in range(rounds):
        step = sum(SITES[s][0] * (np.float32(SITES[s][1]) * np.cos(w)).astype(np.float64) for s in "ABC") / 8
        w = (w.astype(np.float64) + step).astype(np.float32)
    return w


def whole_run(first: str = "ABC", last: str = "ABC", rounds: int = 2) -> Array:
    return summed(last, rounds_from(summed(first, START["w"]), rounds))


@pytest.fixture
def summing(made: Make) -> Make:
    def make(*overrides: str, rounds: int = 2, **more: Any) -> Made:
        run = made(*overrides, rounds=rounds, **more)
        return Made(replace(run.plan, task=Summed()), run.time)

    return make


def asked_sums(grid: Village, purpose: str) -> list[str]:
    return sorted(name for name, ask, _ in grid.asked if ask.purpose == purpose)


def at_purpose(purpose: str, says: Behaves) -> Behaves:
    return lambda site, ask: says(site, ask) if ask.purpose == purpose else well(site, ask)


def test_sums_are_asked_of_every_training_site_signed_and_settle_the_model(summing: Make) -> None:
    run = summing()
    grid = run.village()
    run.run(grid)
    np.testing.assert_array_equal(run.consensus["w"], whole_run())
    assert asked_sums(grid, "first") == asked_sums(grid, "last") == ["A", "B", "C"]
    assert all(COORDINATOR.public.holds(signed_bytes(h, b), s) for h, b, s in grid.signatures)
    assert [(line.kind, line.round) for line in run.lines] == [
        ("statistics", 0), ("round", 1), ("round", 2), ("statistics", 2),
    ]  # fmt: skip
    assert run.status["exit"] == 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_sums_that_their_site_did_not_sign_are_not_added(attack: str, summing: Make) -> None:
    changes, state = ATTACKS[attack]
    run = summing()
    before = run.village(changes={"B": changes})
    run.run(before)
    assert run.states[0] == {"A": "ok", "B": state, "C": "ok"}
    train = next(ask for _, ask, _ in before.asked if ask.kind == "train")
    np.testing.assert_array_equal(train.arrays["w"], summed("AC", START["w"]))


def test_signed_sums_for_one_purpose_are_not_taken_for_another(summing: Make) -> None:
    said: list[tuple[str, bytes, bytes]] = []

    def replayed(header: str, buffer: bytes, signature: bytes) -> tuple[str, bytes, bytes]:
        if "statistics" in header:
            said.append((header, buffer, signature))
            return said[0]
        return header, buffer, signature

    run = summing()
    run.run(run.village(changes={"B": replayed}))
    assert [states["B"] for states in run.states] == ["ok", "ok", "ok", "error:FR-R18"]
    np.testing.assert_array_equal(run.consensus["w"], whole_run(last="AC"))


def test_no_site_claims_more_cases_for_its_sums_than_it_enrolled_with(summing: Make) -> None:
    run = summing()
    run.run(run.village({"B": at_purpose("first", lambda site, ask: replace(well(site, ask), cases=4))}))  # type: ignore[type-var]
    assert run.states[0]["B"] == "error:FR-R19"


def test_sums_short_of_sites_are_waited_for_and_nobody_is_asked_twice(summing: Make) -> None:
    run = summing("cohort.minimum=3")
    away: list[float] = []

    def online(site: str, t: float) -> bool:
        return site != "B" or not away or not away[0] < t < away[0] + 120

    def go(site: str, ask: Ask) -> Says:
        away.append(run.time.t)
        return well(site, ask)

    grid = run.village(
        {"A": at_purpose("last", go)}, online=online, takes=lambda site, ask: 5.0 if (site, ask.purpose) == ("B", "last") else 1.0,
    )  # fmt: skip
    run.run(grid)
    np.testing.assert_array_equal(run.consensus["w"], whole_run())
    asked = asked_sums(grid, "last")
    assert (asked.count("A"), asked.count("C")) == (1, 1)
    assert asked.count("B") > 1


def test_sums_past_their_deadline_count_while_the_others_are_waited_for_and_else_not(summing: Make) -> None:
    def takes(site: str, ask: Ask) -> float:
        return 40.0 if (site, ask.purpose) == ("B", "first") else 1.0

    run = summing("cohort.minimum=3")
    grid = run.village(takes=takes)
    run.run(grid)
    assert run.states[0] == {"A": "ok", "B": "ok", "C": "ok"}
    assert asked_sums(grid, "first") == ["A", "B", "C"]
    fewer = summing("cohort.minimum=2", name="fewer")
    fewer.run(fewer.village(takes=takes))
    assert fewer.states[0] == {"A": "ok", "B": "late", "C": "ok"}
    np.testing.assert_array_equal(fewer.consensus["w"], whole_run(first="AC"))
    assert fewer.status["failed"] == {"B": "late"}


def test_broken_data_are_not_waited_for_and_the_run_goes_on_once_they_are_mended(summing: Make) -> None:
    run = summing("cohort.minimum=3")
    with pytest.raises(TooFewSites, match=r"FR-R40 2 sites sent the sums for last.*B \(error:FR-D12\)"):
        run.run(run.village({"B": at_purpose("last", refusal("FR-D12"))}))
    assert run.time.t < 1200
    run.run(run.village(), resume=True)
    np.testing.assert_array_equal(run.consensus["w"], whole_run())


def test_who_withholds_its_sums_is_named_and_has_not_failed(summing: Make) -> None:
    run = summing()
    run.run(run.village({"B": at_purpose("first", refusal("FR-C19", refused=True))}))
    assert (run.status["exit"], run.status["failed"], run.status["withheld"]) == (0, {}, {"B": "too few cases"})
    np.testing.assert_array_equal(run.consensus["w"], whole_run(first="AC"))
    assert any("B withholds its sums for first" in line for line in run.status["warnings"])


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_at_any_write_of_a_run_with_sums_is_gone_on_from_to_the_same_bits(
    call: str, summing: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = summing(name="whole", rounds=1)
    real_fsync, real_replace = os.fsync, Path.replace
    count = [0, -1]

    def crash() -> None:
        count[0] += 1
        if count[0] == count[1]:
            raise Killed

    def fsync(handle: int) -> None:
        crash()
        real_fsync(handle)

    def replaced(self: Path, target: Path) -> Path:
        crash()
        return real_replace(self, target)

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fsync)
    else:
        monkeypatch.setattr(Path, "replace", replaced)
    whole.run(whole.village())
    wanted, writes = digest(whole.consensus), count[0]
    assert writes > 12
    for at in range(1, writes + 1):
        run = summing(name=f"{at}", rounds=1)
        count[:] = [0, at]
        with pytest.raises(Killed):
            run.run(run.village())
        count[1] = -1
        run.run(run.village(), resume=True)
        assert digest(run.consensus) == wanted, f"after a crash at {call} {at}"
        assert [(line.kind, line.purpose) for line in run.lines] == [
            ("statistics", "first"), ("round", ""), ("statistics", "last"),
        ]  # fmt: skip
        assert run.states == whole.states
