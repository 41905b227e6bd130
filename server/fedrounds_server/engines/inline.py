"""Engine `inline`: a Flower Grid without a network. The ServerApp and ClientApp are the unmodified ones.

Needs `flwr.supercore.task_identity`, which is private to Flower: `tests/server/test_inline.py` has
the test that fails when it moves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import final

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedrounds_common.wire import parts_of, record_of
from fedrounds_server.engines.pool import Done, Job, Pool, Ticket

SERVER_NODE = 1
FIRST_SITE_NODE = 2
FAILED = 1  # Flower's error code "unknown"; ours travels in the reason
Config = Mapping[str, str | int | float | bool]


def identify(node: int) -> None:
    """Say who sends from here: Flower's Message takes its sender from this."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, node, node


@final
class InlineGrid(Grid):
    """Messages become jobs of a pool, and their results become replies, one at a time as they are pulled."""

    waits = True  # pull_messages waits for an answer itself: there is nothing to poll

    def __init__(self, pool: Pool, sites: Sequence[str], run_config: Config) -> None:
        identify(SERVER_NODE)
        self._pool = pool
        self.names = {FIRST_SITE_NODE + index: name for index, name in enumerate(sorted(sites))}
        self.run_config = dict(run_config)
        self._sent: dict[Ticket, Message] = {}

    def set_run(self, run: Run) -> None:
        raise TypeError("an inline grid has no run of Flower's")

    @property
    def run(self) -> Run:
        raise TypeError("an inline grid has no run of Flower's")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        tickets = []
        for message in messages:
            header, buffer = parts_of(message.content)
            site = self.names[message.metadata.dst_node_id]
            scalars = {
                "header": header,
                "type": message.metadata.message_type,
                "node": message.metadata.dst_node_id,
                "node_config": {"site": site},
                "run_config": self.run_config,
            }
            ticket = self._pool.submit(Job("message", scalars, buffer, lane=site))
            self._sent[ticket] = message
            tickets.append(str(ticket))
        return tickets

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The next answer there is, whichever it is; jobs that are not of this grid must not run beside its own."""
        found = self._pool.next_done(wait_s=0.2)
        if found is None or found[0] not in self._sent:
            return []
        ticket, done = found
        asked = self._sent.pop(ticket)
        asked.metadata.__dict__["_message_id"] = str(ticket)  # a SuperLink would have numbered it
        if done.error:
            return [Message(Error(FAILED, done.error), reply_to=asked)]
        return [Message(record_of(done.scalars["header"], done.buffer), reply_to=asked)]

    def abandon(self, message_ids: Iterable[str]) -> None:
        """Stop working on these: their deadline has passed."""
        tickets = [int(message_id) for message_id in message_ids]
        self._pool.abandon(tickets)
        for ticket in tickets:
            self._sent.pop(ticket, None)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Flower's own way to ask; our rounds take each answer as it comes (`fedrounds_server.grid`)."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting and time.monotonic() < end:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        self.abandon(waiting)
        return replies


def deliver(app: ClientApp, job: Job) -> Done:
    """The other end of the grid: one message to the ClientApp, its reply as a result."""
    scalars = job.scalars
    identify(SERVER_NODE)
    message = Message(
        record_of(scalars["header"], job.buffer), dst_node_id=scalars["node"], message_type=scalars["type"]
    )
    context = Context(1, scalars["node"], dict(scalars["node_config"]), RecordDict(), dict(scalars["run_config"]))
    reply = app(message, context)
    header, buffer = parts_of(reply.content)
    return Done({"header": header}, buffer)
