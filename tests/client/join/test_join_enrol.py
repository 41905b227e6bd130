"""Enrolment: one signed request, asked again until two people have compared the fingerprint."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrounds_client.home import SiteHome
from fedrounds_client.join import enrol
from fedrounds_client.join.enrol import ask, request_of, wait_until_enrolled
from fedrounds_client.join.invitation import Invitation, read_invitation
from fedrounds_client.join.reach import Way
from fedrounds_client.join.supernode import accept
from fedrounds_common.chain import read
from fedrounds_common.errors import FedroundsError, NetworkError, RefusedError
from fedrounds_server.coordinator.enrolment import MAX_BYTES, read_request

Serve = Callable[..., Any]


@pytest.fixture
def front(serve: Serve, authority: Any, tmp_path: Path) -> Any:
    return serve(authority.issue(tmp_path))


@pytest.fixture
def joined(home: SiteHome, invitation_of: Callable[..., Path], front: Any) -> tuple[SiteHome, Invitation, Way]:
    invitation = accept(home, invitation_of(address=front.address))
    return home, invitation, Way(invitation.address, invitation.ca)


def test_the_request_is_one_that_the_coordinator_reads(joined: tuple[SiteHome, Invitation, Way]) -> None:
    home, invitation, _ = joined
    body = json.dumps(request_of(home, invitation, home.key, 42)).encode()
    request = read_request(body)
    assert (request.site, request.token, request.cases) == ("A", "t0ken", 42)
    assert request.key == home.key.public
    assert request.versions["flwr"]
    assert len(body) < MAX_BYTES


def test_the_same_request_is_asked_again_and_another_number_of_cases_is_another(
    joined: tuple[SiteHome, Invitation, Way],
) -> None:
    home, invitation, _ = joined
    first = request_of(home, invitation, home.key, 42)
    assert request_of(home, invitation, home.key, 42) == first
    assert request_of(home, invitation, home.key, 43) != first


def test_it_waits_through_pending_and_busy_and_says_each_state_once(
    joined: tuple[SiteHome, Invitation, Way], front: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, invitation, way = joined
    monkeypatch.setattr(enrol, "FIRST_S", 0.01)
    monkeypatch.setattr(enrol, "LONGEST_S", 0.01)
    pending = (202, {"state": "pending"})
    front.answers = [pending, pending, (503, {}), (503, {}), pending, (200, {"state": "enrolled"})]
    said: list[str] = []
    wait_until_enrolled(home, way, request_of(home, invitation, home.key, 7), said.append, threading.Event())
    assert [line.split(" by tele")[0].split(": read")[0] for line in said] == [
        "waiting to be enrolled", f"FR-C84 {way.address} answered 503; it is tried again", "waiting to be enrolled",
    ]  # fmt: skip
    assert len(front.bodies) == 6
    assert len(set(front.bodies)) == 1
    assert [line["event"] for line in read(home.journal)] == ["enrolled"]


@pytest.mark.parametrize("code", ["FR-C63", "FR-C64", "FR-C65"])
def test_what_the_coordinator_refuses_ends_it_with_its_own_code(
    joined: tuple[SiteHome, Invitation, Way], front: Any, code: str
) -> None:
    home, invitation, way = joined
    front.answers = [(403, {"code": code})]
    with pytest.raises(RefusedError) as raised:
        wait_until_enrolled(home, way, request_of(home, invitation, home.key, 7), print, threading.Event())
    assert raised.value.code == code


@pytest.mark.parametrize(
    "answer",
    [(200, {}), (200, {"state": "pending!"}), (200, b"<html>"), (200, b"[1]"), (418, {"code": "rm -rf"}),
     (302, {"state": "enrolled"}), (201, {"state": "enrolled"}), (200, b"[" * 9000)],
)  # fmt: skip
def test_any_other_answer_is_not_taken_for_a_yes(
    joined: tuple[SiteHome, Invitation, Way], front: Any, answer: tuple[int, Any]
) -> None:
    home, invitation, way = joined
    front.answers = [answer]
    with pytest.raises(RefusedError) as raised:
        ask(way, request_of(home, invitation, home.key, 7))
    assert raised.value.code == "FR-E44"


def test_another_version_is_named_with_the_coordinators(joined: tuple[SiteHome, Invitation, Way], front: Any) -> None:
    home, invitation, way = joined
    front.answers = [(403, {"code": "FR-C76", "fedrounds": "9.9.9"}), (403, {"code": "FR-C76", "fedrounds": "<b>"})]
    request = request_of(home, invitation, home.key, 7)
    with pytest.raises(RefusedError, match=r"FR-C76 this site runs fedrounds \S+, the coordinator 9\.9\.9;"):
        ask(way, request)
    with pytest.raises(RefusedError, match="the coordinator another;"):
        ask(way, request)


def test_the_token_goes_to_nobody_but_the_invitation_s_ca(
    home: SiteHome, invitation_of: Callable[..., Path], another_authority: Any, tmp_path: Path, serve: Serve
) -> None:
    other = serve(another_authority.issue(tmp_path))
    invitation = accept(home, invitation_of(address=other.address))
    with pytest.raises(NetworkError, match="FR-C85"):
        ask(Way(invitation.address, invitation.ca), request_of(home, invitation, home.key, 7))
    assert other.bodies == []


def test_a_key_that_others_may_read_is_not_used(joined: tuple[SiteHome, Invitation, Way]) -> None:
    home, _, _ = joined
    home.signing_key.chmod(0o644)
    with pytest.raises(FedroundsError, match="FR-C92"):
        accept(home, home.invitation)
    assert read_invitation(home.invitation).site == "A"
