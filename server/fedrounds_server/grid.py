"""Our own layer over a Flower Grid: ask every node, take each answer by itself, by a deadline of its own.

Flower's `send_and_receive` keeps every reply until the last is there and lets one odd reply end the
round. Here each answer is read alone, as it comes, and whatever is odd costs only the site it came from.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedrounds_common.errors import CODE, UpdateError
from fedrounds_common.leaving import Ask, Leaving, Refusal
from fedrounds_common.wire import from_record, parts_of, to_record

TYPES = {"hello": MessageType.QUERY, "train": MessageType.TRAIN, "score": MessageType.EVALUATE}
POLL_S = 0.5
LATE, LOST, FORGED = "late", "FR-R03", "FR-R17"


@final
@dataclass(frozen=True)
class Answer:
    """What one node did: a message of ours, or `fault` = "late" or the code of what was odd."""

    node: int
    leaving: Leaving | None
    fault: str = ""
    reference: str = ""
    bytes_up: int = 0

    @property
    def state(self) -> str:
        """As the history says it: "late", "error:CODE" or "refused:CODE"; a message of the wrong kind is an error."""
        fault = self.fault or "FR-R10"
        return f"error:{fault}" if fault.startswith("FR-") else fault


def ask_nodes(grid: Grid, asks: Mapping[int, Ask], deadline_s: float | None = None) -> Iterator[Answer]:
    """Send each node its request and yield the answers as they come; every node is yielded exactly once.

    Args:
        asks: node → request. Nodes that share one Ask object share its bytes too.
        deadline_s: seconds from now; whoever has not answered then is yielded as late.
    """
    records = {id(ask): to_record(ask) for ask in asks.values()}
    waiting: dict[str, int] = {}
    for node, ask in asks.items():
        message = Message(records[id(ask)], dst_node_id=node, message_type=TYPES[ask.kind], group_id=str(ask.round))
        # a message that was not taken has no number: Flower answers None, or nothing for one too large
        message_id = next(iter(grid.push_messages([message])), None)
        if message_id is None:
            yield Answer(node, None, LOST)
        else:
            waiting[message_id] = node
    records.clear()
    end = None if deadline_s is None else time.monotonic() + deadline_s
    while waiting:
        came = list(_pull(grid, waiting))
        for message_id, answer in came:
            if waiting.pop(message_id, None) is not None:
                yield answer
        # not while answers lie there: they may have come in time, while the one before was being read
        if end is not None and time.monotonic() > end and not came:
            break
        if not came and not getattr(grid, "waits", False):
            time.sleep(POLL_S)
    if waiting and hasattr(grid, "abandon"):
        grid.abandon(list(waiting))
    for node in waiting.values():
        yield Answer(node, None, LATE)


def _pull(grid: Grid, waiting: Mapping[str, int]) -> Iterator[tuple[str, Answer]]:
    """What has come. A network grid is asked for one reply at a time: it pulls several together, and
    one that is half uploaded would hold back all of them."""
    alone = not getattr(grid, "waits", False)
    groups = [[message_id] for message_id in waiting] if alone else [list(waiting)]
    for group in groups:
        try:
            replies = list(grid.pull_messages(group))
        except Exception:
            if not alone:  # no peer is behind this: the machine has run out of workers
                raise
            # whatever a peer managed to make Flower raise, it is this peer's answer that is lost
            yield group[0], Answer(waiting[group[0]], None, LOST)
            continue
        for reply in replies:
            message_id = reply.metadata.reply_to_message_id
            if alone and message_id != group[0]:
                # what came for this node says it answers another's request: that other one has not answered yet
                yield group[0], Answer(waiting[group[0]], None, FORGED)
            elif message_id in waiting:
                yield message_id, _read(reply, waiting[message_id])


def _read(reply: Message, node: int) -> Answer:
    if reply.has_error():
        code = CODE.search(reply.error.reason or "")  # and nothing of the text around it
        return Answer(node, None, code[0] if code else LOST)
    if reply.metadata.src_node_id != node:
        return Answer(node, None, FORGED)
    try:
        header, buffer = parts_of(reply.content)
        leaving = from_record(reply.content)
    except UpdateError as error:
        return Answer(node, None, error.code)
    size = len(header.encode()) + len(buffer)
    if isinstance(leaving, Ask):
        return Answer(node, None, "FR-R10", bytes_up=size)
    if isinstance(leaving, Refusal):
        kind = "refused" if leaving.refused else "error"
        return Answer(node, leaving, f"{kind}:{leaving.code}", leaving.reference, size)
    return Answer(node, leaving, bytes_up=size)
