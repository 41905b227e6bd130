"""`list`, `explain` and `doctor`: what there is, what went wrong, and whether this machine will do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import Field

from fedrounds import health
from fedrounds.cli.listing import FILES, TABLES, describe
from fedrounds_common.explain import explanations
from fedrounds_common.study.tables import Augmentation


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_is_listed_with_a_line_on_each(kind: str, fedrounds: Any) -> None:
    data = fedrounds("list", kind, "--format", "json").envelope["data"]
    assert data["kind"] == kind
    assert all(entry["summary"] for entry in data["entries"])
    assert data["entries"]


def test_augmentations_are_listed_as_a_study_names_them(fedrounds: Any) -> None:
    entries = fedrounds("list", "augmentations", "--format", "json").envelope["data"]["entries"]
    assert [entry["name"] for entry in entries] == list(get_args(Augmentation))
    assert all(entry["summary"].endswith(".") for entry in entries)
    assert "which must leave it out" in entries[0]["summary"], "what goes on in the next line belongs to it"


@pytest.mark.parametrize("kind", FILES)
def test_profiles_and_studies_are_listed_by_what_their_files_say_first(kind: str, fedrounds: Any) -> None:
    entries = fedrounds("list", kind, "--format", "json").envelope["data"]["entries"]
    assert entries
    assert all(entry["summary"] for entry in entries)


def test_one_plug_in_tells_its_settings(fedrounds: Any) -> None:
    said = fedrounds("list", "strategies", "fedprox")
    assert said.status == 0
    assert [line.split() for line in said.out.splitlines() if line.startswith("mu")] == [
        ["mu", "number", ">=", "0", "0.01"]
    ]


def test_a_plug_in_of_ones_own_is_listed_too(fedrounds: Any, tmp_path: Path) -> None:
    (tmp_path / "own/strategies").mkdir(parents=True)
    (tmp_path / "own/strategies/mine.py").write_text('"""My own rule."""\n')
    said = fedrounds("list", "strategies", "--plugins", tmp_path / "own")
    assert "My own rule." in said.out


def test_listing_imports_no_plug_in(fedrounds: Any, tmp_path: Path) -> None:
    (tmp_path / "own/tasks").mkdir(parents=True)
    (tmp_path / "own/tasks/loud.py").write_text('"""Loud."""\nraise RuntimeError("imported")\n')
    assert fedrounds("list", "tasks", "--plugins", tmp_path / "own").status == 0


def test_a_kind_or_a_name_that_is_misspelt_names_the_nearest(fedrounds: Any) -> None:
    assert "did you mean 'strategies'?" in fedrounds("list", "stratgies").err
    assert "did you mean 'fedprox'?" in fedrounds("list", "strategies", "fedprx").err


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "whole number"),
        (Annotated[float, Field(gt=0, le=1)], "number > 0 <= 1"),
        (Literal["a", "b"], "a | b"),
        (tuple[int, ...], "list of whole number"),
        (dict[str, int], "table"),
        (float | None, "number or none"),
        (bool, "true or false"),
    ],
)
def test_a_type_is_told_in_plain_words(kind: Any, words: str) -> None:
    assert describe(kind) == words


def test_explain_says_why_and_what_to_do(fedrounds: Any) -> None:
    said = fedrounds("explain", "s01")
    assert said.out.startswith("FR-S01  The study file has faults\n\nWhy: ")
    assert "\n\nWhat to do: " in said.out
    assert fedrounds("explain", "S99").status == 2


def test_explain_without_a_code_lists_them_all(fedrounds: Any) -> None:
    data = fedrounds("explain", "--format", "json").envelope["data"]
    assert [entry["code"] for entry in data["codes"]] == list(explanations())


# ---------------------------------------------------------------- doctor


def level(findings: tuple[health.Finding, ...], what: str) -> str:
    return next(finding.level for finding in findings if finding.what == what)


def test_doctor_tells_of_everything_it_should(fedrounds: Any) -> None:
    said = fedrounds("doctor", "--format", "json")
    findings = said.envelope["data"]["findings"]
    told = {finding["what"] for finding in findings}
    assert told >= {"Python", "libraries", "torchvision", "telemetry", "processor cores", "memory", "run folder", "GPU"}
    assert said.status == (5 if any(finding["level"] == "fault" for finding in findings) else 0)


def test_doctor_is_red_where_runs_cannot_be_written(fedrounds: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(health.os, "access", lambda place, mode: False)  # root may write anywhere
    said = fedrounds("doctor", "--runs", tmp_path / "runs", "--format", "json")
    assert said.status == 5
    (finding,) = [f for f in said.envelope["data"]["findings"] if f["what"] == "run folder"]
    assert (finding["level"], finding["do"]) == ("fault", "name another with --runs")


def test_telemetry_that_is_on_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert level(health.examine(Path("runs")), "telemetry") == "fault"


def test_threads_set_by_the_user_are_told() -> None:
    findings = health.examine(Path("runs"), {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": None})
    assert (level(findings, "OMP_NUM_THREADS"), level(findings, "OMP_WAIT_POLICY")) == ("advice", "ok")


def test_versions_that_were_tried_are_read_from_the_constraints(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("# tried\nnumpy==2.1.0\ntorch==2.13.0\n")
    assert health.tried_versions(file) == {"numpy": "2.1.0", "torch": "2.13.0"}
    assert health.tried_versions(tmp_path / "none.txt") == {}


def test_free_memory_is_some_gigabytes() -> None:
    free = health.free_memory_bytes()
    assert free is None or 1e7 < free < 1e14
