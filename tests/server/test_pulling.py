"""A network between us and the replies: what is wrong on our own way costs no site, what hangs costs its own alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from flwr.app import Error, Message
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedrounds_common.errors import NetworkError
from fedrounds_common.leaving import Ask, Hello
from fedrounds_common.wire import parts_of, to_record
from fedrounds_server import grid as ours
from fedrounds_server import pulling
from fedrounds_server.clock import Clock
from fedrounds_server.engines.inline import SERVER_NODE, identify
from fedrounds_server.grid import Answer, Post

ASK = Ask("hello", "run", 0, "nonce", "study", "digest")
Pulls = Callable[["Network", int, Message], "list[Message]"]  # at the n-th pull of a message


@dataclass
class Network(Grid):
    """A SuperLink whose replies come as each node's function says; `down` raises out of every call."""

    nodes: dict[int, Pulls]
    down: Callable[[str], Exception | None] = lambda call: None
    waits: bool = False
    t: float = 0.0
    pushed: list[int] = field(default_factory=list)
    sent: dict[str, Message] = field(default_factory=dict)
    pulls: dict[str, int] = field(default_factory=dict)
    away: Callable[[int, float], bool] = lambda node, t: False
    thrown: set[str] = field(default_factory=set)
    probes: int = 0

    def __post_init__(self) -> None:
        identify(SERVER_NODE)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.t, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.t += max(seconds, 0.001)

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def _up(self, call: str) -> None:
        error = self.down(call)
        if error is not None:
            raise error

    def get_node_ids(self) -> Iterable[int]:
        self.probes += 1
        self._up("nodes")
        return [node for node in self.nodes if not self.away(node, self.t)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._up("push")
        (message,) = messages
        number = str(len(self.pushed))
        self.pushed.append(message.metadata.dst_node_id)
        message.metadata.__dict__["_message_id"] = number
        self.sent[number] = message
        return [number]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._up("pull")
        found = []
        for number in message_ids:
            message = self.sent[number]
            if number in self.thrown:  # as Flower does: gone with the error that told of it
                found += reply(message, Error(3, "no such message"))
                continue
            if self.away(message.metadata.dst_node_id, self.t):
                self.thrown.add(number)
                found += reply(message, Error(ours.OFFLINE, "node is unavailable"))
                continue
            self.pulls[number] = self.pulls.get(number, 0) + 1
            found += self.nodes[message.metadata.dst_node_id](self, self.pulls[number], message)
        return found


def reply(asked: Message, content: Any = None) -> list[Message]:
    node = asked.metadata.dst_node_id
    said = content or to_record(Hello(f"s{node}", {"torch": "2"}, 5, 1, 0, 10, {}))
    answer = Message(said, reply_to=asked)
    answer.metadata.__dict__["_src_node_id"] = node
    return [answer]


def well(network: Network, pull: int, asked: Message) -> list[Message]:
    return reply(asked)


def silent(network: Network, pull: int, asked: Message) -> list[Message]:
    return []


def after(seconds: float) -> Pulls:
    return lambda network, pull, asked: reply(asked) if network.t >= seconds else []


def faults(network: Network, deadline_s: float | None = 60.0) -> dict[int, str]:
    found = list(Post(network, network.clock).ask(dict.fromkeys(network.nodes, ASK), deadline_s))
    assert sorted(answer.node for answer in found) == sorted(network.nodes), "every node exactly once"
    return {answer.node: answer.fault for answer in found}


# ---------------------------------------------------------------- our own side fails


def server_error(status: int) -> Exception:
    request = httpx.Request("POST", "https://127.0.0.1/")
    return httpx.HTTPStatusError(str(status), request=request, response=httpx.Response(status, request=request))


OURS = {
    "refused": ConnectionRefusedError("refused"),
    "reset": ConnectionResetError("reset"),
    "timed out": TimeoutError("timed out"),
    "Flower's client": httpx.ConnectError("All connection attempts failed"),
    "busy": server_error(503),
}


@pytest.mark.parametrize("call", ["push", "pull"])
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("waits", [True, False], ids=["a grid that waits", "a grid that is polled"])
def test_one_error_on_our_own_way_costs_no_site(waits: bool, kind: str, call: str) -> None:
    left = {call: 3}

    def down(now: str) -> Exception | None:
        left[now] = left.get(now, 0) - 1
        return OURS[kind] if left[now] >= 0 else None

    assert faults(Network({2: well, 3: well, 4: well}, down, waits)) == {2: "", 3: "", 4: ""}


def test_a_superlink_that_restarts_for_minutes_costs_no_site_though_the_deadline_passes() -> None:
    network = Network({2: after(5), 3: after(200)})
    network.down = lambda call: ConnectionRefusedError() if 10 < network.t < 190 else None
    assert faults(network, deadline_s=60.0) == {2: "", 3: ""}
    assert network.t < 300


def test_after_an_outage_at_the_deadline_sites_have_a_moment_to_come_back_and_no_more() -> None:
    network = Network({2: after(5), 3: silent})
    network.down = lambda call: ConnectionRefusedError() if 10 < network.t < 190 else None
    assert faults(network, deadline_s=60.0) == {2: "", 3: "late"}
    assert 190 + ours.GRACE_S <= network.t < 190 + ours.GRACE_S + 30


def test_a_superlink_that_never_comes_back_ends_the_run_and_blames_nobody() -> None:
    network = Network({2: well}, lambda call: ConnectionRefusedError() if call == "push" else None)
    with pytest.raises(NetworkError, match="FR-R58 the SuperLink was away for 60 minutes"):
        faults(network)
    assert network.t >= pulling.OUTAGE_S


def test_an_error_that_is_not_the_network_is_raised_where_it_is_ours_and_costs_its_peer_where_it_is_not() -> None:
    def broken(network: Network, pull: int, asked: Message) -> list[Message]:
        raise ValueError("head and body could not be split")

    assert faults(Network({2: well, 3: broken, 4: well})) == {2: "", 3: "FR-R03", 4: ""}
    with pytest.raises(ValueError, match="head and body"):
        faults(Network({2: well, 3: broken, 4: well}, waits=True))


@pytest.mark.parametrize("status", [413, 404])
def test_an_answer_that_the_superlink_will_not_hand_out_costs_its_site(status: int) -> None:
    def refused(network: Network, pull: int, asked: Message) -> list[Message]:
        raise server_error(status)

    assert faults(Network({2: well, 3: refused})) == {2: "", 3: "FR-R03"}


def test_flowers_word_that_the_run_was_stopped_is_not_swallowed() -> None:
    class RunNotRunningException(BaseException):
        pass

    def stopped(network: Network, pull: int, asked: Message) -> list[Message]:
        raise RunNotRunningException

    with pytest.raises(RunNotRunningException):
        faults(Network({2: stopped}))


# ---------------------------------------------------------------- replies that were lost on the way


@pytest.mark.parametrize("waits", [True, False], ids=["a grid that waits", "a grid that is polled"])
def test_a_reply_that_a_failed_pull_used_up_is_asked_for_again_and_counts_once(waits: bool) -> None:
    def used_up(network: Network, pull: int, asked: Message) -> list[Message]:
        if asked.metadata.message_id == "0":
            if pull == 1:
                raise ConnectionResetError("after the SuperLink had marked it as delivered")
            return []
        return reply(asked)

    network = Network({2: used_up, 3: well}, waits=waits)
    assert faults(network) == {2: "", 3: ""}
    assert network.pushed.count(2) == 2


def test_of_two_answers_to_one_request_the_second_is_nobodys() -> None:
    def doubtful(network: Network, pull: int, asked: Message) -> list[Message]:
        if asked.metadata.message_id == "0" and pull == 1:
            raise ConnectionResetError
        return reply(asked) if network.t > 5 else []

    network = Network({2: doubtful, 3: after(30)})
    post = Post(network, network.clock)
    found = list(post.ask(dict.fromkeys(network.nodes, ASK), 60.0))
    assert [answer.node for answer in found] == [2, 3]
    assert post.strays == []
    assert not post.waits_for(2, "hello")


def test_a_node_that_drops_off_the_network_for_a_minute_is_asked_the_same_again_when_it_is_back() -> None:
    network = Network({2: well, 3: after(90)}, away=lambda node, t: node == 3 and 20 < t < 80)
    assert faults(network, deadline_s=300.0) == {2: "", 3: ""}
    assert network.pushed.count(3) == 2, "Flower threw the first away when it said that the node is offline"
    assert network.t < 92 + ours.LOOK_S
    first, second = (message.content for message in network.sent.values() if message.metadata.dst_node_id == 3)
    assert parts_of(first) == parts_of(second), "with the same nonce: the site sends what it has answered already"


def test_a_node_that_goes_away_again_and_again_is_asked_each_time_it_is_back() -> None:
    network = Network({2: well, 3: after(200)}, away=lambda node, t: node == 3 and t % 20 > 10)
    assert faults(network, deadline_s=300.0) == {2: "", 3: ""}
    assert network.t < 215


def test_a_node_that_does_not_come_back_has_left() -> None:
    network = Network({2: well, 3: well}, away=lambda node, t: node == 3)
    assert faults(network, deadline_s=None) == {2: "", 3: "absent"}
    assert ours.GONE_S < network.t < ours.GONE_S + 10
    assert network.pushed.count(3) == 1


def test_a_process_that_dies_at_a_site_is_started_once_or_twice_more_in_the_same_round() -> None:
    def dies(times: int) -> Pulls:
        def pulls(network: Network, pull: int, asked: Message) -> list[Message]:
            so_far = network.pushed.count(asked.metadata.dst_node_id)
            return reply(asked, Error(ours.CRASHED, "ClientApp process crashed")) if so_far <= times else reply(asked)

        return pulls

    network = Network({2: well, 3: dies(2), 4: dies(99)})
    assert faults(network) == {2: "", 3: "", 4: "FR-R03"}
    assert (network.pushed.count(3), network.pushed.count(4)) == (3, 3)


# ---------------------------------------------------------------- replies that hang


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "PATIENCE_S", 0.2)
    monkeypatch.setattr(ours, "LEAST_S", 0.05)
    monkeypatch.setattr(pulling, "PATIENCE_S", 0.2)


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()  # nothing of a test may hang on after it


@pytest.mark.usefixtures("impatient")
def test_a_reply_announced_and_never_uploaded_holds_back_no_other(released: threading.Event) -> None:
    def hangs(network: Network, pull: int, asked: Message) -> list[Message]:
        released.wait()
        return []

    network = Network({2: hangs, 3: well, 4: after(20), 5: hangs})
    order = [(a.node, a.fault) for a in Post(network, network.clock).ask(dict.fromkeys(network.nodes, ASK), 60.0)]
    assert order == [(3, ""), (4, ""), (2, "late"), (5, "late")]
    assert network.t < 70, "and its own deadline holds for it"
    assert network.pulls["0"] == 1, "it is not pulled a second time beside itself"


@pytest.mark.usefixtures("impatient")
def test_a_reply_that_takes_long_to_pull_is_taken_when_it_is_there(released: threading.Event) -> None:
    def large(network: Network, pull: int, asked: Message) -> list[Message]:
        released.wait()
        return reply(asked)

    def last(network: Network, pull: int, asked: Message) -> list[Message]:
        if network.t > 10:
            released.set()
        return reply(asked) if network.t > 20 else []

    def sleep(seconds: float) -> None:
        network.clock.sleep(seconds)
        if released.is_set():
            threading.Event().wait(0.02)  # the clock is turned by hand; the thread that was let go is real

    network = Network({2: large, 3: last})
    found = Post(network, Clock(network.clock.now, sleep)).ask(dict.fromkeys(network.nodes, ASK), 60.0)
    assert {answer.node: answer.fault for answer in found} == {2: "", 3: ""}


@pytest.mark.usefixtures("impatient")
def test_where_every_pull_hangs_because_the_superlink_does_the_deadline_waits_too(
    released: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ours, "POLL_S", 5.0)

    # as Flower's own grid does it: its calls do not fail, they block until the SuperLink is back
    def blocked(network: Network, pull: int, asked: Message) -> list[Message]:
        released.wait()
        return reply(asked)

    network = Network({2: blocked, 3: blocked})

    def down(call: str) -> Exception | None:
        if call == "nodes":
            released.wait()
        return None

    def time() -> float:
        if network.t > 60:
            released.set()
        return network.t

    def sleep(seconds: float) -> None:
        network._sleep(seconds)
        threading.Event().wait(0.001)  # the clock is turned by hand; the threads that were let go are real

    network.down = down
    found = list(Post(network, Clock(time, sleep)).ask(dict.fromkeys(network.nodes, ASK), 10.0))
    assert {answer.node: answer.fault for answer in found} == {2: "", 3: ""}
    assert network.probes == 1, "one call is left hanging, not one a moment"


def test_replies_are_held_one_at_a_time() -> None:
    network = Network(dict.fromkeys(range(2, 40), well))
    answers = Post(network, network.clock).ask(dict.fromkeys(network.nodes, ASK), 60.0)
    seen = [sum(network.pulls.values()) for _ in answers]
    assert seen == list(range(1, 39)), "the next is pulled when the one before was read"


# ---------------------------------------------------------------- time


def test_no_message_outlives_flower_and_none_is_too_short_for_a_clock_that_is_ahead() -> None:
    network = Network({2: well})
    for deadline in (None, 5.0, 20 * 3600.0):
        list(Post(network, network.clock).ask({2: ASK}, deadline))
    found = [message.metadata.ttl for message in network.sent.values()]
    assert found[:2] == [ours.TTL_S, ours.TTL_S]
    assert found[2] > 20 * 3600


def test_a_network_is_not_waited_for_longer_than_flower_keeps_a_message() -> None:
    network = Network({2: silent})
    ours_before = ours.POLL_S
    try:
        ours.POLL_S = 300.0
        assert faults(network, deadline_s=None) == {2: "late"}
    finally:
        ours.POLL_S = ours_before
    assert ours.LIMIT_S <= network.t < ours.TTL_S


def test_what_comes_after_its_deadline_is_a_stray_if_it_was_kept_and_nothing_else() -> None:
    for keep, count in ((True, 1), (False, 0)):
        network = Network({2: well, 3: after(80)})
        post = Post(network, network.clock)
        states = {a.node: a.fault for a in post.ask(dict.fromkeys(network.nodes, ASK), 60.0, keep)}
        assert states == {2: "", 3: "late"}
        post.wait(60.0)
        strays: list[Answer] = post.take_strays("hello")
        assert [answer.node for answer in strays] == [3] * count
        assert post.take_strays("hello") == []
