"""SUM at a small size: masks cancel, the table is written, and six bytes a number go up where plain has four."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "secure_sum.py"


@pytest.mark.slow
def test_the_table_is_written(tmp_path: Path) -> None:
    words = ["--sites", "3,8", "--entries", "5000", "--neighbours", "4", "-o", str(tmp_path)]
    said = subprocess.run([sys.executable, str(PROGRAM), *words], check=True, capture_output=True, text=True).stdout
    rows = json.loads((tmp_path / "secure_sum.json").read_text("utf-8"))["rows"]
    assert [(row["sites"], row["neighbours"]) for row in rows] == [(3, 2), (8, 7), (8, 4)]
    for row in rows:
        assert 6 * 5001 < row["up"] < 6 * 5001 + 5000
        assert 4 * 5000 < row["plain_up"] < 4 * 5000 + 1000
    assert "| 8 | 4 | 5,000 |" in said
    assert (tmp_path / "secure_sum.md").read_text("utf-8").startswith("# secure_sum")
