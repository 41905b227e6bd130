"""What somebody must mend first, after a site was once connected: said once, and tried again in its own time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedrounds_client.home import SiteHome
from fedrounds_client.join import supernode
from fedrounds_client.join.reach import Way
from fedrounds_client.join.supernode import HOPELESS_S, LONGEST_S, Marks, accept


class Waits(threading.Event):
    """A stop that comes after so many pauses; no pause takes any time. `then` is called at the first."""

    def __init__(self, most: int, then: Callable[[], None]) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self.most, self.then = most, then

    def wait(self, timeout: float | None = None) -> bool:
        if not self.pauses:
            self.then()
        self.pauses.append(timeout or 0.0)
        if len(self.pauses) == self.most:
            self.set()
        return self.is_set()


def test_a_hopeless_fault_after_a_first_connection_is_said_once_and_tried_seldom(
    home: SiteHome, invitation_of: Callable[..., Path], serve: Any, authority: Any, another_authority: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    front = serve(authority.issue(tmp_path), date=datetime.now(UTC) + timedelta(hours=1))
    accept(home, invitation_of(address=front.address))
    way, marks, said = Way(front.address, authority.pem), Marks(home.flwr), list[str]()

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("FR-C83"):
            marks.connected.touch()  # as the node does once it has got through

    def another_ca() -> None:
        object.__setattr__(way, "ca", another_authority.pem)

    stop = Waits(5, another_ca)
    supernode._keep_running(home, way, marks, say, stop)
    assert [line[:6] for line in said] == ["FR-C83", "FR-C85"]
    assert all("\n" not in line for line in said)
    assert stop.pauses == [1.0, *[HOPELESS_S] * 4]
    assert HOPELESS_S > LONGEST_S
