"""docker/health.py says of a site what the launcher says of itself, without loading Flower for each look."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from fedrounds.health_site import is_up
from fedrounds_client.home import SiteHome
from fedrounds_client.join.supernode import Marks

HEALTH = Path(__file__).resolve().parents[2] / "docker/health.py"


def asked(*words: object) -> int:
    return subprocess.run([sys.executable, HEALTH, *map(str, words)], capture_output=True, check=False).returncode


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    home = SiteHome(tmp_path / "site")
    home.flwr.mkdir(parents=True)
    return home


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("runs", [False, True])
def test_a_site_serves_when_its_launcher_runs_and_is_connected(site: SiteHome, *, runs: bool, connected: bool) -> None:
    marks = Marks(site.flwr)
    marks.lock.write_text("1\n")
    if connected:
        marks.connected.touch()
    with marks.lock.open("a") as stream:
        if runs:
            fcntl.flock(stream, fcntl.LOCK_EX)
        assert is_up(site) is (runs and connected)
        assert asked("site", site.folder) == (0 if is_up(site) else 1)
        assert asked("site", site.folder, "--alive") == (0 if runs else 1)


def test_a_site_that_was_never_joined_does_not_serve(tmp_path: Path) -> None:
    assert asked("site", tmp_path) == 1


def test_a_folder_that_is_no_coordinators_does_not_serve(tmp_path: Path) -> None:
    assert asked("coordinator", tmp_path) == 1


def test_another_word_is_told_how_it_is_used() -> None:
    assert asked("sites", "here") == 1
