from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fedworld import World, may_be_apart

SITES = ("s1", "s2", "s3")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Coordinator and three hospitals, each on a network of its own; on one where namespaces are not permitted."""
    with World(tmp_path, SITES, may_be_apart()) as made:
        yield made
