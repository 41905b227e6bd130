"""`fedrounds list networks --parameters`, and the table of docs/networks.md that was made with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_only_networks_have_parameters(fedrounds: Callable[..., Any]) -> None:
    done = fedrounds("list", "tasks", "--parameters")
    assert done.status == 2
    assert "of networks only" in done.err


@pytest.mark.slow
def test_the_table_in_the_docs_is_what_the_command_prints(fedrounds: Callable[..., Any], repo: Path) -> None:
    data = fedrounds("list", "networks", "--parameters", "--format", "json").envelope["data"]
    rows = [
        f"| `{each['name']}` | {'`' + each['setting'] + '`' if each['setting'] else ''} | {each['makes']} | "
        + " | ".join("–" if number is None else f"{number:,}" for number in each["weights"])
        + " |"
        for each in data["entries"]
    ]
    page = (repo / "docs" / "networks.md").read_text(encoding="utf-8")
    table = page.partition("<!-- counted")[2].partition("<!-- end -->")[0].splitlines()[3:]
    assert table == rows, "put these lines into docs/networks.md:\n" + "\n".join(rows)
