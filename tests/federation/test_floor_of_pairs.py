"""The floor of a task that judges pairs, where one hospital has too few cases to make any."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrounds import floor
from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.study.parse import read_study
from fedrounds_common.study.study import Study
from fedrounds_common.task import CaseScore
from fedrounds_common.tasks.registration import Registration

TASK = Registration()
TEXT = """
format = 1
name = "pairs"
[task]
name = "registration"
[cases]
dims = 2
channels = ["t1"]
labels = { body = 1 }
[model]
name = "voxelmorph"
"""


def single(number: int) -> Case:
    image = np.zeros((1, 16, 16), np.float32)
    image[0, 4 + number : 10 + number, 5:11] = 1
    return Case(CaseRef(f"c{number}", f"p{number}"), image, Target((image[0] > 0).astype(np.uint8)), np.eye(4))


def guessed(study: Study, cases: list[Case]) -> floor.Guessed:
    return TASK.guessed(TASK.judged(cases, study.cases, 1), study.cases, study.evaluation)


def test_a_hospital_without_a_pair_takes_no_rule_from_the_others(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(TEXT, "utf-8")
    study = read_study(tmp_path / "study.toml").study
    found = {
        ("a", "local-val"): guessed(study, [single(0), single(1), single(2)]),
        ("b", "local-val"): guessed(study, [single(3)]),
        ("c", "local-val"): guessed(study, [single(1), single(4)]),
    }
    assert found["b", "local-val"] == {}
    # over the wire and back, as from a worker
    found = {where: floor.unpacked(floor.packed(rules)) for where, rules in found.items()}
    scores, rules = floor.choose(found, TASK, study)
    assert rules == {"": "centres"}, "shifted squares are told by their middles"
    assert {where: len(each) for where, each in scores.items()} == {
        ("a", "local-val"): 6,
        ("b", "local-val"): 0,
        ("c", "local-val"): 2,
    }
    every: list[CaseScore] = [score for each in scores.values() for score in each]
    assert min(score.values["mean"]["dice"] for score in every) > 0.99
    tally = TASK.tally(scores["b", "local-val"], study.cases, study.evaluation, 1)
    assert tally["cases"].tolist() == [0]
