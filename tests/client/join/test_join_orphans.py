"""What a site starts ends with whoever started it, also where that was killed before it was awake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

from fedrounds_client.apart import CHILD
from fedrounds_client.home import SiteHome
from fedrounds_client.join.supernode import NODE

WALLS = json.dumps({"network": False, "memory_gb": 0.0, "read_only": []})


@pytest.fixture
def gone() -> str:
    """The number of a process that has ended."""
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return ended.stdout.decode().strip()


@pytest.mark.slow
@pytest.mark.parametrize(("program", "words"), [(NODE, []), (CHILD, ["1", WALLS])], ids=["node", "training"])
def test_what_was_started_by_a_process_that_was_killed_since_does_nothing(
    program: Sequence[str], words: Sequence[str], home: SiteHome, gone: str
) -> None:
    before = {file: file.read_bytes() for file in home.folder.rglob("*") if file.is_file()}
    done = subprocess.run([*program, str(home.folder), *words, gone], input=b"", capture_output=True, timeout=120)
    # no error either, and whatever it tried without an invitation and a message would have been one
    assert (done.returncode, done.stdout, b"Error" in done.stderr) == (1, b"", False)
    assert {file: file.read_bytes() for file in home.folder.rglob("*") if file.is_file()} == before
