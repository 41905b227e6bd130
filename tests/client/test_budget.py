"""One budget at a site: charged before anything leaves, never given back, and never short of what has left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, final

import pytest

from fedrounds_client import budget
from fedrounds_client.consent import screen
from fedrounds_client.deciding import allow
from fedrounds_client.review import review
from fedrounds_client.waiting import find
from fedrounds_common.chain import verify
from fedrounds_common.disk import Steps, SystemSteps, through
from fedrounds_common.dp.accounting import epsilon
from fedrounds_common.errors import BudgetError, RefusedError, RunFileError
from fedrounds_common.leaving import Ask, Refusal, Update
from fedrounds_common.study.canonical import canonical_text, digest, study_from_canonical

MakeSite = Callable[..., Any]
MakeAsk = Callable[..., Ask]
TABLE = {
    "name": "dp_sgd", "epsilon": "none", "noise_multiplier": 2.0, "delta": 1e-5, "clip": 1.0, "sampling_rate": 0.5,
    "examples": 1, "patients": 2, "accountant": "rdp",
}  # fmt: skip
STEPS = 3  # of a round of the made study
ROUND = epsilon("rdp", 2.0, 0.5, STEPS, 1e-5)
TWO = epsilon("rdp", 2.0, 0.5, 2 * STEPS, 1e-5)


def noisy(ask: Ask, **changed: Any) -> Ask:
    """The same request of a study with noise."""
    study = replace(study_from_canonical(ask.study), privacy=(TABLE,), **changed)
    return replace(ask, study=canonical_text(study), digest=digest(study))


def lines(site: Any) -> list[dict[str, Any]]:
    if not site.home.budget.exists():
        return []
    return [json.loads(line) for line in site.home.budget.read_text().splitlines()]


def test_each_round_is_charged_once_and_what_is_sent_again_costs_nothing(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site, first, second = enrolled(), noisy(study_ask()), noisy(study_ask(round_=2))
    site.allow(first)
    sent = site.answer(first)
    assert isinstance(sent, Update)
    assert sent.loss == 0
    again = site.answer(first)
    assert isinstance(again, Update)
    assert all((again.arrays[name] == sent.arrays[name]).all() for name in sent.arrays)
    assert [line["facts"]["round"] for line in lines(site)] == [1]
    assert budget.spent(site.home, 1e-5) == pytest.approx(ROUND)
    assert isinstance(site.answer(second), Update)
    assert budget.spent(site.home, 1e-5) == pytest.approx(TWO)
    assert verify(site.home.budget)[0] == 2


def test_the_same_request_trained_anew_is_paid_for_again(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), noisy(study_ask())
    site.allow(ask)
    sent = site.answer(ask)
    for reply in site.home.runs.rglob("*.reply"):
        reply.unlink()
    anew = site.answer(ask)
    assert any((anew.arrays[name] != sent.arrays[name]).any() for name in sent.arrays)
    assert len(lines(site)) == 2


def test_asked_again_and_again_for_fresh_noise_a_site_stops_at_the_rounds_of_its_permit(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    # the mean of many updates of one round would have hardly any noise left
    site, ask = enrolled(), noisy(study_ask())
    site.allow(ask, rounds=2)
    said = [site.answer(replace(ask, nonce=f"again-{number}")) for number in range(4)]
    assert [each.kind for each in said] == ["update", "update", "refusal", "refusal"]
    assert said[2].code == "FR-C10"
    assert len(lines(site)) == 2
    # another yes counts from then on
    site.allow(ask, rounds=1)
    assert isinstance(site.answer(replace(ask, nonce="after")), Update)


def test_more_rounds_than_one_study_may_spend_cannot_be_allowed(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), noisy(study_ask())
    three = epsilon("rdp", 2.0, 0.5, 3 * STEPS, 1e-5)
    site.set(f"policy.maximum_epsilon={three * 1.01}")
    settings = site.home.read_settings()
    with pytest.raises(RefusedError, match=r"FR-C14 epsilon .* over 4 rounds"):
        allow(site.home, settings, ask.study, rounds=4)
    allow(site.home, settings, ask.study, rounds=3)
    site.answer(ask)
    # one round of the three is spent
    with pytest.raises(RefusedError, match=r"over 4 rounds"):
        allow(site.home, settings, ask.study, rounds=3)
    allow(site.home, settings, ask.study, rounds=2)


def test_scores_and_hellos_cost_nothing_and_training_cases_are_not_scored(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site, ask = enrolled(), noisy(study_ask())
    site.allow(ask)
    site.answer(noisy(study_ask("hello", 0)))
    site.answer(noisy(study_ask("score", cohort="local-val")))
    refusal = site.answer(noisy(study_ask("score", cohort="train")))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FR-C36"
    assert lines(site) == []


def test_a_round_that_would_pass_the_budget_is_refused_to_the_step(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, first, second = enrolled(), noisy(study_ask()), noisy(study_ask(round_=2))
    site.set(f"policy.budget_epsilon={TWO * (1 - 1e-9)}")
    site.allow(first)
    assert isinstance(site.answer(first), Update)
    refusal = site.answer(second)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.refused) == ("FR-C37", True)
    assert len(lines(site)) == 1
    # what has been paid for may still be sent again
    assert isinstance(site.answer(first), Update)
    site.set(f"policy.budget_epsilon={TWO * (1 + 1e-9)}")
    site.allow(second)
    assert isinstance(site.answer(second), Update)


def test_the_budget_is_one_for_all_studies(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, one, other = enrolled(), noisy(study_ask()), noisy(study_ask(), seed=77)
    site.set(f"policy.budget_epsilon={ROUND * 1.05}")
    site.allow(one)
    site.allow(other)
    assert isinstance(site.answer(one), Update)
    refusal = site.answer(replace(other, run="0002-other"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FR-C37"


def test_a_yes_to_more_than_is_left_ends_8(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), noisy(study_ask())
    site.set(f"policy.budget_epsilon={TWO}")
    settings = site.home.read_settings()
    with pytest.raises(BudgetError, match=r"FR-C37 epsilon would be .* and is 0 already") as caught:
        allow(site.home, settings, ask.study, rounds=3)
    assert caught.value.exit_status == 8
    assert allow(site.home, settings, ask.study, rounds=2).rounds == 2
    with pytest.raises(BudgetError, match="a study without noise, which nothing bounds"):
        allow(site.home, settings, study_ask().study)


def test_a_broken_book_stops_the_spending(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, first = enrolled(), noisy(study_ask())
    site.allow(first)
    site.answer(first)
    site.home.budget.write_text(site.home.budget.read_text().replace('"steps": 3', '"steps": 1'))
    with pytest.raises(RunFileError, match="FR-F40"):
        budget.spent(site.home, 1e-5)
    refusal = site.answer(noisy(study_ask(round_=2)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FR-F40"


def test_review_shows_the_bill_as_a_bar(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), noisy(study_ask())
    site.set("policy.budget_epsilon=8.0")
    site.allow(ask)
    site.answer(ask)
    other = noisy(study_ask(), seed=77)
    site.answer(replace(other, run="0002-other"))
    found = review(site.home, site.home.read_settings(), find(site.home, other.digest))
    said = " ".join(screen(found).split())
    assert f"all studies together: epsilon {ROUND:.3g} at delta 1e-05 spent in 1 noisy round here" in said
    whole = epsilon("rdp", 2.0, 0.5, 4 * STEPS, 1e-5)
    assert f"{whole:.3g} with all rounds of this study" in said
    assert "░ of this site's 8" in said
    assert "█" in said


# ---------------------------------------------------------------- power cuts


class Cut(BaseException):
    """The process is gone."""


@final
class Cutting:
    """The system's steps, up to the one at which the process is gone; `names`: what each step was about."""

    def __init__(self, at: int) -> None:
        self.system, self.at, self.done, self.open_ = SystemSteps(), at, 0, dict[int, str]()

    def _step(self, name: str) -> None:
        # only what lies around the charge: the run's own files have tests of their own
        if name in ("budget.jsonl", "outbox.jsonl", "lineage.jsonl", "journal.jsonl") or name.endswith(".reply"):
            self.done += 1
            if self.done == self.at:
                raise Cut

    def open(self, file: Path, flags: int, mode: int) -> int:
        self._step(file.name)
        handle = self.system.open(file, flags, mode)
        self.open_[handle] = file.name
        return handle

    def write(self, handle: int, data: Any) -> None:
        self._step(self.open_.get(handle, ""))
        self.system.write(handle, data)

    def sync(self, handle: int) -> None:
        self._step(self.open_.get(handle, ""))
        self.system.sync(handle)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return cast("Callable[..., Any]", getattr(self.system, name))


def left(site: Any) -> int:
    """How many updates the ledger says have left; one that was sent twice counts once."""
    if not site.home.outbox.exists():
        return 0
    whole = [json.loads(line) for line in site.home.outbox.read_text().splitlines() if line.endswith("}")]
    return len({line["sha256"] for line in whole if line["kind"] == "update"})


@pytest.mark.slow
def test_a_power_cut_anywhere_between_spending_and_sending_never_counts_too_little(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    at, answered = 0, False
    while not answered:
        at += 1
        site, ask = enrolled(f"site-{at}"), noisy(study_ask())
        site.allow(ask)
        try:
            with through(cast("Steps", Cutting(at))):
                site.answer(ask)
            answered = True
        except Cut:
            assert left(site) <= len(lines(site))
        # after the restart: an answer, and as many charges as there were different updates at least
        assert isinstance(site.answer(ask), Update)
        assert 1 <= left(site) <= len(lines(site))
        assert verify(site.home.budget)[0] == len(lines(site))
    assert at > 8


def test_a_charge_says_how_and_not_who(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), noisy(study_ask())
    rules = site.home.read_settings().policy
    costs = study_from_canonical(ask.study).costs_a_round()
    budget.charge(site.home, ask, rules, costs, datetime(2026, 1, 1, tzinfo=UTC))
    (line,) = lines(site)
    assert line["facts"] == {
        "at": "2026-01-01T00:00:00.000000+00:00", "run": ask.run, "round": 1, "study": ask.digest, "unit": "patient", "multiplier": 2.0, "rate": 0.5, "steps": 3,
        "epsilon": pytest.approx(ROUND), "delta": 1e-5, "accountant": "rdp",
    }  # fmt: skip


# ---------------------------------------------------------------- two units, two bills

HOSPITALS = {
    "name": "hospital_dp", "epsilon": "none", "noise_multiplier": 4.0, "delta": 1e-5, "clip": 1.0, "pace": 0.2,
    "noise": "coordinator", "sites": 3.0, "accountant": "rdp",
}  # fmt: skip


def both(ask: Ask, **changed: Any) -> Ask:
    """The same request of a study that protects patients and hospitals."""
    before = study_from_canonical(ask.study)
    equal = {"name": "fedavg", "weights": "equal"}
    study = replace(before, privacy=(TABLE, HOSPITALS), strategy=equal, **changed)
    return replace(ask, study=canonical_text(study), digest=digest(study))


def test_a_round_is_on_the_patients_bill_and_on_the_hospitals_and_they_are_not_added_up(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site, ask = enrolled(), both(study_ask())
    site.allow(ask)
    sent = site.answer(ask)
    assert isinstance(sent, Update)
    assert [line["facts"]["unit"] for line in lines(site)] == ["patient", "hospital"]
    assert budget.rounds_of(site.home, ask.digest) == 1
    patients, hospital = budget.bills(site.home, 1e-5)
    assert (patients.unit, hospital.unit) == ("patient", "hospital")
    assert patients.spent == pytest.approx(ROUND)
    assert hospital.spent == pytest.approx(epsilon("rdp", 4.0, 1.0, 1, 1e-5))
    # 1/(1 + 1e-6) of the clip at most, and what no weight is does not leave
    assert float(sum((array.astype(float) ** 2).sum() for array in sent.arrays.values())) <= 1.0


def test_each_bill_is_held_against_the_budget_by_itself(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), both(study_ask())
    whole = epsilon("rdp", 4.0, 1.0, 1, 1e-5)
    assert whole < ROUND  # so the patients' bill decides
    site.set(f"policy.budget_epsilon={(whole + ROUND) / 2}")
    with pytest.raises(BudgetError, match=r"FR-C37 epsilon would be"):
        allow(site.home, site.home.read_settings(), ask.study, rounds=1)
    site.set(f"policy.budget_epsilon={ROUND * 1.001}")
    assert allow(site.home, site.home.read_settings(), ask.study, rounds=1).rounds == 1


def test_two_mechanisms_compose_by_divergence_and_the_plain_sum_is_told_beside_it(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site, one, other = enrolled(), noisy(study_ask()), noisy(study_ask())
    quieter = ({**TABLE, "noise_multiplier": 4.0},)
    other_study = replace(study_from_canonical(other.study), privacy=quieter)
    other = replace(other, study=canonical_text(other_study), digest=digest(other_study), run="0002-other")
    rules = site.home.read_settings().policy
    for ask in (one, other):
        costs = study_from_canonical(ask.study).costs_a_round()
        budget.charge(site.home, ask, rules, costs, datetime(2026, 1, 1, tzinfo=UTC))
    (bill,) = budget.bills(site.home, 1e-5)
    alone = ROUND + epsilon("rdp", 4.0, 0.5, STEPS, 1e-5)
    assert (bill.studies, bill.rounds) == (2, 2)
    assert bill.added == pytest.approx(alone)
    assert max(ROUND, alone / 2) < bill.spent < alone


def test_review_tells_of_both_units_how_they_are_protected_and_by_whose_noise(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site, ask = enrolled(), both(study_ask())
    site.set("policy.budget_epsilon=8.0")
    site.answer(ask)  # is not allowed, and waits
    found = review(site.home, site.home.read_settings(), find(site.home, ask.digest))
    said = " ".join(screen(found).split())
    whole = epsilon("rdp", 4.0, 1.0, 3, 1e-5)
    assert f"and each hospital by a bill of its own: epsilon {whole:.3g} at delta 1e-05 over all rounds" in said
    assert "the norm is cut to 1; each hospital counts once; to the sum comes noise of 4 times that" in said
    assert "the coordinator adds it, and sees each hospital's update before that" in said
    assert "outside that promise: which hospitals take part" in said
    assert said.count("░ of this site's 8") == 2
