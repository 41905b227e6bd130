"""The Grid without a network is a Grid of Flower's, and keeps its word; needs what Flower keeps private."""

from __future__ import annotations

import time

from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp

from fedrounds_common.leaving import Ask
from fedrounds_common.wire import parts_of, record_of
from fedrounds_server.engines.inline import FIRST_SITE_NODE, SERVER_NODE, InlineGrid, deliver
from fedrounds_server.engines.pool import Done, InProcess, Job, Workers, programs
from fedrounds_server.grid import Post

HANGS = """
import sys, time
from fedrounds_server.engines.pool import serve
serve(sys.stdin.buffer, sys.stdout.buffer, lambda job: time.sleep(600))
"""


def shouting() -> ClientApp:
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        header, buffer = parts_of(message.content)
        return Message(record_of(f"{header} at {context.node_config['site']}!", buffer * 2), reply_to=message)

    return app


def hello_to(node: int) -> Message:
    return Message(record_of("hello", b"ab"), dst_node_id=node, message_type=MessageType.QUERY, group_id="1")


def test_a_message_goes_to_its_site_and_the_reply_comes_from_there() -> None:
    app = shouting()
    with InProcess(lambda job: deliver(app, job)) as pool:
        grid = InlineGrid(pool, ["b", "a"], {})
        assert grid.names == {FIRST_SITE_NODE: "a", FIRST_SITE_NODE + 1: "b"}
        asked = hello_to(FIRST_SITE_NODE + 1)
        assert asked.metadata.src_node_id == SERVER_NODE
        (reply,) = grid.send_and_receive([asked])
        assert reply.metadata.src_node_id == FIRST_SITE_NODE + 1
        assert parts_of(reply.content) == ("hello at b!", b"abab")


def test_an_error_comes_as_its_code_and_nothing_more() -> None:
    with InProcess(lambda job: Done({}, b"", "FR-R02")) as pool:
        (reply,) = InlineGrid(pool, ["a"], {}).send_and_receive([hello_to(FIRST_SITE_NODE)])
        assert reply.has_error()
        assert reply.error.reason == "FR-R02"


def test_send_and_receive_ends_at_its_timeout_with_what_has_come() -> None:
    import sys

    with Workers(programs([sys.executable, "-c", HANGS]), 1) as pool:
        started = time.monotonic()
        assert list(InlineGrid(pool, ["a"], {}).send_and_receive([hello_to(FIRST_SITE_NODE)], timeout=0.5)) == []
        assert time.monotonic() - started < 20


def test_without_workers_a_deadline_gives_up_on_nobody() -> None:
    # sites are played one after another: to be late is no fault of theirs
    app = shouting()
    with InProcess(lambda job: deliver(app, job)) as pool:
        grid = InlineGrid(pool, ["a", "b", "c"], {})
        ask = Ask("hello", "run", 0, "n", "text", "d" * 64)
        found = list(Post(grid).ask(dict.fromkeys(grid.get_node_ids(), ask), deadline_s=0.0))
        # what this app answers is no message of ours, and yet it is an answer
        assert [answer.fault for answer in found] == ["FR-R10"] * 3


def test_the_scalars_of_a_job_are_plain_enough_for_a_pipe() -> None:
    import json

    sent: list[Job] = []

    def note(job: Job) -> Done:
        sent.append(job)
        return Done({}, b"", "FR-R02")

    with InProcess(note) as pool:
        InlineGrid(pool, ["a"], {"run": "x", "resume": False}).send_and_receive([hello_to(FIRST_SITE_NODE)])
    assert json.loads(json.dumps(dict(sent[0].scalars))) == sent[0].scalars
