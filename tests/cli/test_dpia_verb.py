"""`fedrounds study dpia`: what study and books know is filled in, what they cannot know is marked, and no case is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedrounds.assessment import FILL, assessment
from fedrounds_client.home import create_home
from fedrounds_common.study.canonical import digest, toml_text
from fedrounds_common.study.parse import read_study

Write = Callable[..., Path]
PICTURES = """
[task]
name = "classification"
temperature = false
[cases]
dims = 2
channels = ["xray"]
classes = ["well", "ill"]
[model]
name = "tiny_cnn"
[training]
rounds = 4
local_steps = 3
[evaluation]
primary = "auc"
"""
NOISE = """
[[privacy]]
name = "dp_sgd"
epsilon = 2.0
"""
HIDES = """
[strategy]
weights = "equal"
[[privacy]]
name = "hospital_dp"
sites = 4.0
"""


def test_it_holds_the_studys_digest_its_rounds_and_no_guess(study: Write) -> None:
    read = read_study(study(PICTURES)).study
    text = assessment(read)
    assert digest(read) in text
    assert "4 rounds" in text
    assert "well, ill" in text
    assert "Noise: none. No number bounds" in text
    assert "Secure sum: none. The coordinator holds this site's update by itself." in text
    assert text.count(FILL) > 10


def test_noise_is_told_with_its_unit_epsilon_and_what_lies_outside(study: Write) -> None:
    text = assessment(read_study(study(PICTURES + NOISE)).study)
    assert "Noise that hides one patient: epsilon 2.00 at delta 1e-05" in text or "epsilon 1.99" in text
    assert "outside of it: how many cases a site has" in text
    assert "Noise: none" not in text


def test_of_noise_between_hospitals_no_audit_and_no_look_at_weights_is_claimed(study: Write) -> None:
    steps = assessment(read_study(study(PICTURES + NOISE)).study)
    assert "(rdp); checked by `fedrounds attack STUDY canaries`." in steps
    assert "refused where they moved as updates cannot have moved them (FR-C38)" in steps
    sums = assessment(read_study(study(PICTURES + HIDES)).study)
    assert "Noise that hides one hospital" in sums
    assert "(rdp); no command audits it." in sums
    assert "canaries" not in sums
    assert "FR-C38" not in sums


def test_a_sites_books_are_summed_up(study: Write, tmp_path: Path) -> None:
    tables = {"name": "A", "data": {"name": "nifti_folder", "root": "."}, "policy": {"minimum_cases": 7}}
    home = create_home(tmp_path / "site", toml_text(tables, {}))
    text = assessment(read_study(study(PICTURES)).study, site=home.folder)
    assert "What the books of A say" in text
    assert "Left so far, all studies: nothing yet; 0 bytes" in text
    assert "no answer that stands for fewer than 7 cases" in text


def test_it_is_printed_or_written_and_never_over_another_file(fedrounds: Any, study: Write) -> None:
    said = fedrounds("study", "dpia", study(), "-o", "dpia.md")
    assert said.status == 0, said.err
    assert "TO FILL IN" in Path("dpia.md").read_text("utf-8")
    assert "FR-U10" in fedrounds("study", "dpia", study(), "-o", "dpia.md").err
