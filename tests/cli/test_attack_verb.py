"""`fedrounds attack`: what it says of a run, of its noise, and of what it could not have seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[1] / "data"
Write = Callable[..., Path]
PICTURES = f"""
[task]
name = "classification"
temperature = false
[cases]
dims = 2
classes = ["normal", "pneumonia"]
[model]
name = "tiny_cnn"
channels = [4]
[training]
rounds = 2
local_steps = 3
batch = 4
augment = []
[cohort]
minimum = 1
held_out = ["test"]
[evaluation]
primary = "auc"
resamples = 5
local_validation = 0.3
[simulation]
baselines = []
report = false
pictures = 0
[simulation.reader]
name = "npz_arrays"
root = "{DATA / "medmnist" / "pneumonia24.npz"}"
[simulation.partition]
name = "sizes"
sizes = [8, 4]
"""
NOISE = """
[[privacy]]
name = "dp_sgd"
epsilon = 1.0
sampling_rate = 1.0
"""


def test_a_study_without_noise_has_none_to_audit(fedrounds: Any, study: Write) -> None:
    said = fedrounds("attack", study(PICTURES), "canaries")
    assert said.status == 2
    assert "FR-U84 small has no noise in its steps" in said.err


def test_a_study_file_is_no_run(fedrounds: Any, study: Write) -> None:
    said = fedrounds("attack", study(PICTURES), "membership")
    assert said.status == 2
    assert "FR-U85" in said.err


def test_an_attack_that_is_none_is_named_with_those_that_are(fedrounds: Any, study: Write) -> None:
    said = fedrounds("attack", study(PICTURES), "member")
    assert said.status == 2
    assert "did you mean 'membership'?" in said.err


@pytest.mark.slow
def test_the_noise_of_a_study_file_is_audited(fedrounds: Any, study: Write) -> None:
    said = fedrounds("attack", study(PICTURES + NOISE), "canaries", "--canaries", 200, "--format", "json")
    assert said.status == 0, said.err
    (audit,) = said.envelope["data"]["audits"]
    assert audit["canaries"] == 200
    assert 60 < audit["put_in"] < 140
    assert audit["refuted"] is False
    assert 0.9 < audit["claimed"]["epsilon"] <= 1


@pytest.mark.slow
def test_a_run_is_attacked_and_what_could_not_be_seen_is_said(fedrounds: Any, study: Write) -> None:
    assert fedrounds("simulate", study(PICTURES)).status == 0
    said = fedrounds("attack", "1", "membership", "--shadows", 2, "--steps", 2)
    assert said.status == 0, said.err
    # with a handful of others no rate of 1 % can be had
    assert "at 0.1% false positives: cannot be seen with" in said.out
    assert "1000 are wanted" in said.out
    assert "LiRA, 2 models: AUC" in said.out
    (run,) = Path("runs").glob("0001-*")
    kept = json.loads((run / "attacks" / "membership.json").read_text("utf-8"))
    assert [each["attack"] for each in kept["attacks"]] == ["loss", "LiRA, 2 models"]
    # and the power, which the law's pages call evidence: of so few others nothing could have been told
    assert all(rate["needed"] > 0 and rate["epsilon"] == 0 for each in kept["attacks"] for rate in each["rates"])
    # a generator's attack on what makes no image
    assert "FR-U87" in fedrounds("attack", "1", "copies").err
    # the run's digests still hold: an attack adds to the folder and changes nothing
    assert fedrounds("runs", "verify", "1").status == 0


@pytest.mark.slow
def test_images_are_rebuilt_from_updates_of_a_run(fedrounds: Any, study: Write) -> None:
    assert fedrounds("simulate", study(PICTURES)).status == 0
    from fedrounds.attacking import Settings, attack

    (run,) = Path("runs").glob("0001-*")
    found = attack(run, "inversion", Settings(images=2, evaluations=5))
    names = [each["update"] for each in found.data["updates"]]
    assert names == [
        "one step on one image", "one step on 2 images", "a whole round", "one step on one image, with noise",
        "the sum of 2 sites' steps", "one step on 2 images, from altered weights",
    ]  # fmt: skip
    assert all(file.is_file() for file in found.files)
