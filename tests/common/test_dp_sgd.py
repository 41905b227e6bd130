"""A study that asks for DP-SGD: what its table means, what it costs, and what of a study does not go with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedrounds_common.dp.accounting import epsilon
from fedrounds_common.errors import StudyError
from fedrounds_common.privacy import NoisySteps, Spent
from fedrounds_common.privacy.dp_sgd import DPSGD
from fedrounds_common.study.canonical import canonical_text, study_from_canonical
from fedrounds_common.study.parse import parse_study
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import Training

TRAINING = Training(rounds=10, local_steps=20, batch=4)
STUDY = 'format = 1\nname = "a"\n[training]\nrounds = 10\nlocal_steps = 20\nbatch = 4\n'
ENTRY = '[[privacy]]\nname = "dp_sgd"\n'


def parse(text: str) -> Study:
    return parse_study(text, Path("study.toml")).study


def faults(text: str) -> list[tuple[str, str]]:
    with pytest.raises(StudyError) as caught:
        parse(text)
    return [(fault.key, fault.message) for fault in caught.value.faults]


def test_a_study_with_it_travels_with_all_that_it_promises() -> None:
    study = parse(STUDY + ENTRY + "epsilon = 3\n")
    assert study.privacy == (
        {
            "name": "dp_sgd", "epsilon": 3.0, "delta": 1e-5, "clip": 1.0, "sampling_rate": 0.05, "examples": 1,
            "patients": 20, "accountant": "rdp",
        },
    )  # fmt: skip
    assert study_from_canonical(canonical_text(study)) == study


def test_steps_are_the_same_at_every_site_and_come_from_the_study_alone() -> None:
    study = parse(STUDY + ENTRY + 'epsilon = "none"\nnoise_multiplier = 1.5\nsampling_rate = 0.1\nexamples = 2\n')
    assert study.noisy_steps() == NoisySteps(rate=0.1, clip=1.0, multiplier=1.5, batch=4, examples=2, patients=20)
    assert parse(STUDY).noisy_steps() is None


@pytest.mark.parametrize("target", [8.0, 1.0])
def test_all_rounds_together_stay_just_within_epsilon(target: float) -> None:
    measure = DPSGD(epsilon=target)
    spent = measure.spent(TRAINING, [3] * 10)
    assert spent == Spent(spent.epsilon, 1e-5, "patient", "rdp")
    assert 0.98 * target < spent.epsilon <= target


def test_what_is_spent_is_of_the_rounds_that_were_and_their_steps() -> None:
    measure = DPSGD(epsilon=None, noise_multiplier=1.0)
    # 4 rounds of 20 steps
    assert measure.spent(TRAINING, [1, 5, 2, 3]).epsilon == epsilon("rdp", 1.0, 0.05, 80, 1e-5)
    assert measure.spent(TRAINING, []).epsilon == 0


def test_prv_needs_less_noise_for_the_same_promise() -> None:
    training = replace(TRAINING, rounds=2)
    rdp, prv = (DPSGD(epsilon=4.0, accountant=each).steps(training).multiplier for each in ("rdp", "prv"))
    assert prv < rdp


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("noise_multiplier = 1", ("privacy.0.noise_multiplier", '1: epsilon is in force too: write epsilon = "none", or keep one of the two')),
        ('epsilon = "none"', ("privacy.0.epsilon", '"none": either it or noise_multiplier is wanted')),
        ("delta = 0.001\npatients = 1000", ("privacy.0.delta", "0.001: below 1 / patients = 0.001: to give one patient away whole would be within it")),
        ("epsilon = 1e-9", ("privacy.0.epsilon", "1e-09: no noise keeps 200 steps at rate 0.05 within epsilon 1e-09")),
        ("sampling_rate = 0", ("privacy.0.sampling_rate", "0: must be greater than 0")),
        ("clip = -1", ("privacy.0.clip", "-1: must be greater than 0")),
        ("seed = 1", ("privacy.0.seed", "there is no such key; known are epsilon, noise_multiplier, delta, clip, sampling_rate, examples, patients, accountant")),
    ],
)  # fmt: skip
def test_a_table_that_promises_nothing_that_holds_is_refused(entry: str, fault: tuple[str, str]) -> None:
    assert faults(STUDY + ENTRY + entry + "\n") == [fault]


WANTED = "dp_sgd wants a number of steps that depends on nobody's cases: rounds and local_steps, 1 or more"


def test_a_number_of_steps_that_follows_the_cases_is_refused() -> None:
    assert faults('format = 1\nname = "a"\n' + ENTRY) == [("training.local_steps", WANTED)]
    assert faults('format = 1\nname = "a"\n[training]\nlocal_epochs = 2\n' + ENTRY) == [
        ("training.local_steps", WANTED)
    ]


CLASSES = '[cases]\ndims = 2\nclasses = ["a", "b"]\n[evaluation]\nprimary = "auc"\n[model]\nname = "tiny_cnn"\n'


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (CLASSES + '[task]\nname = "classification"\nweights = "inverse"\n', "asks for classes"),
        (CLASSES + '[task]\nname = "classification"\nhead = "lda"\n', "asks for moments"),
        ('[task]\nname = "registration"\n[model]\nname = "voxelmorph"\n', "made of several patients' cases"),
        ('[task]\nname = "generation"\nmethod = "gan"\n[model]\nname = "image_gan"\n', "discriminator and generator take turns"),
        ('[task]\nname = "generation"\nmethod = "vae"\n[model]\nname = "image_vae"\n', "asks for codes"),
    ],
)  # fmt: skip
def test_a_task_whose_sums_or_turns_have_no_noise_is_refused(tables: str, said: str) -> None:
    found = dict(faults(STUDY + tables + ENTRY))
    assert said in found["task"]


def test_a_temperature_from_validation_cases_may_stay() -> None:
    assert parse(STUDY + CLASSES + '[task]\nname = "classification"\n' + ENTRY).noisy_steps() is not None


def test_two_measures_of_one_step_are_refused() -> None:
    assert faults(STUDY + ENTRY + ENTRY) == [
        ("privacy.1.name", "privacy.0 says already how each step is taken; keep one of the two")
    ]


@pytest.mark.parametrize("codec", ["float16", "int8", "top_k"])
@pytest.mark.parametrize("moments", ["keep", "fresh"])
def test_what_is_made_of_noisy_steps_afterwards_costs_nothing(codec: str, moments: str) -> None:
    study = parse(STUDY + f'moments = "{moments}"\n[wire]\nname = "{codec}"\n' + ENTRY)
    assert study.noisy_steps() is not None
