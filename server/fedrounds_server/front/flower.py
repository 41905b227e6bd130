"""What the front knows of Flower's Fleet interface (flwr 1.41-1.42). No other file of the front names a part of it.

A SuperNode takes 502, 503 and 504 for "ask again later", 401 for "leave", 403 for "this run is over", and gives
up one call at any other 4xx: so what passes by itself is answered with 503, and what will not with 401, 403 or 4xx.
"""

from __future__ import annotations

from typing import Final, Protocol

from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError

from fedrounds_server.front.refusals import Refused
from fedrounds_server.front.settings import Limits

KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER = "flwr-public-key", "flwr-signature", "flwr-timestamp"
OLDEST_SECONDS, EARLIEST_SECONDS = 305.0, -5.0  # how far a signed time may lie behind and ahead of this clock
# what is passed on to SuperLink, and what comes back; any other header ends here
ASKED = frozenset({
    "content-type", "accept", KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER,
    "flwr-package-name", "flwr-package-version", "flwr-component-name",
})  # fmt: skip
ANSWERED = frozenset({"content-type", "content-length", "flwr-version-incompatibility-message"})
PROTOBUF = "application/protobuf"
COORDINATOR_NODE = 1
SMALL, TOLD = 64 * 1024, 4 * 1024 * 1024

FLEET: Final = "/v1/fleet/"
PUSH_MESSAGES: Final = FLEET + "push-messages"
PUSH_OBJECT: Final = FLEET + "push-object"
# register-node and unregister-node are missing: the coordinator enrols, and nobody else
CALLS: Final = frozenset(
    FLEET + name
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)


class Tree(Protocol):
    """An object and the objects inside it, by their digests."""

    @property
    def children(self) -> list[Tree]: ...


def most_bytes(path: str, limits: Limits) -> int:
    """The longest body of a call."""
    if path == PUSH_OBJECT:
        return limits.max_body
    return min(TOLD, limits.max_body) if path == PUSH_MESSAGES else SMALL


def check_answer(body: bytes, limits: Limits, site: str) -> None:
    """Refuse an announced answer that is not the caller's own.

    SuperLink makes sure that the envelope's node id is that of the key that signed the call; here the
    message inside must name the same node, or one site could answer for another.

    Raises:
        Refused: FR-C50 another's answer, FR-C51 no answer at all, FR-C42 one of too many objects.
    """
    request = PushMessagesRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise Refused("FR-C51", 400, "push-messages: no message that can be read", site=site) from error
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise Refused("FR-C51", 400, "push-messages: not one message with one tree of objects", site=site)
    said, caller = request.messages_list[0].metadata, request.node.node_id
    if said.src_node_id != caller:
        raise Refused("FR-C50", 403, f"node {caller} answers as node {said.src_node_id}", site=site)
    if said.dst_node_id != COORDINATOR_NODE or not said.reply_to_message_id:
        raise Refused("FR-C51", 403, "push-messages: not an answer to the coordinator", site=site)
    if (objects := _count(request.message_object_trees[0], limits.max_objects)) > limits.max_objects:
        raise Refused("FR-C42", 413, f"an answer of {objects} objects or more", site=site)


def _count(tree: Tree, enough: int) -> int:
    """Objects in the tree; counting stops soon after `enough`."""
    waiting, found = [tree], 0
    while waiting and found <= enough:
        found += 1
        waiting.extend(waiting.pop().children)
    return found
