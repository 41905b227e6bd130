"""A run that is judged at one hospital keeps what an interval over that hospital's cases is made of."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
import pytest

from fedrounds_common.metrics.summary import patient_weights
from fedrounds_common.rng import derive
from fedrounds_server.replicates import read_replicates
from fedrounds_server.report.summary import summary

pytestmark = pytest.mark.slow


def test_replicates_are_those_of_the_cases_that_stay_at_the_site(finished: Any) -> None:
    run = finished.run
    found = read_replicates(run.path / "scores")
    assert {(site, cohort) for _, _, cohort, site, _ in found} == {("C", "held-out")}
    with (run.path / "sites/C/cases.csv").open(encoding="utf-8", newline="") as file:
        lines = [
            line for line in csv.DictReader(file)
            if (line["model"], line["region"], line["metric"]) == ("consensus", "lesion", "dice")
        ]  # fmt: skip
    last = max(int(line["round"]) for line in lines)
    dice = {line["patient"]: float(line["value"]) for line in lines if int(line["round"]) == last}
    weights = patient_weights(list(dice), 50, derive(run.study.seed, "bootstrap", "C"))
    with np.errstate(invalid="ignore"):
        wanted = np.array(list(dice.values())) @ weights / weights.sum(axis=0)
    np.testing.assert_allclose(found["consensus", "all", "held-out", "C", "lesion"], wanted, rtol=1e-9)


def test_its_summary_speaks_of_that_hospital_only(finished: Any) -> None:
    text = " ".join(summary(finished.run.path))
    assert "One hospital: no interval over hospitals can be given." in text
    assert "The worst hospital" not in text
