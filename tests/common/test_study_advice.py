"""Advice on what is allowed and seldom meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrounds_common.study.advice import advice
from fedrounds_common.study.parse import parse_study

HEAD = """format = 1
name = "x"
[training]
patch = [8, 8, 8]
[cohort]
minimum = 3
sites = ["a", "b", "c", "d", "e"]
"""


@pytest.mark.parametrize(
    ("drawn", "down", "told"),
    [(3, "int8", False), (0, "int8", False), (2, "float16", False), (2, "int8", True), (2, "top_k", True)],
)
def test_differences_to_sites_that_mostly_missed_the_last_round_are_advised_against(
    drawn: int, down: str, told: bool
) -> None:
    text = HEAD.replace("minimum = 3", f"minimum = {drawn or 3}\nper_round = {drawn}") + f'[wire]\ndown = "{down}"\n'
    found = [fault for fault in advice(parse_study(text, Path("x.toml"))) if fault.key == "wire.down.name"]
    assert [fault.message.split(":")[0] for fault in found] == (["2 of 5 sites are drawn a round"] if told else [])
