"""The front's rules one by one, without a process: limits, rates, badges, bodies, answers, lines of the log."""

from __future__ import annotations

import asyncio
import inspect
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common import constant as shared
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore import constant
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from hypothesis import given
from hypothesis import strategies as st

from fedrounds_common.errors import UsageError
from fedrounds_common.signing import SigningKey
from fedrounds_server.coordinator.folder import CoordinatorFolder
from fedrounds_server.coordinator.register import Enrolled, write_entry
from fedrounds_server.front import flower
from fedrounds_server.front.badges import Badges, Register
from fedrounds_server.front.body import Body, Gone, declared_bytes
from fedrounds_server.front.rates import KEYS, Buckets, place_of
from fedrounds_server.front.refusals import LINES, LINES_A_PLACE, RefusalLog, Refused, shown
from fedrounds_server.front.settings import Limits, limits_of

MIDDAY = datetime(2026, 11, 20, 12, tzinfo=UTC)


# ---------------------------------------------------------------- Flower's side of the contract


def test_the_calls_that_pass_are_flowers_but_for_the_two_that_enrol() -> None:
    theirs = {path for method, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")}
    assert theirs - flower.CALLS == {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert theirs >= flower.CALLS
    assert all(path in inspect.getsource(FleetHttpClient) for path in flower.CALLS)


def test_headers_and_times_are_flowers() -> None:
    assert constant.FLEET_HTTP_PUBLIC_KEY_HEADER == flower.KEY_HEADER
    assert constant.FLEET_HTTP_SIGNATURE_HEADER == flower.SIGNATURE_HEADER
    assert shared.TIMESTAMP_HEADER == flower.TIME_HEADER
    assert shared.TIMESTAMP_TOLERANCE + shared.SYSTEM_TIME_TOLERANCE == flower.OLDEST_SECONDS
    assert -shared.SYSTEM_TIME_TOLERANCE == flower.EARLIEST_SECONDS
    sent = {name for name, _ in RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()}
    assert sent | {
        flower.KEY_HEADER, flower.SIGNATURE_HEADER, flower.TIME_HEADER, "content-type", "accept"
    } == flower.ASKED  # fmt: skip
    assert constant.VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY in flower.ANSWERED
    assert shared.SUPERLINK_NODE_ID == flower.COORDINATOR_NODE


def test_flowers_pieces_of_arrays_fit_into_the_default_limit() -> None:
    assert Limits().max_body > shared.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + flower.SMALL


def test_a_supernode_asks_again_after_503_and_leaves_at_401() -> None:
    from flwr.supercore.retry import http_retry

    source = inspect.getsource(http_retry)
    assert 503 in http_retry._RETRYABLE_STATUS_CODES
    assert 429 not in http_retry._RETRYABLE_STATUS_CODES  # which is why a site is never told 429
    assert "UNAUTHORIZED" in source


# ---------------------------------------------------------------- limits


def test_limits_left_out_are_the_defaults_and_whole_floats_are_counts() -> None:
    assert limits_of({}) == Limits()
    assert limits_of({"connections": 64.0, "max_body_mb": 2.5}) == Limits(connections=64, max_body_mb=2.5)


@pytest.mark.parametrize(
    "table",
    [
        {"connection": 5},
        {"connections": 0},
        {"connections": 1.5},
        {"max_body_mb": float("nan")},
        {"max_body_mb": float("inf")},
        {"body_seconds": -1},
        {"header_seconds": 0},
    ],
)
def test_a_limit_that_would_not_limit_is_refused_by_name(table: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="FR-C40") as refused:
        limits_of(table)
    assert next(iter(table)) in str(refused.value)


def test_every_fault_of_the_limits_is_told_at_once() -> None:
    with pytest.raises(UsageError, match=r"(?s)conections.*connections.*body_seconds"):
        limits_of({"conections": 5, "body_seconds": 0})


# ---------------------------------------------------------------- rates


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_holds_its_burst_and_fills_by_the_minute() -> None:
    clock = Clock()
    buckets = Buckets(60, 3, clock)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b"), "another key has a bucket of its own"
    clock.now = 2.0  # one a second: two more
    assert [buckets.take("a") for _ in range(3)] == [True, True, False]
    clock.now = 1e6
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]


def test_buckets_do_not_grow_without_end() -> None:
    buckets = Buckets(60, 3, Clock())
    for number in range(KEYS + 500):
        buckets.take(str(number))
    assert len(buckets._left) == KEYS


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("?", "?"),
    ],
)
def test_a_place_is_an_address_or_a_network_that_one_host_may_fill(address: str, place: str) -> None:
    assert place_of(address) == place


# ---------------------------------------------------------------- badges


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorFolder:
    (tmp_path / "sites").mkdir()
    return CoordinatorFolder(tmp_path)


def enrol(folder: CoordinatorFolder, site: str, *, revoked: bool = False) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP384R1())
    write_entry(folder, Enrolled(site, SigningKey.create().public, 10, 7, revoked, pem(key)))
    return key


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def badge(key: ec.EllipticCurvePrivateKey, at: datetime = MIDDAY) -> dict[str, str]:
    signature = key.sign(at.isoformat().encode(), ec.ECDSA(hashes.SHA256()))
    return {
        "flwr-public-key": b64encode(pem(key).encode()).decode(),
        "flwr-timestamp": at.isoformat(),
        "flwr-signature": b64encode(signature).decode(),
    }


def badges(folder: CoordinatorFolder, said: list[str] | None = None) -> Badges:
    say = [] if said is None else said
    return Badges(Register(folder.path / "sites", say.append), wall=MIDDAY.timestamp)


def refused(check: Callable[[], object]) -> str:
    with pytest.raises(Refused) as refusal:
        check()
    assert refusal.value.status == 401
    return refusal.value.code


def test_an_enrolled_key_is_known_by_its_sites_name(coordinator: CoordinatorFolder) -> None:
    keys = {site: enrol(coordinator, site) for site in ("A", "B")}
    door = badges(coordinator)
    assert [door.check(badge(key)) for key in keys.values()] == ["A", "B"]


def test_who_is_enrolled_or_revoked_while_the_front_runs_is_seen_at_the_next_call(
    coordinator: CoordinatorFolder,
) -> None:
    door, key = badges(coordinator), ec.generate_private_key(ec.SECP384R1())
    assert refused(lambda: door.check(badge(key))) == "FR-C47"
    public = SigningKey.create().public
    for revoked, seen in ((False, "A"), (True, "FR-C47"), (False, "A")):
        write_entry(coordinator, Enrolled("A", public, 10, 7, revoked, pem(key)))
        assert (refused(lambda: door.check(badge(key))) if revoked else door.check(badge(key))) == seen
    coordinator.site("A").unlink()
    assert refused(lambda: door.check(badge(key))) == "FR-C47"


def test_a_signature_turned_into_its_twin_is_still_the_same_signature(coordinator: CoordinatorFolder) -> None:
    # (r, n - s) verifies wherever (r, s) does
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    key = enrol(coordinator, "A")
    headers, door = badge(key), badges(coordinator)
    r, s = decode_dss_signature(b64decode(headers["flwr-signature"]))
    twin = encode_dss_signature(r, order - s)
    key.public_key().verify(twin, headers["flwr-timestamp"].encode(), ec.ECDSA(hashes.SHA256()))
    assert door.check(headers) == "A"
    assert refused(lambda: door.check({**headers, "flwr-signature": b64encode(twin).decode()})) == "FR-C49"
    assert refused(lambda: door.check(headers)) == "FR-C49"


def test_what_was_shown_is_forgotten_when_its_time_alone_refuses_it(coordinator: CoordinatorFolder) -> None:
    clock = Clock()
    clock.now = MIDDAY.timestamp()
    key = enrol(coordinator, "A")
    door = Badges(Register(coordinator.path / "sites", lambda text: None), wall=clock)
    first = badge(key)
    door.check(first)
    clock.now += 304
    assert refused(lambda: door.check(first)) == "FR-C49"
    clock.now += 10
    door.check(badge(key, datetime.fromtimestamp(clock.now, UTC)))
    assert len(door._shown) == 1
    assert refused(lambda: door.check(first)) == "FR-C48"


@pytest.mark.parametrize("late", [-6, 306, 86_400, -86_400])
def test_another_time_is_refused(coordinator: CoordinatorFolder, late: int) -> None:
    at = datetime.fromtimestamp(MIDDAY.timestamp() - late, UTC)
    key = enrol(coordinator, "A")
    assert refused(lambda: badges(coordinator).check(badge(key, at))) == "FR-C48"


def test_a_time_without_a_zone_is_refused(coordinator: CoordinatorFolder) -> None:
    key = enrol(coordinator, "A")
    assert refused(lambda: badges(coordinator).check(badge(key, MIDDAY.replace(tzinfo=None)))) == "FR-C48"


@given(
    name=st.sampled_from(["flwr-public-key", "flwr-timestamp", "flwr-signature"]),
    text=st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=200),
)
def test_any_text_in_a_header_is_a_refusal_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, name: str, text: str
) -> None:
    folder = CoordinatorFolder(tmp_path_factory.mktemp("any"))
    (folder.path / "sites").mkdir()
    key = enrol(folder, "A")
    refused(lambda: badges(folder).check({**badge(key), name: text}))


def test_an_entry_that_cannot_be_read_shuts_out_its_site_and_is_told(coordinator: CoordinatorFolder) -> None:
    good, bad = enrol(coordinator, "A"), enrol(coordinator, "B")
    coordinator.site("B").write_text("{")
    said: list[str] = []
    door = badges(coordinator, said)
    assert door.check(badge(good)) == "A"
    assert refused(lambda: door.check(badge(bad))) == "FR-C47"
    assert said == ["FR-C54 sites/B.json cannot be used (RunFileError): this site is not let in"]


def test_without_a_register_nobody_is_let_in_and_sites_come_back_later(coordinator: CoordinatorFolder) -> None:
    key = enrol(coordinator, "A")
    door = badges(coordinator)
    (coordinator.path / "sites").rename(coordinator.path / "away")
    with pytest.raises(Refused, match="FR-C54 503"):
        door.check(badge(key))


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("headers", "length"),
    [({"content-length": "5"}, 5), ({}, 0), ({"transfer-encoding": "chunked"}, None)],
)
def test_a_body_says_its_length_or_comes_in_chunks(headers: dict[str, str], length: int | None) -> None:
    assert declared_bytes(headers, 10) == length


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-length": "11"}, 413),
        ({"content-length": "5", "transfer-encoding": "chunked"}, 400),
        ({"content-length": "5", "content-encoding": "gzip"}, 415),
    ],
)
def test_a_length_that_is_refused_is_refused_before_the_body(headers: dict[str, str], status: int) -> None:
    with pytest.raises(Refused) as refusal:
        declared_bytes(headers, 10)
    assert refusal.value.status == status


def sender(*pieces: bytes, end: bool = True) -> Callable[[], Awaitable[dict[str, Any]]]:
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if end:
        waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    return receive


def test_a_body_is_counted_as_it_comes() -> None:
    assert asyncio.run(Body(sender(b"abc", b"defg"), 7, Limits()).read()) == b"abcdefg"
    with pytest.raises(Refused, match="FR-C42 413"):
        asyncio.run(Body(sender(b"abc", b"defgh"), 7, Limits()).read())


def test_a_caller_that_leaves_in_the_middle_is_no_body() -> None:
    with pytest.raises(Gone):
        asyncio.run(Body(sender(b"abc", end=False), 7, Limits()).read())


def test_a_body_that_does_not_come_is_refused_by_its_time() -> None:
    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    with pytest.raises(Refused, match="FR-C45 408 0 bytes"):
        asyncio.run(Body(never, 7, Limits(body_seconds=0.01)).read())


# ---------------------------------------------------------------- answers


def answer(envelope: int, inside: int, objects: int = 1) -> bytes:
    told = Message(metadata=Metadata(src_node_id=inside, dst_node_id=1, reply_to_message_id="q"))
    tree = ObjectTree(object_id="m", children=[ObjectTree(object_id=str(n)) for n in range(objects - 1)])
    request = PushMessagesRequest(node=Node(node_id=envelope), messages_list=[told], message_object_trees=[tree])
    return bytes(request.SerializeToString())


@given(caller=st.integers(1, 2**63), other=st.integers(0, 2**63))
def test_only_an_answer_in_the_callers_own_name_passes(caller: int, other: int) -> None:
    flower.check_answer(answer(caller, caller), Limits(), "A")
    if caller != other:
        with pytest.raises(Refused, match="FR-C50 403"):
            flower.check_answer(answer(caller, other), Limits(), "A")


def test_an_envelope_that_is_written_twice_is_read_as_superlink_reads_it() -> None:
    # protobuf merges: the later node id counts, for us and for SuperLink
    twice = PushMessagesRequest(node=Node(node_id=5)).SerializeToString() + answer(7, 5)
    assert PushMessagesRequest.FromString(twice).node.node_id == 7
    with pytest.raises(Refused, match="node 7 answers as node 5"):
        flower.check_answer(twice, Limits(), "A")


def test_objects_are_counted_through_the_whole_tree() -> None:
    flower.check_answer(answer(5, 5, objects=512), Limits(), "A")
    with pytest.raises(Refused, match="FR-C42 413"):
        flower.check_answer(answer(5, 5, objects=513), Limits(), "A")


def test_an_answer_of_the_largest_default_size_names_a_model_of_2_gb() -> None:
    assert Limits().max_objects * shared.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE > 2e9


# ---------------------------------------------------------------- the log


def test_a_flood_is_some_lines_and_a_count_and_another_kind_is_still_told() -> None:
    clock, lines = Clock(), list[str]()
    log = RefusalLog(lines.append, clock)
    for _ in range(5000):
        log.refused(Refused("FR-C41", 404, "x"), "203.0.113.7")
    assert len(lines) == LINES_A_PLACE
    log.refused(Refused("FR-C50", 403, "node 2 answers as node 3", site="B"), "203.0.113.7")
    assert lines[-1].endswith(
        f"FR-C50 403 203.0.113.7 site=B node 2 answers as node 3 ({5000 - LINES_A_PLACE} other lines left out)\n"
    )


def test_a_flood_from_many_addresses_is_held_down_as_a_whole() -> None:
    lines: list[str] = []
    log = RefusalLog(lines.append, Clock())
    for number in range(5000):
        log.refused(Refused("FR-C41", 404, "x"), f"10.0.{number // 256}.{number % 256}")
    assert len(lines) == LINES


@given(st.text())
def test_what_a_stranger_writes_is_one_short_printable_piece_of_a_line(text: str) -> None:
    assert len(shown(text)) <= 80
    assert shown(text).isprintable()
    assert shown(text).isascii()
