"""Write a study, find its faults, see its values: what a person types and reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrounds.cli.study import LIKE
from fedrounds_common.study.parse import parse_study, read_study

Write = Callable[..., Path]


@pytest.mark.parametrize("like", LIKE)
def test_a_new_study_is_valid_as_it_stands_even_strictly(like: str, fedrounds: Any) -> None:
    assert fedrounds("study", "new", "mine.toml", "--like", like).status == 0
    checked = fedrounds("study", "check", "mine.toml", "--strict")
    assert (checked.status, checked.err) == (0, "")
    assert checked.out.startswith("mine.toml: no faults; digest ")


@pytest.mark.parametrize("like", LIKE)
def test_every_line_of_a_new_study_that_sets_a_plain_value_is_commented(like: str, fedrounds: Any) -> None:
    fedrounds("study", "new", "mine.toml", "--like", like)
    text = Path("mine.toml").read_text()
    assert text.startswith("# ")
    assert sum("#" in line for line in text.splitlines()) > 15


def test_a_new_study_never_writes_over_another(fedrounds: Any, study: Write) -> None:
    file = study()
    said = fedrounds("study", "new", file)
    assert said.status == 2
    assert said.err.startswith(f"FR-U10 {file}: there is a file already; name another, or add --force")
    assert fedrounds("study", "new", file, "--force").status == 0
    assert fedrounds("study", "new", "nowhere/mine.toml").status == 2


NINE = """\
[cases]
dims = 4
channels = ["t1", "t1"]
[training]
rounds = "5"
optimiser = "adma"
local_steps = 10
local_epochs = 1
[cohort]
held_out = ["b"]
sites = ["b"]
[evaluation]
folds = 1
[simulation]
baselines = ["poled"]
[simulation.reader]
name = "nifti_foldr"
"""


def test_nine_faults_are_nine_lines_and_exit_3(fedrounds: Any, study: Write) -> None:
    said = fedrounds("study", "check", study(NINE))
    lines = said.err.splitlines()
    assert said.status == 3
    assert lines[0].endswith("small.toml: 9 faults")
    assert [line.split(":")[0].split() for line in lines[1:-1]] == [
        ["line", "4", "cases.dims"],
        ["line", "5", "cases.channels"],
        ["line", "7", "training.rounds"],
        ["line", "8", "training.optimiser"],
        ["line", "9", "training.local_steps"],
        ["line", "12", "cohort.held_out"],
        ["line", "15", "evaluation.folds"],
        ["line", "17", "simulation.baselines.0"],
        ["line", "19", "simulation.reader.name"],
    ]
    assert lines[-1] == "`fedrounds explain FR-S01` says more."


def test_a_program_gets_each_fault_in_parts(fedrounds: Any, study: Write) -> None:
    error = fedrounds("study", "check", study(NINE), "--format", "json").envelope["error"]
    assert (error["code"], error["found"], len(error["faults"])) == ("FR-S01", "9 faults", 9)
    assert error["faults"][3] == {
        "line": 8,
        "key": "training.optimiser",
        "message": "'adma' is not one of adamw, adam, sgd (did you mean 'adam'?)",
    }


MISTAKES = [
    ("roundz = 5", "no such table or key; known are"),
    ("[trainin]\nrounds = 5", "line 3    trainin: there is no such table or key; did you mean 'training'?"),
    ("[training]\nround = 5", "line 4    training.round: there is no such key; did you mean 'rounds'?"),
    ("[training]\nlearning_rate = '1e-3'", "line 4    training.learning_rate: '1e-3': must be a number"),
    ("[training]\npatch = [32, 32]", "line 4    training.patch: [32, 32]: 3 numbers wanted, as cases.dims = 3"),
    ("[strategy]\nname = 'FedAvg'", "line 4    strategy.name: 'FedAvg' is not one of fedavg, fedavgm, fedprox, median, trimmed_mean (did you mean 'fedavg'?)"),
    ("[training]\nrounds = ", "line 4    file: 'rounds =': invalid value; this is not TOML"),
    ("[[privacy]]\nname = 'dp_sgd'", "training.local_steps: dp_sgd wants a number of steps that depends on nobody's cases"),
    ("[cases]\nlabels = ['a']", "line 4    cases.labels: ['a']: must be a table"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "message"), MISTAKES)
def test_the_commonest_mistakes_are_told_so(lines: str, message: str, fedrounds: Any, study: Write) -> None:
    said = fedrounds("study", "check", study(lines + "\n"))
    assert said.status == 3
    assert message in said.err


def test_a_study_that_is_not_there_names_one_that_is(fedrounds: Any, study: Write) -> None:
    study()
    said = fedrounds("study", "check", "smal.toml")
    assert said.status == 2
    assert said.err.splitlines()[0] == (
        "FR-U05 smal.toml: there is no such file; a study file (TOML); did you mean small.toml?"
    )


def test_a_built_in_study_is_found_by_its_name(fedrounds: Any) -> None:
    said = fedrounds("study", "show", "hippocampus", "--format", "json")
    assert said.envelope["data"]["study"]["name"] == "hippocampus"


def test_show_prints_a_study_that_reads_back_to_itself(fedrounds: Any, study: Write) -> None:
    file = study('[training]\nrounds = 3\n[simulation]\nworkers = 2\nreader = "phantom_glioma"\n')
    said = fedrounds("study", "show", file, "-s", "training.batch=4", "-s", "simulation.reader.scale=0.5")
    lines = {line.partition("  #")[0].rstrip(): line.rpartition("# ")[2] for line in said.out.splitlines()}
    assert (lines["rounds = 3"], lines["batch = 4"], lines['amp = "off"']) == ("line 4", "command line", "default")
    assert (lines["workers = 2"], lines["scale = 0.5"], lines['profile = "fets71"']) == (
        "line 6",
        "command line",
        "default",
    )
    assert parse_study(said.out, Path("shown.toml")).study == read_study(file, ["training.batch=4"]).study


def test_a_setting_that_is_none_is_told(fedrounds: Any, study: Write) -> None:
    said = fedrounds("study", "check", study(), "-s", "training.rounds")
    assert said.status == 2
    assert said.err.startswith("FR-U06 -s: 'training.rounds'; key=value, e.g. training.rounds=5")


def test_advice_is_told_and_is_a_fault_only_strictly(fedrounds: Any, study: Write) -> None:
    file = study("[training]\nbatch = 1\n[evaluation]\nlocal_validation = 0.0\n")
    told = fedrounds("study", "check", file)
    assert told.status == 0
    assert "advice: line 6    evaluation.local_validation: 0, no held-out site and no folds" in told.out
    assert "advice: -         training.patch: not given" in told.out
    strictly = fedrounds("study", "check", file, "--strict")
    assert strictly.status == 3
    assert "training.batch: 1: on a CPU" in strictly.err


def test_reading_the_data_tells_each_sites_cases(
    fedrounds: Any, study: Write, pictures: Write, picture_study: str
) -> None:
    pictures()
    said = fedrounds("study", "check", study(picture_study), "--data", "--format", "json")
    assert said.status == 0
    sites = said.envelope["data"]["sites"]
    assert [(site["name"], site["cases"], site["usable"]) for site in sites] == [("a", 3, 3), ("b", 2, 2), ("c", 2, 2)]


def test_a_case_that_cannot_be_used_is_named_and_the_exit_is_4(
    fedrounds: Any, study: Write, pictures: Write, picture_study: str
) -> None:
    pictures(broken="a_p2")
    said = fedrounds("study", "check", study(picture_study), "--data")
    assert said.status == 4
    assert "1 of 7 cases cannot be used" in said.out
    assert [line for line in said.out.splitlines() if line.startswith("a: FR-D")]


def test_a_folder_that_is_not_there_is_exit_4(fedrounds: Any, study: Write, picture_study: str) -> None:
    said = fedrounds("study", "check", study(picture_study), "--data")
    assert said.status == 4
    assert "FR-D01" in said.err


def test_landmarks_are_learned_and_fit_into_the_study(fedrounds: Any, tmp_path: Path) -> None:
    text = """format = 1
name = "landmarks"

[cases]
channels = ["t1", "ct"]
labels = { tumour = 1 }
window = { ct = [0, 80] }

[cohort]
held_out = ["s8"]

[simulation.reader]
name = "phantom_glioma"
profile = "eight"
scale = 0.03
spacing_mm = 10.0
"""
    file = tmp_path / "learn.toml"
    file.write_text(text)
    said = fedrounds("study", "landmarks", file)
    assert said.status == 0
    first, *lines = said.out.splitlines()
    assert first == "# learned from 14 cases of 7 sites"
    assert lines[1].startswith("landmarks = { t1 = [0.0, ")  # the window of CT needs none
    file.write_text(text.replace("[cohort]", "\n".join([*lines, "", "[cohort]"])))
    assert fedrounds("study", "check", file).status == 0
