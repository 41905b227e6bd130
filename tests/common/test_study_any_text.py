"""Whatever a file or a message holds, it is a study or its faults are told: nothing else ever comes out."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fedrounds_common.errors import Fault, StudyError, UsageError
from fedrounds_common.study.canonical import agreed_tables, canonical_text, resolved_toml, study_from_canonical
from fedrounds_common.study.parse import parse_study
from fedrounds_common.study.study import Study

WHOLE = """\
format = 1
name = "chest"
strategy = "fedprox"
[cases]
channels = ["t1", "t2"]
labels = { a = 1, b = 2 }
regions = { R = ["a", "b"] }
spacing_mm = [1.0, 1, 2.5]
[training]
rounds = 3
patch = [
  8, # voxels
  8,
  8,
]
gradient_norm = "none"
[wire]
channel = { name = "plain" }
[cohort]
held_out = ["s1"]
[simulation.reader]
name = "x"
"""
PIECES = [
    "=",
    "[",
    "]",
    "{",
    "}",
    '"',
    "'",
    "\n",
    ".",
    ",",
    "#",
    "0",
    "-1",
    "nan",
    "[[privacy]]",
    "name",
    "\\",
    "é",
    "\x00",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def read(text: str) -> Study | tuple[Fault, ...]:
    try:
        return parse_study(text, Path("study.toml")).study
    except StudyError as error:
        return error.faults


def sound(found: Study | tuple[Fault, ...], text: str) -> bool:
    """A study, or at least one fault, each on a line that the text has (0: on none)."""
    lines = text.count("\n") + 1
    return isinstance(found, Study) or (bool(found) and all(0 <= fault.line <= lines for fault in found))


@settings(max_examples=150)
@given(st.integers(0, len(WHOLE)), st.integers(0, 12), st.lists(st.sampled_from(PIECES), max_size=3).map("".join))
def test_a_file_with_a_slip_is_a_study_or_tells_its_faults(at: int, cut: int, put: str) -> None:
    text = WHOLE[:at] + put + WHOLE[at + cut :]
    study = read(text)
    assert sound(study, text)
    if isinstance(study, Study):
        assert parse_study(resolved_toml(study, {}, {}), Path("again.toml")).study == study


@given(st.text(max_size=60))
def test_any_text_is_a_study_or_tells_its_faults(text: str) -> None:
    assert sound(read(text), text)


@settings(max_examples=100)
@given(st.data())
def test_a_message_with_any_value_in_any_place_is_a_study_or_is_refused(data: st.DataObject) -> None:
    tables = agreed_tables(parse_study(WHOLE, Path("study.toml")).study)
    here = tables
    while True:
        key = data.draw(st.sampled_from([*sorted(here), "new key"]))
        if not isinstance(here.get(key), dict) or data.draw(st.booleans()):
            break
        here = here[key]
    here[key] = data.draw(VALUES)
    try:
        study = study_from_canonical(json.dumps(tables))
    except StudyError:
        return
    assert study_from_canonical(canonical_text(study)) == study


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_setting_is_taken_or_told(key: str, value: str) -> None:
    with suppress(StudyError, UsageError):
        parse_study(WHOLE, Path("study.toml"), [f"{key}={value}"])
