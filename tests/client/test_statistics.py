"""Sums leave a hospital as scores do: only where a person allowed it, of enough cases, signed and written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds_client.consent import screen
from fedrounds_client.deciding import allow
from fedrounds_client.ledger import entries
from fedrounds_client.lineage import sights
from fedrounds_client.review import Review, review
from fedrounds_client.site import build_parts
from fedrounds_client.tried import try_out
from fedrounds_client.waiting import find
from fedrounds_common.arrays import of_module
from fedrounds_common.leaving import Ask, Refusal, Scores, Statistics, Update, from_wire, to_wire
from fedrounds_common.study.canonical import canonical_text, digest
from fedrounds_common.study.parse import read_study

DATA = Path(__file__).parents[1] / "data"
MINE = [DATA / "cubes", DATA / "sums"]
MakeAsk = Callable[..., Ask]


@pytest.fixture
def site(enrolled: Callable[..., Any]) -> Any:
    """Site A, whose policy allows the task that wants to know how bright voxels are everywhere."""
    made = enrolled()
    made.set('policy.tasks=["brightness"]', f"plugins={json.dumps([str(path) for path in MINE])}")
    return made


@pytest.fixture
def asks(cubes: Callable[..., Path], tmp_path: Path) -> MakeAsk:
    def make(
        purpose: str = "brightness", kind: str = "statistics", round_: int = 0, rounds: int = 3, **more: Any
    ) -> Ask:
        overrides = ['task.name="brightness"', 'cases.intensity="none"', *more.pop("overrides", ())]
        study = read_study(cubes(tmp_path / "study", rounds=rounds), overrides, MINE).study
        arrays = of_module(build_parts(study, MINE).module())
        text, purpose = canonical_text(study), purpose if kind == "statistics" else ""
        ask = Ask(kind, "0001-cubes", round_, "nonce", text, digest(study), arrays=arrays, purpose=purpose)
        return replace(ask, **more)

    return make


def code(answer: object) -> str:
    assert isinstance(answer, Refusal), answer
    return answer.code


def training_cases(site: Any, ask: Ask) -> Any:
    from fedrounds_client.enrolled import open_enrolled

    return open_enrolled(site.home, ask)[0].hospital.open_all().training


def test_what_leaves_are_the_sums_over_the_cases_to_train_on(site: Any, asks: MakeAsk) -> None:
    ask = asks()
    site.allow(ask)
    said = site.answer(ask)
    assert isinstance(said, Statistics)
    cases = training_cases(site, ask)
    voxels = np.concatenate([case.image.astype(np.float64).ravel() for case in cases])
    assert (said.site, said.purpose, said.study, said.cases) == ("A", "brightness", ask.digest, len(cases))
    assert said.tally["voxels"].tolist() == [voxels.size]
    np.testing.assert_allclose(said.tally["sum"], voxels.sum(), rtol=1e-12)
    assert {array.dtype for array in said.tally.values()} == {np.dtype(np.float64)}


def test_sums_are_made_with_the_model_that_came(site: Any, asks: MakeAsk) -> None:
    ask = asks("spread")
    site.allow(ask)
    about = replace(ask, nonce="other", arrays={**ask.arrays, "brightness": np.asarray(0.5)})
    first, second = site.answer(ask), site.answer(about)
    voxels = np.concatenate([case.image.astype(np.float64).ravel() for case in training_cases(site, ask)])
    np.testing.assert_allclose(first.tally["sum"], np.square(voxels).sum(), rtol=1e-12)
    np.testing.assert_allclose(second.tally["sum"], np.square(voxels - 0.5).sum(), rtol=1e-12)


def test_sums_are_refused_until_somebody_allowed_the_study(site: Any, asks: MakeAsk) -> None:
    assert code(site.answer(asks())) == "FR-C02"
    site.allow(asks(), allowed=False)
    assert code(site.answer(asks())) == "FR-C21"


def test_a_purpose_that_the_study_does_not_name_is_refused(site: Any, asks: MakeAsk) -> None:
    site.allow(asks())
    said = site.answer(asks("faces"))
    assert (code(said), said.refused) == ("FR-C34", True)
    assert code(site.answer(asks(""))) == "FR-C34"


def test_sums_over_too_few_cases_are_withheld(site: Any, asks: MakeAsk) -> None:
    ask = asks()
    site.set(f"policy.minimum_cases={len(training_cases_of(site, ask)) + 1}")
    site.allow(ask)
    said = site.answer(ask)
    assert (code(said), said.refused) == ("FR-C19", True)
    assert "statistics" not in [line["kind"] for line in entries(site.home.outbox)]


def training_cases_of(site: Any, ask: Ask) -> Any:
    site.allow(ask)
    return training_cases(site, ask)


def test_a_policy_that_lets_no_statistics_out_keeps_them_and_lets_the_site_train(site: Any, asks: MakeAsk) -> None:
    site.set('policy.outgoing=["hello", "update", "scores"]')
    site.allow(asks())
    assert code(site.answer(asks())) == "FR-C16"
    assert isinstance(site.answer(asks(kind="train", round_=1)), Update)


def test_sums_are_in_ledger_journal_and_lineage(site: Any, asks: MakeAsk) -> None:
    ask = asks()
    site.allow(ask)
    said = site.answer(ask)
    line = entries(site.home.outbox)[-1]
    assert (line["kind"], line["purpose"]) == ("statistics", "round 0: statistics brightness")
    assert line["says"]["cases"] == said.cases
    assert line["bytes"] == sum(map(len, to_wire(said)))
    (note,) = site.journal("summed")
    assert note["facts"]["sent"] == line["sha256"]
    (case, *_) = training_cases(site, ask)
    (sight,) = sights(site.home, case.ref.patient)
    assert (sight.event, sight.round, sight.run) == ("summed", 0, "0001-cubes")


def test_the_same_request_again_gets_the_same_bytes_and_counts_once(site: Any, asks: MakeAsk) -> None:
    ask = asks()
    site.allow(ask)
    first, again = site.answer(ask), site.answer(ask)
    assert to_wire(first) == to_wire(again)
    assert len(site.journal("summed")) == 1
    assert len(site.journal("sent again")) == 1


def test_more_sums_than_a_run_needs_are_refused(site: Any, asks: MakeAsk) -> None:
    site.allow(asks(), rounds=3)
    # two purposes, four times each: of models that were chosen, enough sums would tell a case
    models = [{**asks().arrays, "brightness": np.asarray(float(number))} for number in range(9)]
    answers = [site.answer(asks("spread", nonce=f"n{n}", arrays=arrays)) for n, arrays in enumerate(models)]
    assert all(isinstance(said, Statistics) for said in answers[:8])
    assert code(answers[8]) == "FR-C10"
    assert isinstance(site.answer(asks(kind="train", round_=1)), Update)  # which is counted by itself


def test_a_permit_for_several_runs_is_one_for_their_sums(site: Any, asks: MakeAsk) -> None:
    site.allow(asks(), rounds=6)
    models = [{**asks().arrays, "brightness": np.asarray(float(number))} for number in range(9)]
    answers = [site.answer(asks("spread", nonce=f"n{n}", arrays=arrays)) for n, arrays in enumerate(models)]
    assert all(isinstance(said, Statistics) for said in answers)


def test_sums_that_depend_on_the_cases_in_shape_or_are_not_finite_do_not_leave(site: Any, asks: MakeAsk) -> None:
    for wrong in ("shape", "nan"):
        ask = asks(overrides=[f'task.goes_wrong="{wrong}"'])
        site.allow(ask)
        assert code(site.answer(replace(ask, run=wrong))) == "FR-R04"
    assert "statistics" not in [line["kind"] for line in entries(site.home.outbox)]


def test_training_cases_looked_at_when_a_model_is_judged_are_in_the_lineage(site: Any, asks: MakeAsk) -> None:
    ask = asks(kind="score", round_=1, overrides=["task.looks_at=1"], cohort="local-val")
    site.allow(ask)
    assert isinstance(site.answer(ask), Scores)
    first, second, *_ = training_cases(site, ask)
    assert [sight.event for sight in sights(site.home, first.ref.patient)] == ["judged"]
    assert sights(site.home, second.ref.patient) == ()


# ---------------------------------------------------------------- consent


def looked_at(site: Any, ask: Ask) -> Review:
    site.answer(ask)
    return review(site.home, site.home.read_settings(), find(site.home, ask.digest))


def shown(found: Review) -> str:
    return " ".join(screen(found).split())


def test_what_review_says_of_sums_is_what_leaves(site: Any, asks: MakeAsk) -> None:
    ask = asks()
    found = looked_at(site, ask)
    site.allow(ask)
    said = {purpose: site.answer(asks(purpose, round_=at)) for purpose, at in (("brightness", 0), ("spread", 3))}
    assert [each.purpose for each in found.leaves.sums] == ["brightness", "spread"]
    for each in found.leaves.sums:
        message = said[each.purpose]
        assert [(t.name, t.dtype, t.shape) for t in each.tally] == [
            (name, "float64", array.shape) for name, array in message.tally.items()
        ]
        assert (each.over, each.cases) == ("train", message.cases)
        assert each.bytes == pytest.approx(sum(map(len, to_wire(message))), abs=60)
    cases = found.cases.training
    assert f"before round 1, for brightness: 2 numbers, sums over {cases} cases to train on" in shown(found)
    assert f"after the last round, for spread: 2 numbers, sums over {cases} cases to train on" in shown(found)
    assert "sum 1, voxels 1" in shown(found)
    assert "the sums for brightness, spread have no noise" in shown(found)


def test_a_study_whose_task_asks_for_no_sums_says_nothing_of_them(enrolled: Any, study_ask: MakeAsk) -> None:
    found = looked_at(enrolled(), study_ask())
    assert found.leaves.sums == ()
    assert "noise: where" not in shown(found)


def test_review_says_which_sums_the_policy_keeps(site: Any, asks: MakeAsk) -> None:
    ask = asks(overrides=['task.validates=["spread"]'])
    found = looked_at(site, ask)
    assert found.kept_back == {}
    assert [(each.purpose, each.over, each.cases) for each in found.leaves.sums] == [
        ("brightness", "train", found.cases.training), ("spread", "judge", found.cases.validation),
    ]  # fmt: skip
    site.set(f"policy.minimum_cases={found.cases.training}")
    found = looked_at(site, ask)
    few = f"{found.cases.validation} cases to judge on, fewer than policy.minimum_cases = {found.cases.training}"
    assert found.kept_back == {"spread": few}
    assert f"sums for spread will not be sent: {few}" in shown(found)
    # and so it is
    site.allow(ask)
    assert isinstance(site.answer(replace(ask, purpose="brightness")), Statistics)
    assert code(site.answer(replace(ask, purpose="spread"))) == "FR-C19"
    site.set("policy.minimum_cases=1", 'policy.outgoing=["hello", "update"]')
    found = looked_at(site, ask)
    assert set(found.kept_back.values()) == {"policy.outgoing has no statistics"}


def test_sums_over_the_cases_to_judge_on_are_of_those(site: Any, asks: MakeAsk) -> None:
    ask = asks("spread", overrides=['task.validates=["spread"]'])
    site.allow(ask)
    said = site.answer(ask)
    scores = site.answer(asks(kind="score", round_=1, overrides=['task.validates=["spread"]'], cohort="local-val"))
    assert isinstance(scores, Scores)
    assert said.cases == scores.cases != len(training_cases(site, ask))


def test_a_study_of_no_rounds_is_reviewed_allowed_and_answered(site: Any, asks: MakeAsk) -> None:
    ask = asks(rounds=0)
    found = looked_at(site, ask)
    assert "no round: nothing is trained, and no tensor leaves" in shown(found)
    permit = allow(site.home, site.home.read_settings(), ask.study)
    assert permit.rounds == 1
    assert isinstance(site.answer(ask), Statistics)


@pytest.mark.slow
def test_a_try_makes_the_very_sums(site: Any, asks: MakeAsk) -> None:
    ask = asks()
    site.answer(ask)
    page = try_out(site.home, find(site.home, ask.digest))
    text = page.read_text("utf-8")
    site.allow(ask)
    for purpose in ("brightness", "spread"):
        header = (page.parent / f"statistics-{purpose}.json").read_text("utf-8")
        tried = from_wire(header, (page.parent / f"statistics-{purpose}.bin").read_bytes())
        assert isinstance(tried, Statistics)
        said = site.answer(asks(purpose))
        assert {name: array.tolist() for name, array in tried.tally.items()} == {
            name: array.tolist() for name, array in said.tally.items()
        }
        assert f"<h2>statistics-{purpose}:" in text
