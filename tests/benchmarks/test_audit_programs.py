"""The programs behind the audits: the real mechanism passes, each of three broken ones is caught, and the table is printed."""

from __future__ import annotations

import canaries
import pytest


@pytest.mark.slow
def test_two_runs_each_catch_all_three_broken_mechanisms(capsys: pytest.CaptureFixture[str]) -> None:
    assert canaries.main(2, [3.0]) == 0
    said = capsys.readouterr().out
    assert "the real mechanism" in said
    assert "above the claim in 0 of 2 runs" in said
    for name in ("noise left out", "clipping left out", "a third of the noise"):
        assert name in said
    assert "shuffled" in said
    assert said.rstrip().endswith("each broken one was caught")
