"""Of Flower's own error messages a code leaves, and no text; everything else goes as it is."""

from __future__ import annotations

import time

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from flwr.supernode.start_client_internal import FAB_VERIFICATION_ERROR

from fedrounds_client.join.outgoing import without_texts

NAME = "/pacs/DOE^JANE/scan.dcm"


class Coordinator:
    """What it was announced, and what was uploaded of it."""

    def __init__(self) -> None:
        self.announced: list[tuple[Message, ObjectTree]] = []
        self.uploaded: dict[str, bytes] = {}

    def send(self, message: Message, tree: ObjectTree, seconds: float) -> tuple[set[str], str]:
        self.announced.append((message, tree))
        return {each.object_id for each in iterate_object_tree(tree)}, "session"

    def push(self, run: int, session: str, number: str, content: bytes) -> None:
        self.uploaded[number] = content

    def told(self, reply: Message) -> tuple[set[str], str]:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        return without_texts(self.send, self.push)(reply, get_object_tree(reply), 1.0)


@pytest.fixture
def question() -> Message:
    about = Metadata(1, "asked", 1, 7, "", "3", time.time(), 600.0, "train")
    return make_message(about, RecordDict({"a": ConfigRecord({"b": 1})}))


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        (f"<class 'FileNotFoundError'>:<'{NAME}'>", ""),
        (f"<class 'fedrounds_common.errors.RoundError'>:<'FR-R01 {NAME}'>", "FR-R01"),
        (FAB_VERIFICATION_ERROR.reason, FAB_VERIFICATION_ERROR.reason),
    ],
)
def test_of_an_error_a_code_is_uploaded_and_no_text(reason: str, left: str, question: Message) -> None:
    coordinator = Coordinator()
    reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=question)
    assert coordinator.told(reply) == (set(), "session")  # Flower has nothing left to upload
    (message, tree), = coordinator.announced  # fmt: skip
    assert (message.error.code, message.error.reason) == (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, left)
    assert list(coordinator.uploaded) == [tree.object_id] == [message.metadata.message_id]
    came = Message.inflate(coordinator.uploaded[tree.object_id])
    assert (came.error.reason or "") == left
    assert came.metadata.reply_to_message_id == question.metadata.message_id
    assert b"DOE" not in coordinator.uploaded[tree.object_id]
    assert reply.error.reason == reason  # what Flower itself holds is as it was, and is deleted by its own number
    assert reply.metadata.message_id != message.metadata.message_id or left == reason


def test_an_answer_with_content_goes_as_it_is(question: Message) -> None:
    coordinator = Coordinator()
    reply = Message(RecordDict({"a": ConfigRecord({"text": NAME})}), reply_to=question)
    missing, session = coordinator.told(reply)
    (message, tree), = coordinator.announced  # fmt: skip
    assert message is reply
    assert missing == {each.object_id for each in iterate_object_tree(tree)}
    assert (coordinator.uploaded, session) == ({}, "session")
