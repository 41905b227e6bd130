"""The coordinator's processes: how they are started, watched, ended; and everything that stops a start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedrounds_common.errors import FedroundsError, NetworkError, RunFileError, UsageError
from fedrounds_server.coordinator.flower import environment, last_object, write_connection
from fedrounds_server.coordinator.folder import CoordinatorFolder, read_settings
from fedrounds_server.coordinator.processes import (
    Child,
    check_port_free,
    end_leftover,
    front_command,
    superlink_command,
)
from fedrounds_server.coordinator.setup import create
from fedrounds_server.coordinator.supervisor import check_before_start, end_supervisor, keep_up, supervisor_pid


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorFolder:
    folder = CoordinatorFolder(tmp_path / "coord")
    create(folder, "localhost:8443")
    return folder


def test_flowers_superlink_is_told_everything_that_keeps_it_closed(coordinator: CoordinatorFolder) -> None:
    command = superlink_command(coordinator, read_settings(coordinator))
    assert Path(command[0]).name == "flower-superlink"
    wanted = {"--host=127.0.0.1", "--enable-supernode-auth", "--disable-runtime-dependency-installation",
              f"--database={coordinator.database}", f"--ssl-keyfile={coordinator.keys / 'loopback.key'}"}  # fmt: skip
    assert wanted <= set(command)
    assert not any(word.startswith(("--insecure", "--fleet-api", "--control-api")) for word in command)
    known = subprocess.run([command[0], "--help"], capture_output=True, text=True, check=True).stdout
    assert [word for word in command[1:] if word.split("=")[0] not in known] == []


def test_no_setting_of_the_caller_reaches_flower(coordinator: CoordinatorFolder) -> None:
    given = {
        "FLWR_INTERNAL_GRPC_CONTROL_API": "1",
        "FLWR_TELEMETRY_ENABLED": "1",
        "FLWR_HOME": "elsewhere",
        "PATH": "/bin",
    }
    found = environment(coordinator, given)
    assert "FLWR_INTERNAL_GRPC_CONTROL_API" not in found
    assert (found["FLWR_TELEMETRY_ENABLED"], found["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")
    assert found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert found["FLWR_HOME"] == str(coordinator.flower_home)
    assert found["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_the_front_is_our_own_program(coordinator: CoordinatorFolder) -> None:
    assert front_command(coordinator) == [sys.executable, "-m", "fedrounds_server.front", str(coordinator.path)]


def test_flowers_connection_follows_a_folder_that_moved(coordinator: CoordinatorFolder, tmp_path: Path) -> None:
    import tomllib

    write_connection(coordinator, 5)
    moved = CoordinatorFolder(coordinator.path.rename(tmp_path / "moved"))
    write_connection(moved, 6)
    table = tomllib.loads((moved.flower_home / "config.toml").read_text())["superlink"]
    assert table["coordinator"]["root-certificates"] == str(moved.keys / "ca.pem")
    assert table[table["default"]]["address"] == "127.0.0.1:6"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [('talk {x\n{"a": 1}\n{"b": {"c": 2}} more', {"b": {"c": 2}}), ("none", None), ("[1]", None), ("{", None)],
)
def test_the_last_object_in_a_programs_talk_is_read(text: str, wanted: object) -> None:
    assert last_object(text) == wanted


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NetworkError, match=f"FR-C70 the front cannot listen on {address}.*already in use"):
            check_port_free(address, "the front")
    check_port_free(address, "the front")


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(NetworkError, match="FR-C70"):
        check_port_free("192.0.2.1:8443", "the front")


def test_a_start_goes_through_every_check_first(coordinator: CoordinatorFolder) -> None:
    now = datetime.now(UTC)
    assert check_before_start(coordinator, now)[1] == ()
    assert len(check_before_start(coordinator, now + timedelta(days=340))[1]) == 1
    with pytest.raises(NetworkError, match="FR-C68"):
        keep_up(coordinator, print, now + timedelta(days=366))
    assert supervisor_pid(coordinator) is None


def test_a_start_refuses_a_bind_that_shows_flower_to_a_network(coordinator: CoordinatorFolder) -> None:
    text = coordinator.settings.read_text().replace("[limits]", 'superlink_host = "0.0.0.0"\n[limits]')
    coordinator.settings.write_text(text)
    with pytest.raises(UsageError, match="FR-U63"):
        keep_up(coordinator, print)


def test_a_damaged_database_is_told_with_what_is_not_lost(coordinator: CoordinatorFolder) -> None:
    coordinator.database.write_bytes(b"SQLite format 3\0" + b"x" * 4096)
    with pytest.raises(RunFileError, match=r"FR-C73 superlink.db is damaged.*move superlink.db"):
        keep_up(coordinator, print)


def test_a_signing_key_that_others_may_read_stops_a_start(coordinator: CoordinatorFolder) -> None:
    coordinator.signing_key.chmod(0o644)
    with pytest.raises(UsageError, match="FR-U71"):
        keep_up(coordinator, print)


def test_stopping_what_is_not_up_is_a_usage_error(coordinator: CoordinatorFolder) -> None:
    with pytest.raises(UsageError, match="FR-U68"):
        end_supervisor(coordinator)


def test_a_child_that_ends_at_once_is_told_with_its_last_words(coordinator: CoordinatorFolder) -> None:
    child = Child(
        coordinator, "front", [sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"], lambda: False
    )
    woken = threading.Event()
    child.start(woken)
    assert woken.wait(20)
    with pytest.raises(FedroundsError, match=r"FR-C71 the front ended with 3"):
        child.wait_ready(20, threading.Event())
    child.stop()
    assert not child.pid_file.exists()


def test_a_child_is_ended_and_its_talk_is_kept_closed(coordinator: CoordinatorFolder) -> None:
    program = "import sys, time; print('up', flush=True); time.sleep(600)"
    child = Child(
        coordinator,
        "front",
        [sys.executable, "-c", program],
        lambda: child.log.exists() and child.log.stat().st_size > 0,
    )
    child.start(threading.Event())
    child.wait_ready(20, threading.Event())
    pid = int(child.pid_file.read_text())
    assert child.log.read_text() == "up\n"
    child.stop()
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_whose_own_helper_has_ended_is_found_and_ended_as_if_it_had_died(
    coordinator: CoordinatorFolder,
) -> None:
    program = "import subprocess, sys, time; helper = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1); "
    program += "print(helper.pid, flush=True); time.sleep(600)"
    child = Child(coordinator, "superlink", [sys.executable, "-c", program], lambda: child.log.exists())
    woken = threading.Event()
    child.start(woken)
    end = time.monotonic() + 60
    while not (child.log.exists() and child.log.read_text().strip().isdigit()) and time.monotonic() < end:
        woken.wait(0.05)
    assert not child.helper_ended()
    os.kill(int(child.log.read_text()), signal.SIGKILL)
    while not child.helper_ended() and time.monotonic() < end:
        woken.wait(0.05)
    assert child.helper_ended()
    child.end()
    assert woken.wait(20)
    assert child.ended.is_set()
    child.stop()


def test_a_process_left_over_from_a_killed_supervisor_is_ended_and_nobody_elses(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    process = subprocess.Popen(command)
    try:
        pid_file = tmp_path / "front.pid"
        pid_file.write_text(f"{process.pid}\n")
        end_leftover(pid_file, [sys.executable, "-c", "another program"])
        assert process.poll() is None
        waiter = threading.Thread(target=process.wait)  # its parent must take note of its end
        waiter.start()
        end_leftover(pid_file, command)
        waiter.join(20)
        assert process.returncode == -15
    finally:
        process.kill()
