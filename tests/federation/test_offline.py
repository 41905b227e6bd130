"""After set-up nothing needs a network, nothing asks for one, and the check that says so can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
OFFLINE = [sys.executable, str(REPO / "tests/offline.py")]
DIALLED_OUT, NOT_PERMITTED = 90, 91


def offline(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*OFFLINE, *words], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module", autouse=True)
def _namespaces(tmp_path_factory: pytest.TempPathFactory) -> None:
    if offline("true", cwd=tmp_path_factory.mktemp("probe")).returncode == NOT_PERMITTED:
        pytest.skip("network namespaces are not permitted here")


def test_the_check_hands_on_the_commands_own_status(tmp_path: Path) -> None:
    assert offline("sh", "-c", "exit 7", cwd=tmp_path).returncode == 7


def test_loopback_works_inside(tmp_path: Path) -> None:
    program = (
        "import socket; here = socket.socket(); here.bind(('127.0.0.1', 0)); here.listen(); "
        "socket.create_connection(here.getsockname(), timeout=5)"
    )
    assert offline(sys.executable, "-c", program, cwd=tmp_path).returncode == 0


# 198.51.100.0/24 and 2001:db8::/32 are set aside for documentation and belong to nobody
@pytest.mark.parametrize(
    "dial",
    [
        "socket.create_connection(('198.51.100.7', 443), timeout=2)",
        "socket.create_connection(('2001:db8::7', 443), timeout=2)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('198.51.100.7', 53))",
    ],
)
def test_a_child_that_dials_out_fails_the_check_though_its_parent_ends_well(tmp_path: Path, dial: str) -> None:
    child = f"import socket\ntry:\n    {dial}\nexcept OSError:\n    pass"
    parent = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {child!r}]).returncode)"
    done = offline(sys.executable, "-c", parent, cwd=tmp_path)
    assert done.returncode == DIALLED_OUT, done.stderr
    assert "attempts to reach the network" in done.stderr


@pytest.mark.slow
def test_the_demo_runs_without_a_network_and_does_not_ask_for_one(tmp_path: Path) -> None:
    fedrounds = str(Path(sys.executable).parent / "fedrounds")
    done = offline(fedrounds, "demo", "--quick", cwd=tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert list(tmp_path.rglob("consensus.safetensors")), "the demo left no consensus in the folder it ran in"
