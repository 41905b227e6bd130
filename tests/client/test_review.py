"""Consent is given to what was seen: the screen, the difference to the last study, and the very bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds_client.consent import screen
from fedrounds_client.page import page_of
from fedrounds_client.review import Change, Review, review
from fedrounds_client.tried import try_out
from fedrounds_client.waiting import Waiting, find, waiting
from fedrounds_common.arrays import digest
from fedrounds_common.case import Case, CaseRef
from fedrounds_common.errors import MachineError
from fedrounds_common.leaving import Ask, Hello, Refusal, Scores, Update, from_wire, to_wire
from fedrounds_common.study.canonical import canonical_text, study_from_canonical
from fedrounds_common.study.canonical import digest as study_digest
from fedrounds_sites.cache import CaseStore

MakeSite = Callable[..., Any]
MakeAsk = Callable[..., Ask]


def looked_at(site: Any, ask: Ask) -> tuple[Review, Waiting]:
    site.answer(ask)
    asked = find(site.home, ask.digest)
    return review(site.home, site.home.read_settings(), asked), asked


def test_what_review_says_leaves_is_what_leaves(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    found, asked = looked_at(site, ask)
    site.allow(ask)
    update = site.answer(ask)
    scores = site.answer(study_ask("score", cohort="local-val"))
    assert isinstance(update, Update)
    assert isinstance(scores, Scores)
    assert [(t.name, t.dtype, t.shape) for t in found.leaves.tensors] == [
        (name, array.dtype.name, array.shape) for name, array in update.arrays.items()
    ]
    assert [(t.name, t.shape) for t in found.leaves.tally] == [(n, a.shape) for n, a in scores.tally.items()]
    # the texts beside the tensors are as long as nonce and floats happen to be
    sent = {kind: sum(map(len, to_wire(said))) for kind, said in (("update", update), ("scores", scores))}
    assert found.leaves.update_bytes == pytest.approx(sent["update"], abs=120)
    assert found.leaves.scores_bytes == pytest.approx(sent["scores"], abs=120)
    assert asked.coordinator == site.coordinator.public.fingerprint == found.coordinator


def test_the_cases_are_those_that_hello_would_tell(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.home.withdrawn.write_text("A0\nA77\n")
    found, _ = looked_at(site, ask)
    site.allow(ask)
    hello = site.answer(study_ask("hello", 0))
    assert isinstance(hello, Hello)
    assert (found.cases.training, found.cases.validation) == (hello.training_cases, hello.validation_cases)
    assert (found.cases.found, found.cases.withdrawn) == (5, 1)
    assert found.costs.steps_a_round == hello.steps
    assert found.cases.withdrawn_nobody == ("A77",)
    assert "withdrawn.csv names A77: no case here" in screen(found)


def test_the_difference_to_the_study_allowed_last_is_shown(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    first, _ = looked_at(site, ask)
    assert first.compared_with == ""
    site.allow(study_ask(overrides=("seed=9",)))
    site.allow(ask)
    other = study_ask(overrides=("training.batch=3", "model.channels=[8, 8]"))
    found, _ = looked_at(site, other)
    assert found.compared_with == ask.digest
    assert set(found.changes) == {
        Change("training.batch", "2", "3"), Change("model.channels", "[8, 16]", "[8, 8]"),
    }  # fmt: skip


def test_a_study_that_was_refused_is_not_what_the_next_is_compared_with(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.allow(study_ask(overrides=("seed=9",)), allowed=False)
    found, _ = looked_at(site, study_ask())
    assert found.compared_with == ""


def test_a_study_that_the_policy_forbids_says_so(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.set('policy.networks=["unet"]', "policy.minimum_privacy=patient")
    found, _ = looked_at(site, study_ask())
    assert [rule[:6] for rule in found.broken] == ["FR-C13", "FR-C14"]
    assert "policy forbids it" in screen(found)


def test_the_screen_says_beforehand_what_will_be_withheld(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    found, asked = looked_at(site, ask)
    training, validation = found.cases.training, found.cases.validation
    assert 0 < validation < training
    assert (found.refused, found.withheld) == ("", "")
    assert "within this site's policy" in screen(found)

    def under(minimum: int) -> Review:
        site.set(f"policy.minimum_cases={minimum}")
        return review(site.home, site.home.read_settings(), asked)

    some = under(training)
    assert some.refused == ""
    assert some.withheld == f"{validation} cases to judge on, fewer than policy.minimum_cases = {training}"
    shown = " ".join(screen(some).split())
    assert "within this site's policy scores will be withheld" in shown
    # and so it is
    site.allow(ask)
    assert isinstance(site.answer(ask), Update)
    refusal = site.answer(study_ask("score", cohort="local-val"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FR-C19"
    none = under(training + 1)
    assert "within this site's policy" not in screen(none)
    assert f"would refuse every request: {training} cases to train on" in " ".join(screen(none).split())


def test_the_screen_names_everything_a_person_is_asked_about(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    found, _ = looked_at(site, ask)
    text = screen(found)
    for heading in ("WHO", "WHAT", "DATA", "LEAVES", "PRIVACY", "COSTS", "RIGHTS", "POLICY"):
        assert re.search(rf"^{heading} ", text, re.MULTILINE), heading
    for said in (ask.digest, site.coordinator.public.fingerprint, "6 cases of 6 patients", "nothing bounds"):
        assert said in text


def test_the_screen_says_what_noise_promises_and_what_lies_outside(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    table = {
        "name": "dp_sgd", "epsilon": 8.0, "delta": 1e-5, "clip": 1.0, "sampling_rate": 0.5, "examples": 1, "patients": 3,
        "accountant": "rdp",
    }  # fmt: skip
    study = replace(study_from_canonical(ask.study), privacy=(table,))
    noisy = replace(ask, study=canonical_text(study), digest=study_digest(study))
    found, asked = looked_at(site, noisy)
    assert found.privacy.epsilon == pytest.approx(8.0, rel=0.02)
    assert 0 < (found.privacy.a_round or 0) < (found.privacy.epsilon or 0)
    said = " ".join(screen(found).split())
    assert (
        f"protects each patient: epsilon {found.privacy.epsilon:.3g} at delta 1e-05 over all rounds, as rdp counts"
        in said
    )
    assert "in each step every patient is drawn with probability 0.5" in said
    assert "with fewer than 3 patients to train on, this site takes no part" in said
    assert "outside that promise: how many cases a site has" in said
    assert "nothing bounds" not in said
    # and the site's own limit is held against it
    site.set('policy.minimum_privacy="patient"', "policy.maximum_epsilon=5.0")
    limited = review(site.home, site.home.read_settings(), asked)
    assert [rule[:6] for rule in limited.broken] == ["FR-C14"]


def test_the_screen_says_who_sees_an_update_and_what_a_secure_sum_asks_of_the_site(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site, ask = enrolled(), study_ask(overrides=('wire.channel.name="secure_sum"', "wire.channel.minimum=4"))
    said = " ".join(screen(looked_at(site, ask)[0]).split())
    for words in (
        "the coordinator sees only the sum of the updates of at least 4 hospitals",
        "per round: 1 tensor, the difference that training made, under masks",
        "this site sends nothing to a round of fewer than 4 hospitals, and takes no mask away unless more than 66.7% of them",
        "no keys are named: each hospital's is believed as it is first met, so that hospitals could be invented",
        "shares of secrets",
        "nothing bounds what the sums of differences could tell",
    ):
        assert words in said, words
    plain = " ".join(screen(looked_at(site, study_ask())[0]).split())
    assert "the coordinator sees each hospital's update" in plain
    assert "under masks" not in plain


def test_the_screen_lets_no_study_move_the_cursor(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    found, _ = looked_at(site, study_ask())
    evil = replace(found, task={"name": "segmentation", "note": "\x1b[2J\x1b[1;1Hallowed\nby the\rhospital"})
    text = screen(evil)
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.count("\n") == screen(replace(found, task={"name": "segmentation", "note": "x" * 43})).count("\n")


# ---------------------------------------------------------------- tried


@pytest.mark.slow
def test_a_try_writes_the_very_payload_with_the_network_off(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    _, asked = looked_at(site, ask)
    page = try_out(site.home, asked)
    folder = page.parent
    said = json.loads((folder / "try.json").read_text())
    assert said["network_off"] or any("not walled off" in line for line in said["walls"])
    header, buffer = (folder / "update.json").read_text(), (folder / "update.bin").read_bytes()
    tried = from_wire(header, buffer)
    site.allow(ask)
    update = site.answer(ask)
    assert isinstance(tried, Update)
    assert isinstance(update, Update)
    assert digest(tried.arrays) == digest(update.arrays)  # bit for bit what then leaves
    assert said["update"] == hashlib.sha256(header.encode() + buffer).hexdigest()
    assert [line["event"] for line in site.journal()] == ["asked", "tried", "permitted", "trained"]
    assert not (folder / "run").exists()  # the images prepared for it are gone
    again, _ = looked_at(site, study_ask(overrides=("seed=8",)))
    assert again.costs.seconds_a_round is None
    site.home.permits.joinpath(f"{ask.digest}.json").unlink()
    measured, _ = looked_at(site, replace(ask, nonce="later"))
    assert measured.costs.seconds_a_round == said["seconds"]


@pytest.mark.slow
def test_a_try_tells_the_disk_that_its_own_study_takes(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.set("machine.cache=kept")
    store = CaseStore(site.home.folder / "kept")
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 64)).astype(np.float32)
    store.put("of another study", Case(CaseRef("x", "x", "A"), image, None, np.eye(4)))
    other = store.bytes
    _, asked = looked_at(site, study_ask())
    said = json.loads((try_out(site.home, asked).parent / "try.json").read_text())
    cases = len(list(store.refs())) - 1
    assert cases == 6
    # a file's header is reckoned with 1 KiB
    assert said["disk_bytes"] == pytest.approx(store.bytes - other, abs=1024 * cases)
    assert said["disk_bytes"] < other


@pytest.mark.slow
def test_a_try_that_fails_says_with_which_code_and_where_to_look(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled(empty="A")  # none of its cases can be opened
    _, asked = looked_at(site, study_ask())
    with pytest.raises(MachineError, match=r"FR-C29 .*FR-H01") as caught:
        try_out(site.home, asked)
    assert "no case here can be trained on" in Path(caught.value.where).read_text()


def test_the_page_shows_every_tensor_number_and_byte_and_asks_nobody(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.answer(ask)
    (asked,) = waiting(site.home)
    site.allow(ask)
    payloads = {
        "update": to_wire(site.answer(ask)), "scores": to_wire(site.answer(study_ask("score", cohort="local-val"))),
    }  # fmt: skip
    page = page_of("A", asked, payloads, {"network_off": True, "seconds": 1.0})
    for header, buffer in payloads.values():
        printed = "".join(
            "".join(line[10:].split())
            for block in re.findall(r"<details>.*?<pre>(.*?)</pre></details>", page, re.DOTALL)
            for line in block.splitlines()
        )
        assert buffer.hex() in printed
        for name, value in json.loads(header).items():
            assert f"<td>{name}</td>" in page or name in ("arrays", "tally"), (name, value)
    assert not re.search(r"<script|https?://|src=|href=|@import|url\(", page)
    assert "default-src 'none'" in page


def test_of_a_large_payload_the_page_shows_the_ends_and_the_sums(
    enrolled: MakeSite, study_ask: MakeAsk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedrounds_client.page.FULL", 1000)
    site, ask = enrolled(), study_ask()
    site.answer(ask)
    (asked,) = waiting(site.home)
    site.allow(ask)
    update = site.answer(ask)
    page = page_of("A", asked, {"update": to_wire(update)}, {"network_off": False, "seconds": 1.0})
    assert "could not cut the process off" in page
    for array in update.arrays.values():
        data = array.tobytes()
        assert hashlib.sha256(data).hexdigest() in page
        assert data[-4:].hex() in page
