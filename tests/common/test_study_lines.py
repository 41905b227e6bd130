"""Every key of a TOML text has the line that a reader would count."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fedrounds_common.study.lines import line_of, lines_of

WORDS = st.sampled_from(["a", "b", "rounds", "spacing_mm", "T1-ce", "7"])
QUOTED = st.sampled_from(['"with space"', "'lit eral'", '"esc\\"aped"', '"\\u0041"'])
SCALARS = st.sampled_from(
    [
        "1",
        "-2.5e-3",
        "true",
        "nan",
        '"#no comment"',
        "'it\"s'",
        '"""one\ntwo"""',
        "'''a\n'b'\n'''",
        "1979-05-27T07:32:00Z",
    ]
)
GAPS = st.sampled_from(["", "\n", "# [not.a.table]\n", "\n\n# x = 1\n"])


def flattened(value: Any, above: str = "") -> set[str]:
    """Dotted keys of all tables, keys and list elements of a parsed text."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found: set[str] = set()
    for key, entry in pairs:
        dotted = f"{above}.{key}" if above else str(key)
        found |= {dotted} | (flattened(entry, dotted) if isinstance(entry, dict | list) else set())
    return found


@st.composite
def values(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["scalar", "scalar", "list", "table"]))
    if kind == "scalar":
        return draw(SCALARS)
    if kind == "list":
        breaks = draw(st.sampled_from([", ", ",\n  ", ", # why\n  "]))
        inner = draw(st.lists(SCALARS, max_size=3))
        return "[" + breaks.join(inner) + "]"
    keys = draw(st.lists(WORDS, max_size=3, unique=True))
    return "{ " + ", ".join(f"{key} = {draw(SCALARS)}" for key in keys) + " }"


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[str, int]]:
    """A text, and the line of each of its tables' own keys, counted while it is written."""
    text, expected = "", {}
    for table in draw(st.lists(st.one_of(WORDS, QUOTED), max_size=3, unique=True)):
        text += draw(GAPS)
        name = next(iter(tomllib.loads(f"[{table}]")))
        if name in expected:
            continue
        expected[name] = text.count("\n") + 1
        text += f"[{table}]\n"
        for key in draw(st.lists(WORDS, max_size=4, unique=True)):
            text += draw(GAPS)
            expected[f"{name}.{key}"] = text.count("\n") + 1
            text += f"{key} = {draw(values())} # end\n"
    return text, expected


@given(documents())
def test_each_key_stands_where_it_was_written(document: tuple[str, dict[str, int]]) -> None:
    text, expected = document
    lines = lines_of(text)
    assert {key: lines.get(key) for key in expected} == expected


@given(documents())
def test_no_key_of_the_text_is_missed_and_none_is_made_up(document: tuple[str, dict[str, int]]) -> None:
    text, _ = document
    assert set(lines_of(text)) == flattened(tomllib.loads(text))


@given(documents())
def test_windows_line_ends_change_nothing(document: tuple[str, dict[str, int]]) -> None:
    text, _ = document
    assert lines_of(text.replace("\n", "\r\n")) == lines_of(text)


def test_entries_of_a_list_of_tables_are_counted_and_their_inner_tables_belong_to_the_last() -> None:
    text = "[[privacy]]\nname = 'a'\n\n[[privacy]]\nname = 'b'\n[privacy.noise]\nscale = 1\n"
    lines = lines_of(text)
    assert (lines["privacy.0.name"], lines["privacy.1"], lines["privacy.1.noise.scale"]) == (2, 4, 7)


def test_dotted_keys_mark_every_table_on_the_way() -> None:
    lines = lines_of("x = 1\ntraining.deep.rounds = 5\n")
    assert (lines["training"], lines["training.deep"], lines["training.deep.rounds"]) == (2, 2, 2)


def test_elements_of_a_list_over_several_lines_have_their_own() -> None:
    lines = lines_of("channels = [\n  't1', # first\n  't2',\n]\n")
    assert (lines["channels"], lines["channels.0"], lines["channels.1"]) == (1, 2, 3)


def test_a_key_that_is_not_there_takes_the_line_of_its_table() -> None:
    lines = {"training": 3, "training.rounds": 4}
    assert line_of(lines, "training.rounds") == 4
    assert line_of(lines, "training.batch.0") == 3
    assert line_of(lines, "cohort.minimum") == 0
