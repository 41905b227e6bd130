"""The parts of Flower that are not public and that we rest on. When one of these fails, Flower has moved it:
`fedrounds_server/engines/inline.py` is the file to mend, and no other."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import flwr
import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrounds_common.arrays import Arrays, digest
from fedrounds_common.leaving import Ask, Update, to_wire
from fedrounds_common.wire import from_record, to_record
from fedrounds_server.engines.inline import FIRST_SITE_NODE, SERVER_NODE, InlineGrid, identify
from fedrounds_server.engines.pool import Done, InProcess, Job

REPO = Path(__file__).resolve().parents[2]
PRIVATE = {"flwr.supercore.task_identity": "TaskIdentity", "flwr.supercore.run": "Run"}
# what else rests on Flower's insides, in one file each, with tests of its own that fail when Flower moves
HOLDERS = {"front/flower.py", "join/node.py", "join/outgoing.py"}


def test_who_sends_a_message_is_what_flowers_task_identity_says() -> None:
    for node in (41, SERVER_NODE):
        identify(node)
        message = Message(RecordDict(), dst_node_id=7, message_type=MessageType.TRAIN)
        assert message.metadata.src_node_id == node, f"flwr {flwr.__version__} takes the sender from somewhere else"
        assert message.metadata.run_id == 1


def test_a_reply_comes_from_whom_was_asked_and_names_what_was_asked() -> None:
    identify(SERVER_NODE)
    asked = Message(RecordDict(), dst_node_id=7, message_type=MessageType.TRAIN, group_id="3")
    asked.metadata.__dict__["_message_id"] = "12"
    for content in (RecordDict(), Error(1, "FR-R02")):
        reply = Message(content, reply_to=asked)
        assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (7, SERVER_NODE)
        assert reply.metadata.reply_to_message_id == "12", "a message's number is kept somewhere else"
        assert reply.metadata.group_id == "3"


def test_nothing_else_private_of_flower_is_imported_anywhere() -> None:
    public = {"flwr", "flwr.app", "flwr.clientapp", "flwr.serverapp"}
    found: dict[str, set[str]] = {}
    for package in ("common", "sites", "client", "server"):
        for file in (REPO / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in names:
                    if name.split(".")[0] == "flwr" and name not in public:
                        found.setdefault(name, set()).add(f"{file.parent.name}/{file.name}")
    here = {name: files - HOLDERS for name, files in found.items() if files - HOLDERS}
    assert here == {name: {"engines/inline.py"} for name in PRIVATE}


def test_a_grid_of_ours_has_every_method_that_flower_asks_of_one() -> None:
    assert not inspect.isabstract(InlineGrid)
    wanted = {name for name in vars(Grid) if getattr(getattr(Grid, name), "__isabstractmethod__", False)}
    assert wanted == {
        "set_run",
        "run",
        "create_message",
        "get_node_ids",
        "push_messages",
        "pull_messages",
        "send_and_receive",
    }
    grid = InlineGrid(InProcess(lambda job: Done({})), ["a"], {})
    with pytest.raises(TypeError, match="no run of Flower's"):
        _ = grid.run


def echo(job: Job) -> Done:
    return Done({"header": job.scalars["header"]}, job.buffer)


def test_push_numbers_messages_and_pull_brings_each_reply_once() -> None:
    with InProcess(echo) as pool:
        grid = InlineGrid(pool, ["b", "a"], {"study": "x"})
        assert list(grid.get_node_ids()) == [FIRST_SITE_NODE, FIRST_SITE_NODE + 1]
        asks = [
            Message(
                to_record(Ask("train", name, 1, "n", "s", "d")), dst_node_id=node, message_type="train", group_id="1"
            )
            for node, name in grid.names.items()
        ]
        numbers = list(grid.push_messages(asks))
        assert len(set(numbers)) == 2
        found: list[Message] = []
        for _ in range(4):
            found += grid.pull_messages(numbers)
        assert [reply.metadata.reply_to_message_id for reply in found] == numbers
        assert [reply.metadata.src_node_id for reply in found] == [FIRST_SITE_NODE, FIRST_SITE_NODE + 1]


def test_a_message_survives_the_grid_bit_for_bit() -> None:
    import numpy as np

    arrays: Arrays = {"w": np.array([-0.0, np.nan, 1e-45], np.float32), "n": np.array(2**60), "e": np.zeros((0, 3))}
    update = Update("a", "run", 1, "n", "d", 3, 5, 0.1, 1.0, "float32", arrays)
    with InProcess(echo) as pool:
        grid = InlineGrid(pool, ["a"], {})
        asked = Message(to_record(update), dst_node_id=FIRST_SITE_NODE, message_type="train")
        (reply,) = grid.send_and_receive([asked])
    again = from_record(reply.content)
    assert isinstance(again, Update)
    assert digest(again.arrays) == digest(arrays)
    assert to_wire(again) == to_wire(update)


def test_a_message_of_another_program_is_refused_before_it_becomes_a_job() -> None:
    from fedrounds_common.errors import UpdateError

    jobs: list[Job] = []
    with InProcess(lambda job: jobs.append(job) or Done({})) as pool:
        grid = InlineGrid(pool, ["a"], {})
        strange = Message(RecordDict({"config": ConfigRecord({"lr": 0.1})}), dst_node_id=2, message_type="train")
        with pytest.raises(UpdateError, match="FR-R10"):
            grid.push_messages([strange])
    assert jobs == []
