"""What Flower's own error messages may say: a code. Their texts stay here.

A task that breaks before our ClientApp is asked (a bundle that cannot be unpacked, a disk that is full) or after it has
answered is told by Flower, with the exception's text; and that can hold a path of this site.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from flwr.app import Error, Message
from flwr.app.message.message import make_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supernode.start_client_internal import FAB_VERIFICATION_ERROR

from fedrounds_common.errors import CODE

Send = Callable[[Message, ObjectTree, float], tuple[set[str], str]]
Push = Callable[[int, str, str, bytes], None]
FIXED = {FAB_VERIFICATION_ERROR.reason}  # sentences of Flower's that are the same for every site


def without_texts(send: Send, push: Push) -> Send:
    """`send` for a SuperNode's connection, by which no error takes a text along; `push` uploads one object."""

    def send_bare(message: Message, tree: ObjectTree, seconds: float) -> tuple[set[str], str]:
        if not message.has_error():
            return send(message, tree, seconds)
        bare = without_text(message)
        missing, session = send(bare, get_object_tree(bare), seconds)
        if bare.object_id in missing:
            push(bare.metadata.run_id, session, bare.object_id, bare.deflate())
        return set(), session  # nothing is left for Flower to upload: what it holds is the message with its text

    return send_bare


def without_text(message: Message) -> Message:
    """The same error message, of whose reason a code of ours or a fixed sentence stays, or nothing."""
    reason = message.error.reason or ""
    code = CODE.search(reason)
    kept = reason if reason in FIXED else code[0] if code else ""
    metadata: Any = copy.copy(message.metadata)
    bare = make_message(metadata, error=Error(message.error.code, kept))
    metadata.__dict__["_message_id"] = bare.object_id  # which is the digest of what is in it
    return bare
