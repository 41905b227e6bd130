"""The canonical text means the study, the whole study, and nothing but the study."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrounds_common.errors import StudyError
from fedrounds_common.study.canonical import agreed_tables, canonical_text, digest, resolved_toml, study_from_canonical
from fedrounds_common.study.check import AGREED, study_of
from fedrounds_common.study.parse import parse_study
from fedrounds_common.study.study import Study

HEAD = 'format = 1\nname = "chest"\n'
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
NUMBERS = st.floats(min_value=1e-6, max_value=1e6)
SHARES = st.floats(min_value=0, max_value=1)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any selection of these fields: what is left out takes its default."""
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def raw_studies(draw: st.DrawFn) -> dict[str, Any]:
    dims = draw(st.sampled_from([2, 3]))
    labels = draw(st.dictionaries(NAMES, st.integers(1, 255), min_size=1, max_size=4))
    labels = {name: value for value, name in {value: name for name, value in labels.items()}.items()}
    regions = st.dictionaries(NAMES, st.lists(st.sampled_from(sorted(labels)), min_size=1, unique=True), max_size=3)
    grid = st.lists(st.integers(1, 64), min_size=dims, max_size=dims)
    spacing = st.lists(st.one_of(NUMBERS, st.integers(1, 9)), min_size=dims, max_size=dims)
    cases = draw(some(
        channels=st.lists(NAMES, min_size=1, max_size=4, unique=True),
        regions=regions,
        spacing_mm=st.one_of(spacing, st.just("none")),
        orientation=st.sampled_from(["RAS", "LPS", "none"]),
    ))  # fmt: skip
    training = draw(some(
        rounds=st.integers(1, 100),
        local_steps=st.integers(1, 9),
        patch=grid,
        learning_rate=st.one_of(NUMBERS, st.integers(1, 3)),
        gradient_norm=st.one_of(NUMBERS, st.just("none")),
        warmup=SHARES,
    ))  # fmt: skip
    strategy = draw(st.sampled_from([{"name": "fedavg"}, {"name": "fedprox", "mu": 1}, {"name": "fedavgm"}]))
    held_out = draw(st.lists(NAMES, max_size=3, unique=True))
    return {
        "format": 1,
        "name": draw(NAMES),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "cases": {"dims": dims, "labels": labels, **cases},
        "training": training,
        "strategy": strategy,
        "cohort": {"held_out": held_out},
    }


def study_in(raw: dict[str, Any]) -> Study:
    study, faults = study_of(raw)
    assert study is not None, faults
    return study


@settings(max_examples=60)
@given(raw_studies())
def test_a_study_is_the_same_after_it_travelled(raw: dict[str, Any]) -> None:
    study = study_in(raw)
    text = canonical_text(study)
    received = study_from_canonical(text)
    assert received == study
    assert canonical_text(received) == text
    # equality of dicts forgets order; the order of the network's outputs must not change either
    assert list(received.cases.labels.items()) == list(study.cases.labels.items())
    assert list(received.cases.scored.items()) == list(study.cases.scored.items())


@settings(max_examples=60)
@given(raw_studies(), st.dictionaries(st.text(max_size=5), st.one_of(st.text(), st.integers(-9, 9), st.booleans())))
def test_the_resolved_file_reads_back_to_the_same_study(raw: dict[str, Any], simulation: dict[str, Any]) -> None:
    study = study_in(raw)
    read = parse_study(resolved_toml(study, {"reader": simulation}, {}), Path("study.toml"))
    assert read.study == study
    assert read.simulation == {"reader": simulation}
    assert canonical_text(read.study) == canonical_text(study)


def test_the_canonical_text_is_one_line_of_sorted_json_of_the_agreed_half() -> None:
    read = parse_study(HEAD + "[simulation]\nworkers = 3\n", Path("study.toml"))
    text = canonical_text(read.study)
    assert "\n" not in text
    assert "simulation" not in text
    assert set(json.loads(text)) == set(AGREED)
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_where_the_data_lies_and_how_the_file_is_laid_out_do_not_change_the_digest() -> None:
    one = parse_study(HEAD + "[training]\nrounds = 3\n[simulation]\nworkers = 3\n", Path("a.toml")).study
    other = parse_study("training.rounds = 3 # three\nname = 'chest'\nformat = 1\n", Path("b.toml")).study
    assert digest(one) == digest(other)


@pytest.mark.parametrize("line", ["seed = 1", "[training]\nlearning_rate = 0.002", '[strategy]\nname = "fedprox"'])
def test_any_agreed_value_changes_the_digest(line: str) -> None:
    plain = parse_study(HEAD, Path("a.toml")).study
    assert digest(parse_study(HEAD + line + "\n", Path("a.toml")).study) != digest(plain)


def test_a_default_written_out_does_not_change_the_digest() -> None:
    spelt = parse_study(HEAD + "[training]\nrounds = 10\nlearning_rate = 1e-3\n", Path("a.toml")).study
    assert digest(spelt) == digest(parse_study(HEAD, Path("a.toml")).study)


def test_the_order_of_labels_and_regions_is_the_networks_and_not_the_files() -> None:
    labels = "[cases]\nlabels = { enhancing = 4, necrosis = 1 }\n"
    study = parse_study(HEAD + labels, Path("a.toml")).study
    assert list(study.cases.scored) == ["necrosis", "enhancing"]
    regions = "regions = { WT = ['enhancing', 'necrosis'], ET = ['enhancing'] }\n"
    study = parse_study(HEAD + labels + regions, Path("a.toml")).study
    assert list(study.cases.scored) == ["ET", "WT"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "text: is not canonical"),
        ("[]", "a JSON object is wanted"),
        ('{"name": "a", "name": "b"}', "a key stands twice"),
        ("[" * 100_000, "text: is not canonical"),
        ('{"format": 1, "name": "x", "training": {"rounds": NaN}}', "training.rounds: nan: a finite number is wanted"),
        ('{"format": 1, "name": "../../x"}', "name"),
        ('{"format": 1, "name": "x", "task": {"name": "os"}}', "'os' is not one of .*segmentation"),
        ('{"format": 1, "name": "x", "task": {"name": null}}', "task.name: null: a value is wanted"),
    ],
)
def test_what_a_site_receives_is_checked_again(text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        study_from_canonical(text)


def test_the_resolved_file_tells_each_origin_behind_its_value() -> None:
    read = parse_study(HEAD + "[training]\nrounds = 3\n", Path("study.toml"), ["training.batch=4"])
    lines = resolved_toml(read.study, read.simulation, read.origins).splitlines()
    wanted = {"rounds = 3": "line 4", "batch = 4": "command line", 'amp = "off"': "default"}
    for value, origin in wanted.items():
        (line,) = [line for line in lines if line.startswith(value)]
        assert line.endswith(f"# {origin}")


def test_odd_keys_and_nested_tables_are_written_so_that_toml_reads_them() -> None:
    odd = {"a b": {"\x7f": [1, {"x": "y"}], "t": [{"u": {"v": True}}, {"u": {}}]}, "l": [], "e": 1e-05}
    study = parse_study(HEAD, Path("a.toml")).study
    assert tomllib.loads(resolved_toml(study, odd, {}))["simulation"] == odd


def test_a_study_cannot_be_changed() -> None:
    study = parse_study(HEAD, Path("a.toml")).study
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.seed = 3  # type: ignore[misc]


def test_every_part_of_a_study_is_in_its_tables() -> None:
    study = parse_study(HEAD, Path("a.toml")).study
    assert set(agreed_tables(study)) == {field.name for field in dataclasses.fields(Study)}
