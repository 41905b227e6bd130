"""`-s key=value` sets one value over the file, read as TOML reads it."""

from __future__ import annotations

from typing import Any

import pytest

from fedrounds_common.errors import UsageError
from fedrounds_common.study.overrides import override, value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("1e-3", 0.001),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"5"', "5"),
        ("sgd", "sgd"),
        ("/data/my scans", "/data/my scans"),
        ("", ""),
        ("{ a = 1 }", {"a": 1}),
        ("1\nname = 'x'", "1\nname = 'x'"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_a_value_is_read_as_toml_and_else_is_text(text: str, value: object) -> None:
    assert value_of(text) == value


def test_a_setting_reaches_into_tables_that_are_there_or_not() -> None:
    raw: dict[str, Any] = {"training": {"rounds": 3, "batch": 2}}
    tables, keys = override(raw, ["training.rounds=5", "cohort.minimum = 2", "seed=1"])
    assert tables == {"training": {"rounds": 5, "batch": 2}, "cohort": {"minimum": 2}, "seed": 1}
    assert keys == ("training.rounds", "cohort.minimum", "seed")
    assert raw == {"training": {"rounds": 3, "batch": 2}}


def test_a_later_setting_wins_over_an_earlier_one() -> None:
    assert override({}, ["seed=1", "seed=2"])[0] == {"seed": 2}


def test_an_equals_sign_may_stand_in_the_value() -> None:
    assert override({}, ["name=a=b"])[0] == {"name": "a=b"}


def test_a_setting_reaches_into_a_list_of_tables_by_position() -> None:
    assert override({"privacy": [{"noise": 1}]}, ["privacy.0.noise=2"])[0] == {"privacy": [{"noise": 2}]}


def test_the_short_form_of_a_table_can_be_set_further() -> None:
    assert override({"strategy": "fedprox"}, ["strategy.mu=1"])[0] == {"strategy": {"name": "fedprox", "mu": 1}}


@pytest.mark.parametrize("setting", ["rounds", "=5", "training..rounds=5", "training.=1"])
def test_what_is_not_key_equals_value_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=r"key=value, e\.g\. training\.rounds=5"):
        override({}, [setting])


@pytest.mark.parametrize("setting", ["seed.a=1", "privacy.5.noise=2", "privacy.x=1"])
def test_a_key_that_leads_through_no_table_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="cannot be set there"):
        override({"seed": 1, "privacy": [{"noise": 1}]}, [setting])
