"""The units: systemd itself finds no fault in them, their commands are ours, and little is left open."""

from __future__ import annotations

import getpass
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fedrounds_client.home import SiteHome
from fedrounds_client.join.unit import unit_of

REPO = Path(__file__).resolve().parents[2]
COORDINATOR = REPO / "deploy/systemd/fedrounds-coordinator.service"
EXPOSED = 3.0  # of 10; a unit without any of these lines has 9.6
Accepts = Callable[[Sequence[str]], None]


def command_of(unit: str) -> list[str]:
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    return shlex.split(line)


@pytest.fixture(params=["coordinator", "site"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "coordinator":
        return COORDINATOR.read_text("utf-8")
    from fedrounds.cli.main import main

    (tmp_path / "images").mkdir()
    made = ["site", "init", str(tmp_path / "site"), "--name", "oslo", "-s", f"data.root={tmp_path / 'images'}"]
    assert main(made) == 0
    return unit_of(SiteHome(tmp_path / "site"), getpass.getuser())


def test_the_command_is_ours(unit: str, accepts: Accepts) -> None:
    words = command_of(unit)
    start = next(number for number, word in enumerate(words) if word in ("coordinator", "site"))
    accepts(["fedrounds", *words[start:]])


def test_systemd_finds_no_fault_and_little_is_left_open(unit: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    file = tmp_path / "fedrounds-tried.service"
    # the program and the account of another machine
    here = unit.replace(command_of(unit)[0], shutil.which("true") or "/bin/true").replace("User=fedrounds", "User=root")
    file.write_text(here, "utf-8")
    said = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    words = [analyze, "security", "--offline=true", f"--threshold={EXPOSED * 10:.0f}", "--no-pager", file]
    weighed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert weighed.returncode == 0, weighed.stdout[-300:]
