"""A site that left is not run again by habit: a restart, a unit of systemd. A new invitation begins anew."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedrounds_client.deciding import leave
from fedrounds_client.home import SiteHome
from fedrounds_client.join.supernode import accept, run
from fedrounds_common.errors import RefusedError


def test_a_site_that_left_is_not_run_again(home: SiteHome, invitation_of: Callable[..., Path]) -> None:
    # before the invitation of the tests expires
    now = datetime(2026, 11, 20, 12, tzinfo=UTC) - timedelta(days=1)
    accept(home, invitation_of(), now)
    leave(home)
    with pytest.raises(RefusedError, match="FR-C06"):
        run(home, print, threading.Event(), 3)
    assert home.has_left()
    home.left.write_text("another invitation's signature\n")
    assert not home.has_left()
