"""`fedrounds doctor --coordinator`: every line of the checklist sees the fault it is there for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedrounds.hardening import WHATS, account, disk, examine_coordinator, listeners
from fedrounds.health import Finding
from fedrounds_server.coordinator.folder import CoordinatorFolder
from fedrounds_server.coordinator.invitation import invite
from fedrounds_server.coordinator.setup import create


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorFolder:
    folder = CoordinatorFolder(tmp_path / "coordinator")
    create(folder, "localhost:8443", name="Coordinator", superlink_port=39092)
    return folder


def found(folder: CoordinatorFolder, what: str, now: datetime | None = None) -> Finding:
    (finding,) = [each for each in examine_coordinator(folder.path, now) if each.what == what]
    return finding


def test_a_new_coordinator_has_no_fault(coordinator: CoordinatorFolder) -> None:
    findings = examine_coordinator(coordinator.path)
    assert [each for each in findings if each.level == "fault"] == []
    assert tuple(each.what for each in findings) == WHATS
    assert found(coordinator, "certificates").found == "for localhost; server ends in 365 days"


def _misspell_a_limit(folder: CoordinatorFolder) -> None:
    folder.settings.write_text(folder.settings.read_text() + "max_bodi_mb = 1\n")


def _open_a_key(folder: CoordinatorFolder) -> None:
    folder.signing_key.chmod(0o640)


def _change_a_line(folder: CoordinatorFolder) -> None:
    folder.journal.write_text(folder.journal.read_text().replace("made", "done", 1))


def _damage_the_database(folder: CoordinatorFolder) -> None:
    folder.database.write_bytes(b"no database at all" * 100)
    folder.database.chmod(0o600)


def _send_code(folder: CoordinatorFolder) -> None:
    (folder.app / "helper.py").write_text("print()")


def _break_the_register(folder: CoordinatorFolder) -> None:
    folder.site("oslo").write_text("{")


def _exchange_the_key(folder: CoordinatorFolder) -> None:
    folder.signing_key.write_text("no key")


def _exchange_the_certificate(folder: CoordinatorFolder) -> None:
    (folder.keys / "server.key").write_bytes((folder.keys / "loopback.key").read_bytes())


@pytest.mark.parametrize(
    ("what", "harm"),
    [
        ("folder", _open_a_key),
        ("settings", _misspell_a_limit),
        ("signing key", _exchange_the_key),
        ("certificates", _exchange_the_certificate),
        ("database", _damage_the_database),
        ("register", _break_the_register),
        ("journal", _change_a_line),
        ("bundle", _send_code),
    ],
)
def test_a_fault_is_seen_by_its_own_line(
    what: str, harm: Callable[[CoordinatorFolder], None], coordinator: CoordinatorFolder
) -> None:
    harm(coordinator)
    assert found(coordinator, what).level == "fault"


def test_a_certificate_is_advised_of_before_it_ends_and_a_fault_after(coordinator: CoordinatorFolder) -> None:
    today = datetime.now(UTC)
    assert found(coordinator, "certificates", today + timedelta(days=340)).level == "advice"
    assert found(coordinator, "certificates", today + timedelta(days=366)).level == "fault"


def test_open_invitations_are_counted_until_they_expire(coordinator: CoordinatorFolder, tmp_path: Path) -> None:
    invite(coordinator, "oslo", tmp_path)
    assert found(coordinator, "register").found == "0 sites, 0 revoked, 0 waiting, 1 open invitations"
    later = datetime.now(UTC) + timedelta(days=15)
    assert found(coordinator, "register", later).found == "0 sites, 0 revoked, 0 waiting, 0 open invitations"


def test_a_coordinator_that_is_down_says_so_and_is_no_fault(coordinator: CoordinatorFolder) -> None:
    for what in ("Flower's port", "front", "telemetry"):
        assert (found(coordinator, what).level, found(coordinator, what).found) == (
            "advice",
            "the coordinator is not up",
        )


@pytest.mark.parametrize(("address", "heard"), [("127.0.0.1", {"127.0.0.1"}), ("0.0.0.0", {"0.0.0.0"})])
def test_who_listens_where_is_seen(address: str, heard: set[str]) -> None:
    with socket.socket() as listener:
        listener.bind((address, 0))
        assert listeners(listener.getsockname()[1]) == set()
        listener.listen()
        assert listeners(listener.getsockname()[1]) == heard


def test_a_listener_on_ipv6_is_seen_too() -> None:
    with socket.socket(socket.AF_INET6) as listener:
        try:
            listener.bind(("::", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listener.listen()
        assert listeners(listener.getsockname()[1]) == {"0" * 32}


def test_root_is_advised_against() -> None:
    assert [account(0).level, account(1000).level] == ["advice", "ok"]


def test_the_disk_is_told(tmp_path: Path) -> None:
    assert disk(tmp_path).found.endswith("GB free")


def test_settings_that_open_flowers_port_end_the_command(
    coordinator: CoordinatorFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedrounds.cli.main import main

    assert main(["doctor", "--coordinator", str(coordinator.path)]) == 0
    text = coordinator.settings.read_text().replace("\n[limits]", 'superlink_host = "0.0.0.0"\n\n[limits]')
    coordinator.settings.write_text(text)
    assert main(["doctor", "--coordinator", str(coordinator.path)]) == 2
    assert "FR-U63" in capsys.readouterr().err


def test_a_fault_is_exit_5(coordinator: CoordinatorFolder) -> None:
    from fedrounds.cli.main import main

    _open_a_key(coordinator)
    assert main(["doctor", "--coordinator", str(coordinator.path)]) == 5
