"""Every node that is asked is answered for exactly once, by itself, whatever it or the grid does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedrounds_common.leaving import Ask, Hello, Refusal, Update, to_wire
from fedrounds_common.wire import record_of, to_record
from fedrounds_server import grid as ours
from fedrounds_server.engines.inline import SERVER_NODE, identify
from fedrounds_server.grid import Answer, Post

Comes = Callable[[Message], Any]  # what arrives at one pull: a reply, several, or an exception of Flower's
ASK = Ask("hello", "run", 0, "nonce", "study", "digest")


@dataclass
class Scripted(Grid):
    """A Grid whose nodes answer as a script says: one entry a pull, None while nothing has come."""

    script: Mapping[int, Sequence[Comes | None]]
    waits: bool = False
    pushed_as: Callable[[int], Any] = str  # node → what the grid says of a message it pushed
    abandoned: list[str] = field(default_factory=list)
    pulled: list[list[str]] = field(default_factory=list)
    sent: dict[str, Message] = field(default_factory=dict)
    left: dict[int, deque[Comes | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        identify(SERVER_NODE)
        self.left = {node: deque(entries) for node, entries in self.script.items()}

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
        return list(self.script)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        (message,) = messages
        node = message.metadata.dst_node_id
        found = self.pushed_as(node)
        if found is None or found == []:
            return [] if found == [] else [found]
        message.metadata.__dict__["_message_id"] = found
        self.sent[found] = message
        return [found]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found: list[Message] = []
        self.pulled.append(list(message_ids))
        for message_id in self.pulled[-1]:
            asked = self.sent[message_id]
            waiting = self.left[asked.metadata.dst_node_id]
            comes = waiting.popleft() if waiting else None
            if comes is not None:
                made = comes(asked)
                if isinstance(made, Exception):
                    raise made
                found += made if isinstance(made, list) else [made]
        return found

    def abandon(self, message_ids: Iterable[str]) -> None:
        self.abandoned += message_ids


def said_by(node: int, content: Any, asked: Message) -> Message:
    reply = Message(content, reply_to=asked)
    reply.metadata.__dict__["_src_node_id"] = node
    return reply


def says(content: Any, node: int | None = None) -> Comes:
    return lambda asked: said_by(node or asked.metadata.dst_node_id, content, asked)


def hello(name: str) -> Hello:
    return Hello(name, {"torch": "2"}, 5, 1, 0, 10, {})


def good(name: str) -> Comes:
    return says(to_record(hello(name)))


def forged(asked: Message) -> Message:
    """A reply that says it answers what another node was asked."""
    reply = said_by(asked.metadata.dst_node_id, to_record(hello("x")), asked)
    reply.metadata.__dict__["_reply_to_message_id"] = "2"
    return reply


@pytest.fixture(params=[True, False], ids=["a grid that waits", "a grid that is polled"])
def waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(ours, "POLL_S", 0.0)
    return bool(request.param)


def answers(grid: Scripted, deadline_s: float | None = None) -> dict[int, Answer]:
    found = list(Post(grid).ask(dict.fromkeys(grid.script, ASK), deadline_s))
    assert sorted(answer.node for answer in found) == sorted(grid.script), "every node exactly once"
    return {answer.node: answer for answer in found}


def test_answers_come_in_the_order_they_arrive(waits: bool) -> None:
    grid = Scripted({2: [None, None, good("a")], 3: [good("b")], 4: [None, good("c")]}, waits)
    found = list(Post(grid).ask(dict.fromkeys(grid.script, ASK), None))
    assert [answer.node for answer in found] == [3, 4, 2]
    assert [answer.leaving.site for answer in found if isinstance(answer.leaving, Hello)] == ["b", "c", "a"]
    assert [answer.fault for answer in found] == ["", "", ""]
    assert grid.abandoned == []


def test_an_answer_counts_its_bytes() -> None:
    update = Update("a", "run", 1, "n", "d", 3, 5, 0.1, 1.0, "float32", {"w": np.zeros(100, np.float32)})
    header, buffer = to_wire(update)
    found = answers(Scripted({2: [says(record_of(header, buffer))]}, waits=True))
    assert found[2].bytes_up == len(header.encode()) + len(buffer)
    assert len(buffer) == 400


ODD: dict[str, tuple[Comes, str, str]] = {
    "an error with one of our codes": (says(Error(1, "FR-D12")), "FR-D12", "error:FR-D12"),
    "an error with text around a code": (
        says(Error(1, "<class 'X'>:<'FR-D12 /pacs/DOE^JANE_1961: cut off'>")), "FR-D12", "error:FR-D12",
    ),
    "an error that only begins like a code": (says(Error(1, "FR-/pacs/DOE^JANE")), "FR-R03", "error:FR-R03"),
    "an error of Flower's": (says(Error(3, "node is unavailable")), "FR-R03", "error:FR-R03"),
    "an error without a reason": (says(Error(0)), "FR-R03", "error:FR-R03"),
    "another node's answer": (says(to_record(hello("x")), node=77), "FR-R17", "error:FR-R17"),
    "an empty record": (says(RecordDict()), "FR-R10", "error:FR-R10"),
    "a record of something else": (says(RecordDict({"fedrounds": ConfigRecord({"header": 5})})), "FR-R10", "error:FR-R10"),
    "a header that is no JSON": (says(record_of("{", b"")), "FR-R10", "error:FR-R10"),
    "a request": (says(to_record(ASK)), "FR-R10", "error:FR-R10"),
    "a refusal": (says(to_record(Refusal("x", "run", 0, "n", "FR-C02", "ab12", refused=True))), "refused:FR-C02", "refused:FR-C02"),
    "a failure": (says(to_record(Refusal("x", "run", 0, "n", "FR-D12", "ab12"))), "error:FR-D12", "error:FR-D12"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_answer_costs_its_own_node_and_no_other(kind: str, waits: bool) -> None:
    comes, fault, state = ODD[kind]
    found = answers(Scripted({2: [good("a")], 3: [comes], 4: [None, good("c")]}, waits))
    assert (found[3].fault, found[3].state) == (fault, state)
    assert [answer.fault for node, answer in found.items() if node != 3] == ["", ""]
    assert "DOE^JANE" not in repr(found[3])


def test_a_refusal_brings_its_reference() -> None:
    comes, _, _ = ODD["a refusal"]
    found = answers(Scripted({2: [comes]}, waits=True))
    assert found[2].reference == "ab12"
    assert isinstance(found[2].leaving, Refusal)


def test_who_has_not_answered_by_the_deadline_is_late_and_given_up(waits: bool) -> None:
    grid = Scripted({2: [good("a")], 3: [], 4: [None] * 10**6}, waits)
    found = answers(grid, deadline_s=0.0)
    assert {node: answer.fault for node, answer in found.items()} == {2: "", 3: "late", 4: "late"}
    assert found[3].state == "late"
    assert sorted(grid.abandoned) == ["3", "4"]


def test_without_a_deadline_a_slow_node_is_waited_for(waits: bool) -> None:
    assert answers(Scripted({2: [None] * 50 + [good("a")]}, waits))[2].fault == ""


def test_two_replies_to_one_request_are_one_answer(waits: bool) -> None:
    def twice(asked: Message) -> list[Message]:
        return [good("first")(asked), good("second")(asked)]

    found = answers(Scripted({2: [twice], 3: [None, None, good("c")]}, waits))
    assert isinstance(found[2].leaving, Hello)
    assert found[2].leaving.site == "first"


def test_a_node_cannot_answer_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "POLL_S", 0.0)
    # node 3 claims to answer what node 2 was asked; node 2 itself answers later
    found = answers(Scripted({2: [None, good("a")], 3: [forged]}))
    assert (found[2].fault, found[3].fault) == ("", "FR-R17")


def test_what_a_peer_makes_flower_raise_costs_that_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "POLL_S", 0.0)
    boom = ValueError("object tree incomplete")
    found = answers(Scripted({2: [good("a")], 3: [lambda asked: boom], 4: [None, good("c")]}))
    assert {node: answer.fault for node, answer in found.items()} == {2: "", 3: "FR-R03", 4: ""}


@pytest.mark.parametrize("nothing", [None, []], ids=["no number", "nothing"])
def test_a_message_that_could_not_be_sent_is_an_answer_lost(nothing: Any, waits: bool) -> None:
    # Flower answers a push with None for a message it could not take, and with nothing for one too large
    grid = Scripted(
        {2: [good("a")], 3: [], 4: [], 5: [good("d")]}, waits, lambda node: nothing if node in (3, 4) else str(node)
    )
    found = answers(grid)
    assert {node: answer.fault for node, answer in found.items()} == {2: "", 3: "FR-R03", 4: "FR-R03", 5: ""}


def test_a_network_is_asked_for_one_reply_at_a_time_and_our_own_grid_for_all() -> None:
    polled = Scripted({2: [good("a")], 3: [good("b")]})
    answers(polled)
    assert polled.pulled == [["2"], ["3"]]
    waiting = Scripted({2: [good("a")], 3: [None, good("b")]}, waits=True)
    answers(waiting)
    assert waiting.pulled == [["2", "3"], ["3"]]


def test_nobody_to_ask_is_no_answer() -> None:
    assert list(Post(Scripted({})).ask({}, None)) == []


def test_each_node_may_be_asked_something_else() -> None:
    seen: dict[int, str] = {}

    def note(asked: Message) -> Message:
        header = asked.content["fedrounds"]["header"]
        seen[asked.metadata.dst_node_id] = f"{asked.metadata.message_type} {header}"
        return good("x")(asked)

    grid = Scripted({2: [note], 3: [note], 4: [note]}, waits=True)
    asks = {2: ASK, 3: Ask("train", "run", 1, "n", "s", "d"), 4: Ask("score", "run", 1, "n", "s", "d")}
    assert len(list(Post(grid).ask(asks, None))) == 3
    assert [seen[node].split()[0] for node in (2, 3, 4)] == ["query", "train", "evaluate"]
    assert '"kind": "train"' in seen[3]
