"""A round is charged on disk before its update leaves, also where the first try failed on the way there."""

from __future__ import annotations

import errno
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, final

import pytest

from fedrounds_client import lineage
from fedrounds_common.disk import Steps, SystemSteps, through
from fedrounds_common.leaving import Ask


@final
class Syncs:
    """The system's steps; `fails`: no fsync of a file succeeds. `said`: the files whose bytes are on disk."""

    def __init__(self, fails: bool = False) -> None:
        self.system, self.fails, self.said, self.open_ = SystemSteps(), fails, list[str](), dict[int, str]()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return cast("Callable[..., Any]", getattr(self.system, name))

    def open(self, file: Path, flags: int, mode: int) -> int:
        handle = self.system.open(file, flags, mode)
        self.open_[handle] = file.name
        return handle

    def sync(self, handle: int) -> None:
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        self.system.sync(handle)
        self.said.append(self.open_[handle])


def test_a_charge_whose_fsync_failed_is_on_disk_before_the_round_is_answered_again(
    enrolled: Callable[..., Any], study_ask: Callable[..., Ask]
) -> None:
    site, ask, now = enrolled(), study_ask(), datetime.now(UTC)
    with through(cast("Steps", Syncs(fails=True))), pytest.raises(OSError, match="Input/output"):
        lineage.see(site.home, ask, {"p1"}, now)
    # the line can be read, and a power cut would take it away
    assert lineage.uses(site.home, ask.digest, "trained") == {lineage.use_of(ask)}
    steps = Syncs()
    with through(cast("Steps", steps)):
        lineage.see(site.home, ask, {"p1"}, now)
    assert steps.said == ["lineage.jsonl"]
    assert len(site.home.lineage.read_text("utf-8").splitlines()) == 1
