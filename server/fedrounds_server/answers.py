"""One reply of a node, read: verified first, and whatever is odd about it costs this node only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from flwr.app import Message

from fedrounds_common.errors import CODE, UpdateError
from fedrounds_common.leaving import Ask, Leaving, Refusal, from_wire
from fedrounds_common.letter import Letter
from fedrounds_common.wire import parts_of, signature_of
from fedrounds_server.keys import Keys

LATE, ABSENT, LOST, FORGED = "late", "absent", "FR-R03", "FR-R17"
NOT_HELD = "error:FR-R70"  # the site lacks what it was sent a difference from


@final
@dataclass(frozen=True)
class Answer:
    """What one node did: a message of ours, or `fault` = "late", "absent" or the code of what was odd.

    `bytes_up`, `bytes_down`: of the messages from it and to it, header and buffer, as often as they were sent.
    `raw`: header, buffer and signature as they came, of a message of ours.
    """

    node: int
    leaving: Leaving | None
    fault: str = ""
    reference: str = ""
    bytes_up: int = 0
    ask: Ask | None = None
    raw: Letter | None = None
    bytes_down: int = 0

    @property
    def state(self) -> str:
        """As the history says it: "late", "error:CODE" or "refused:CODE"; a message of the wrong kind is an error."""
        fault = self.fault or "FR-R10"
        return f"error:{fault}" if fault.startswith("FR-") else fault


def read_reply(reply: Message, node: int, ask: Ask, keys: Keys | None) -> Answer:
    """What this reply says, of what was asked of this node. With keys, nothing unsigned is looked at."""
    if reply.has_error():
        code = CODE.search(reply.error.reason or "")  # and nothing of the text around it
        return Answer(node, None, code[0] if code else LOST, ask=ask)
    if reply.metadata.src_node_id != node:
        return Answer(node, None, FORGED, ask=ask)
    try:
        header, buffer = parts_of(reply.content)
        signature = signature_of(reply.content)
        if keys is not None:
            keys.check(header, buffer, signature, node)
        leaving = from_wire(header, buffer)
    except UpdateError as error:
        return Answer(node, None, error.code, ask=ask)
    size = len(header.encode()) + len(buffer)
    if isinstance(leaving, Ask):
        return Answer(node, None, "FR-R10", bytes_up=size, ask=ask)
    if isinstance(leaving, Refusal):
        if keys is not None and (leaving.run, leaving.nonce) != (ask.run, ask.nonce):
            return Answer(node, None, "FR-R18", bytes_up=size, ask=ask)
        kind = "refused" if leaving.refused else "error"
        return Answer(node, leaving, f"{kind}:{leaving.code}", leaving.reference, size, ask)
    return Answer(node, leaving, "", "", size, ask, (header, buffer, signature))
