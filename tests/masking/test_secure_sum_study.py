"""`[wire.channel] name = "secure_sum"` in a study: what it accepts, and what it says of the cohort."""

from __future__ import annotations

from typing import Any

import pytest

from fedrounds_common.signing import SigningKey
from fedrounds_common.study.check import study_of

KEYS = {name: SigningKey.create().public.fingerprint for name in "ABC"}


def faults_of(channel: dict[str, Any], **tables: Any) -> dict[str, str]:
    raw = {"format": 1, "name": "a", "wire": {"channel": {"name": "secure_sum", **channel}}, **tables}
    return {fault.key: fault.message for fault in study_of(raw)[1]}


def test_a_study_may_name_it_and_the_keys_of_its_hospitals() -> None:
    assert faults_of({}) == {}
    assert faults_of({"keys": KEYS}, cohort={"sites": ["A", "B", "C"]}) == {}


@pytest.mark.parametrize(
    ("channel", "tables", "key", "said"),
    [
        ({"precision": 40}, {}, "precision", "sums of up to 67 bits"),
        ({"minimum": 300}, {}, "minimum", "at most 200 sites"),
        ({"minimum": 1}, {}, "minimum", "greater than or equal to 2"),
        ({"threshold": 0.4}, {}, "threshold", "greater than or equal to 0.5"),
        ({"neighbours": 3}, {}, "neighbours", "multiple of 2"),
        ({"keys": {"A": KEYS["A"], "B": KEYS["B"]}}, {}, "keys", "2 keys, where at least 3"),
        ({"keys": {**KEYS, "D": KEYS["A"]}}, {}, "keys", "one key is given to two sites"),
        ({"keys": {**KEYS, "D": "ed25519:x"}}, {}, "keys.D", "should match pattern"),
    ],
)
def test_a_channel_that_cannot_be_is_refused(channel: Any, tables: Any, key: str, said: str) -> None:
    found = faults_of(channel, **tables)
    assert said in found[f"wire.channel.{key}"]


@pytest.mark.parametrize(
    ("channel", "cohort", "key", "said"),
    [
        ({}, {"sites": ["A", "B"]}, "cohort.sites", "2: wire.channel.minimum = 3 of them"),
        ({"sites": 3}, {"sites": ["A", "B", "C", "D"]}, "cohort.sites", "4: wire.channel.sites = 3 of them"),
        ({}, {"per_round": 2}, "cohort.per_round", "2: wire.channel.minimum = 3 of them"),
        ({"keys": KEYS}, {"sites": ["A", "B", "D"]}, "wire.channel.keys", "none of D"),
    ],
)
def test_a_cohort_that_does_not_go_with_it_is_refused(channel: Any, cohort: Any, key: str, said: str) -> None:
    assert said in faults_of(channel, cohort=cohort)[key]
