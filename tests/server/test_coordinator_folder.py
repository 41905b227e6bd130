"""COORD: who may open it, what its settings may say, what is never written over."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fedrounds_common.chain import verify
from fedrounds_common.errors import UsageError
from fedrounds_common.signing import SigningKey
from fedrounds_server.coordinator.folder import CoordinatorFolder, check_closed, host_port, read_settings
from fedrounds_server.coordinator.setup import create


@pytest.fixture
def made(tmp_path: Path) -> CoordinatorFolder:
    folder = CoordinatorFolder(tmp_path / "coord")
    create(folder, "fl.example.org:8443", name="University X", superlink_port=39093)
    return folder


def test_no_file_of_a_new_coordinator_is_open_to_others(made: CoordinatorFolder) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [made.path, *made.path.rglob("*")]}
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}
    assert {modes[name] for name in ("coord", "keys", "sites", "flwr")} == {0o700}
    assert {modes[name] for name in ("signing.key", "ca.key", "server.key", "loopback.key")} == {0o600}


def test_a_new_coordinators_settings_are_read_back(made: CoordinatorFolder) -> None:
    settings = read_settings(made)
    assert (settings.name, settings.address, settings.bind) == ("University X", "fl.example.org:8443", "0.0.0.0:8443")
    assert settings.superlink_port == 39093
    assert verify(made.journal)[0] == 1


def test_a_coordinator_is_never_made_over_another(made: CoordinatorFolder) -> None:
    before = SigningKey.load(made.signing_key).public
    with pytest.raises(UsageError, match="FR-U61"):
        create(made, "fl.example.org:8443")
    assert SigningKey.load(made.signing_key).public == before


@pytest.mark.parametrize("address", ["fl.example.org", ":8443", "a:0", "a:99999", "a b:1", "https://a:1", "-a:1", ""])
def test_an_address_without_host_or_port_makes_nothing(tmp_path: Path, address: str) -> None:
    folder = CoordinatorFolder(tmp_path / "coord")
    with pytest.raises(UsageError, match="FR-U62"):
        create(folder, address)
    assert not folder.path.exists()


def test_flower_and_the_front_do_not_share_a_port(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FR-U62 superlink_port is bind's own, 8443"):
        create(CoordinatorFolder(tmp_path / "coord"), "fl.example.org:8443", superlink_port=8443)


def test_addresses_of_both_families_are_read() -> None:
    assert [host_port(text) for text in ("a.b:1", "10.0.0.1:2", "[::1]:3")] == [("a.b", 1), ("10.0.0.1", 2), ("::1", 3)]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "fl.example.org", ""])
def test_flowers_own_interfaces_stay_on_loopback_whatever_the_settings_say(made: CoordinatorFolder, host: str) -> None:
    text = made.settings.read_text().replace("[limits]", f'superlink_host = "{host}"\n[limits]')
    made.settings.write_text(text)
    with pytest.raises(UsageError, match="FR-U63"):
        read_settings(made)


def test_every_fault_of_the_settings_is_named_at_once(made: CoordinatorFolder) -> None:
    text = made.settings.read_text().replace("8443", "none").replace("[limits]", "telemetry = true\n[limits]")
    made.settings.write_text(text)
    with pytest.raises(UsageError, match=r"(?s)FR-U62.*address.*bind.*telemetry"):
        read_settings(made)


def test_a_folder_without_settings_is_no_coordinators(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FR-U60"):
        read_settings(CoordinatorFolder(tmp_path))


@pytest.mark.parametrize("name", [".", "keys", "keys/signing.key", "keys/ca.key"])
def test_a_folder_or_key_that_others_may_open_is_refused(made: CoordinatorFolder, name: str) -> None:
    check_closed(made)
    place = made.path / name
    place.chmod(place.stat().st_mode | 0o040)
    with pytest.raises(UsageError, match="FR-U71"):
        check_closed(made)
