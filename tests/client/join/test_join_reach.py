"""What is between a site and its coordinator is told apart, each in one line with what to do."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fedrounds_client.join.reach import HOPELESS, Way, check_clock, look
from fedrounds_common.errors import NetworkError


def trouble(way: Way) -> NetworkError:
    with pytest.raises(NetworkError) as raised:
        look(way)
    assert "\n" not in str(raised.value)
    return raised.value


def test_the_coordinator_is_seen_with_its_time_and_its_certificate_s_end(
    tmp_path: Path, authority: Any, serve: Callable[..., Any]
) -> None:
    front = serve(authority.issue(tmp_path, last=40))
    seen = look(Way(front.address, authority.pem))
    assert seen.ahead_s is not None
    assert abs(seen.ahead_s) < 60
    assert seen.expires is not None
    assert 38 < (seen.expires - datetime.now(UTC)).days < 41
    check_clock(seen)


def test_a_certificate_of_another_ca_is_named_with_who_signed_it(
    tmp_path: Path, authority: Any, another_authority: Any, serve: Callable[..., Any]
) -> None:
    front = serve(another_authority.issue(tmp_path))
    error = trouble(Way(front.address, authority.pem))
    assert error.code == "FR-C85"
    assert "Hospital Web Gateway" in error.found
    assert "exempt" in error.do


@pytest.mark.parametrize(("first", "last", "word"), [(-20, -1, "has expired"), (1, 20, "is not valid yet")])
def test_a_certificate_out_of_time_is_told_from_a_wrong_one(
    tmp_path: Path, authority: Any, serve: Callable[..., Any], first: float, last: float, word: str
) -> None:
    front = serve(authority.issue(tmp_path, first=first, last=last))
    error = trouble(Way(front.address, authority.pem))
    assert error.code == "FR-C86"
    assert word in error.found


def test_a_certificate_for_another_name(tmp_path: Path, authority: Any, serve: Callable[..., Any]) -> None:
    front = serve(authority.issue(tmp_path, address="fl.example.org"))
    assert trouble(Way(front.address, authority.pem)).code == "FR-C87"


def test_plain_http_is_told_from_a_closed_port(authority: Any, serve: Callable[..., Any]) -> None:
    assert trouble(Way(serve().address, authority.pem)).code == "FR-C88"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    error = trouble(Way(closed, authority.pem))
    assert error.code == "FR-C84"
    assert "refused" in error.found


def test_only_what_somebody_must_mend_is_hopeless() -> None:
    assert sorted(HOPELESS) == ["FR-C85", "FR-C86", "FR-C87", "FR-C88", "FR-C89"]


def test_a_proxy_that_says_no_is_named_without_its_password(authority: Any, serve: Callable[..., Any]) -> None:
    proxy = serve()  # answers CONNECT with "not implemented", as a proxy that does not let through
    way = Way("fl.example.org:443", authority.pem, f"http://ada:secret@{proxy.address}")
    error = trouble(way)
    assert error.code == "FR-C84"
    assert f"the proxy {proxy.address} answered 501" in error.found
    assert "secret" not in str(error)


@pytest.mark.parametrize(("seconds", "word"), [(600, "behind"), (-60, "ahead of")])
def test_a_clock_that_flower_would_not_take_is_measured(
    tmp_path: Path, authority: Any, serve: Callable[..., Any], seconds: int, word: str
) -> None:
    front = serve(authority.issue(tmp_path), date=datetime.now(UTC) + timedelta(seconds=seconds))
    with pytest.raises(NetworkError, match=rf"FR-C83 this machine's clock is \d+ s {word}"):
        check_clock(look(Way(front.address, authority.pem)))


def test_the_environment_s_proxy_is_gone_through_and_a_local_address_is_not(
    authority: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://ada:secret@proxy.example.org:3128")
    assert Way("fl.example.org:443", authority.pem).used_proxy == "proxy.example.org:3128"
    monkeypatch.setenv("no_proxy", "fl.example.org")
    assert Way("fl.example.org:443", authority.pem).used_proxy == ""
