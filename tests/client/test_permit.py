"""A real site does what a person there allowed, as the site's policy is today, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds_client import policy
from fedrounds_client.lineage import use_of
from fedrounds_client.permits import heard, verify_permits
from fedrounds_client.settings import Policy
from fedrounds_client.waiting import LARGEST, MOST, find, waiting
from fedrounds_common.chain import read, verify
from fedrounds_common.errors import RefusedError, RunFileError, UsageError
from fedrounds_common.leaving import Ask, Hello, Refusal, Scores, Update
from fedrounds_common.signing import SigningKey, sign_json
from fedrounds_common.study.canonical import digest_of_text

MakeSite = Callable[..., Any]
MakeAsk = Callable[..., Ask]


def code(answer: object) -> str:
    assert isinstance(answer, Refusal), answer
    assert answer.refused
    return answer.code


def untouched(site: Any) -> bool:
    """No case was opened and nothing of a run kept."""
    return not list(site.home.runs.iterdir())


# ---------------------------------------------------------------- default deny


@pytest.mark.parametrize("kind", ["hello", "train", "score", "statistics"])
def test_a_study_that_nobody_allowed_is_refused_and_waits(kind: str, enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask(kind)
    assert code(site.answer(ask)) == "FR-C02"
    assert untouched(site)
    (kept,) = waiting(site.home)
    assert (kept.study, kept.text, kept.run, kept.times) == (ask.digest, ask.study, "0001-cubes", 1)
    assert kept.coordinator == site.coordinator.public.fingerprint


def test_what_is_allowed_is_answered_and_waits_no_more(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.answer(study_ask("hello"))
    site.allow(study_ask())
    assert isinstance(site.answer(study_ask("hello", 0)), Hello)
    assert isinstance(site.answer(study_ask("train")), Update)
    assert isinstance(site.answer(study_ask("score", cohort="local-val")), Scores)
    assert list(waiting(site.home)) == []


def test_a_study_that_changed_by_one_byte_asks_again(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    text = ask.study.replace('"batch":2', '"batch":3')
    assert sum(a != b for a, b in zip(text, ask.study, strict=True)) == 1
    assert code(site.answer(replace(ask, study=text, digest=digest_of_text(text)))) == "FR-C02"
    assert code(site.answer(replace(ask, study=text))) == "FR-C01"
    assert [each.study for each in waiting(site.home)] == [digest_of_text(text)]


def test_a_no_stays_a_no_and_waits_for_nobody(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask, allowed=False)
    assert code(site.answer(ask)) == "FR-C21"
    assert list(waiting(site.home)) == []


def test_a_permit_ends_on_its_day(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask, days=-0.001)
    assert code(site.answer(ask)) == "FR-C09"
    assert [each.why for each in waiting(site.home)] == ["FR-C09"]


def test_pausing_stops_everything_until_it_ends(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    site.home.paused.touch()
    assert code(site.answer(ask)) == "FR-C05"
    site.home.paused.unlink()
    assert isinstance(site.answer(ask), Update)


def test_a_site_that_left_answers_nobody(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    site.home.left.touch()
    assert code(site.answer(ask)) == "FR-C06"


# ---------------------------------------------------------------- rounds


def test_the_rounds_of_a_permit_are_used_up(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.allow(study_ask(), rounds=2)
    for round_ in (1, 2):
        assert isinstance(site.answer(study_ask(round_=round_)), Update)
    assert code(site.answer(study_ask(round_=3))) == "FR-C10"
    # asked again, a round gives the same and costs nothing
    assert isinstance(site.answer(study_ask(round_=2)), Update)


def test_another_run_and_other_weights_in_a_round_count_anew(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask, rounds=2)
    assert isinstance(site.answer(ask), Update)
    moved = {name: array + np.float32(0.01) for name, array in ask.arrays.items()}
    assert isinstance(site.answer(replace(ask, arrays=moved, nonce="again")), Update)
    assert code(site.answer(replace(ask, arrays={n: a * 2 for n, a in moved.items()}))) == "FR-C10"
    assert code(site.answer(replace(ask, run="0002-cubes"))) == "FR-C10"


def test_a_round_that_failed_costs_nothing(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask, rounds=1)
    broken = {name: np.full_like(array, np.nan) for name, array in ask.arrays.items()}
    refusal = site.answer(replace(ask, arrays=broken))
    assert isinstance(refusal, Refusal)
    assert not refusal.refused
    assert isinstance(site.answer(ask), Update)


def test_judgings_are_counted_too(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    # four a round and four for the model before the first: (1 + 1) * 4
    site = enrolled()
    site.allow(study_ask(), rounds=1)
    asks = [study_ask("score", cohort="local-val", model=f"m{number}") for number in range(9)]
    assert all(isinstance(site.answer(ask), Scores) for ask in asks[:8])
    assert code(site.answer(asks[8])) == "FR-C10"


@pytest.mark.parametrize("kind", ["score", "statistics"])
def test_models_that_claim_to_be_one_are_counted_by_what_came(kind: str, study_ask: MakeAsk) -> None:
    ask = study_ask(kind, cohort="local-val", holds="a" * 64)
    other = replace(ask, arrays={name: array + np.float32(0.01) for name, array in ask.arrays.items()})
    assert use_of(other) != use_of(ask)
    assert use_of(replace(ask, holds="")) == use_of(ask)


# ---------------------------------------------------------------- policy

RULES = {
    "tasks": ("policy.tasks=[]", "FR-C12"),
    "networks": ('policy.networks=["unet"]', "FR-C13"),
    "privacy": ("policy.minimum_privacy=patient", "FR-C14"),
    "privacy of hospitals": ("policy.minimum_privacy=hospital", "FR-C14"),
    "epsilon": ("policy.maximum_epsilon=8.0", "FR-C14"),
    "outgoing": ('policy.outgoing=["hello", "scores"]', "FR-C16"),
    "disk": ("policy.disk_gb=1e-9", "FR-C18"),
    "cases": ("policy.minimum_cases=7", "FR-C19"),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_of_the_policy_refuses_by_itself(rule: str, enrolled: MakeSite, study_ask: MakeAsk) -> None:
    setting, wanted = RULES[rule]
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    assert isinstance(site.answer(ask), Update)  # so nothing else stands against it
    site.set(setting)
    site.allow(ask)
    assert code(site.answer(ask)) == wanted


def test_the_policys_rounds_bound_a_permit_of_more(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.set("policy.rounds=1")
    site.allow(study_ask(), rounds=3)
    assert isinstance(site.answer(study_ask(round_=1)), Update)
    assert code(site.answer(study_ask(round_=2))) == "FR-C10"


def test_a_policy_that_changed_makes_a_permit_void(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    site.set("policy.minimum_cases=2")
    assert code(site.answer(ask)) == "FR-C08"
    assert [each.why for each in waiting(site.home)] == ["FR-C08"]
    site.allow(ask)
    assert isinstance(site.answer(ask), Update)


@pytest.mark.parametrize(
    ("hours", "clock", "within"),
    [
        ("19:00-07:00", "18:59", False),
        ("19:00-07:00", "19:00", True),
        ("19:00-07:00", "03:00", True),
        ("19:00-07:00", "07:00", False),
        ("08:00-18:00", "12:00", True),
        ("08:00-18:00", "18:00", False),
        ("00:00-24:00", "23:59", True),
    ],
)
def test_the_hours_of_work(hours: str, clock: str, within: bool) -> None:
    now = datetime.strptime(f"2026-03-01 {clock}", "%Y-%m-%d %H:%M").astimezone()
    if within:
        policy.check_hours(Policy(hours=hours), now)
    else:
        with pytest.raises(RefusedError, match="FR-C17"):
            policy.check_hours(Policy(hours=hours), now)


def test_outside_its_hours_a_site_does_nothing(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    # two windows of which at least one is closed, whatever the clock says
    site, ask, codes = enrolled(), study_ask("hello"), []
    for hours in ("00:00-12:00", "12:00-24:00"):
        site.set(f"policy.hours={hours}")
        site.allow(ask)
        answer = site.answer(ask)
        codes.append(answer.code if isinstance(answer, Refusal) else "done")
    assert sorted(codes) in (["FR-C17", "done"], ["FR-C17", "FR-C17"])


def test_the_process_sees_the_gpu_that_is_allowed_and_no_other(
    enrolled: MakeSite, study_ask: MakeAsk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    site = enrolled()
    site.answer(study_ask())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    site.set('policy.gpu="1"')
    site.answer(study_ask())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


MEASURE = """
from dataclasses import dataclass
from typing import ClassVar, final
from fedrounds_common.privacy import Privacy, Spent

@final
@dataclass(frozen=True)
class Noise(Privacy):
    unit: ClassVar = "patient"
    a_round: float = 1.0
    def spent(self, training, sites_by_round):
        return Spent(self.a_round * len(sites_by_round), 1e-5, "patient", "sum")
"""


def test_a_study_that_protects_patients_is_held_against_the_budget(study_ask: MakeAsk, tmp_path: Path) -> None:
    from fedrounds_common.study.canonical import study_from_canonical

    (tmp_path / "privacy").mkdir()
    (tmp_path / "privacy" / "noise.py").write_text(MEASURE)
    study = replace(study_from_canonical(study_ask().study), privacy=({"name": "noise", "a_round": 2.0},))
    rules = Policy(tasks=("segmentation",), networks=("tiny_unet",), minimum_privacy="patient")
    # three rounds of epsilon 2 are 6
    assert policy.privacy_of(study, [tmp_path]) == ("patient", 6.0)
    assert policy.broken_by(replace(rules, maximum_epsilon=6.0), study, [tmp_path]) == ()
    (broken,) = policy.broken_by(replace(rules, maximum_epsilon=5.9), study, [tmp_path])
    assert broken.code == "FR-C14"


# ---------------------------------------------------------------- who asks


def test_only_the_coordinators_key_is_listened_to(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    assert code(site.answer(ask, SigningKey.create())) == "FR-C11"
    assert untouched(site)
    assert list(waiting(site.home)) == []


def test_a_request_with_a_bit_flipped_is_refused_and_does_nothing(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    from fedrounds_client.boundary import answer_enrolled
    from fedrounds_common.leaving import from_wire, signed_bytes, to_wire

    site, ask = enrolled(), study_ask()
    site.allow(ask)
    header, buffer = to_wire(ask)
    signature = site.coordinator.sign(signed_bytes(header, buffer))
    flipped = bytes([buffer[0] ^ 1]) + buffer[1:]
    for parts in (
        (header, flipped, signature),
        (header.replace("0001", "0002"), buffer, signature),
        (header, buffer, b""),
    ):
        said = from_wire(*answer_enrolled(*parts, site.home.folder)[:2])
        assert code(said) == "FR-C11"
        assert isinstance(said, Refusal)
        assert said.nonce == ask.nonce  # so that the coordinator knows which of its requests this answers
    assert untouched(site)


def test_a_yes_to_one_coordinator_is_none_to_another(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask, other = enrolled(), study_ask(), SigningKey.create()
    site.allow(ask)
    table = {"format": 1, "kind": "invitation", "site": "A", "coordinator": other.public.text}
    site.home.invitation.write_text(json.dumps(sign_json(other, table)))
    assert code(site.answer(ask, other)) == "FR-C32"
    assert [each.coordinator for each in waiting(site.home)] == [other.public.fingerprint]
    site.allow(ask)
    assert isinstance(site.answer(ask, other), Update)


def test_a_site_that_left_may_accept_a_new_invitation(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    from fedrounds_client.deciding import leave

    site, ask = enrolled(), study_ask()
    site.allow(ask)
    leave(site.home)
    assert code(site.answer(ask)) == "FR-C06"
    table = {"format": 1, "kind": "invitation", "site": "A", "coordinator": site.coordinator.public.text, "n": 2}
    site.home.invitation.write_text(json.dumps(sign_json(site.coordinator, table)))
    assert isinstance(site.answer(ask), Update)


def test_a_changed_invitation_is_believed_no_more(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask, thief = enrolled(), study_ask(), SigningKey.create()
    site.allow(ask)
    table = json.loads(site.home.invitation.read_text())
    site.home.invitation.write_text(json.dumps({**table, "coordinator": thief.public.text}))
    answer = site.answer(ask, thief)
    assert isinstance(answer, Refusal)
    assert answer.code == "FR-C90"


@pytest.mark.parametrize("header", ["", "[]", "{", '{"type": "hello"}', '{"run": "../../x", "round": -1}', "null"])
def test_whatever_comes_is_answered_with_a_code(header: str, enrolled: MakeSite) -> None:
    from fedrounds_client.boundary import answer_enrolled
    from fedrounds_common.leaving import from_wire, signed_bytes

    site = enrolled()
    signature = site.coordinator.sign(signed_bytes(header, b""))
    said = from_wire(*answer_enrolled(header, b"", signature, site.home.folder)[:2])
    assert isinstance(said, Refusal)
    assert (said.code, said.run) == ("FR-R10", "")


def test_a_run_name_that_another_study_has_is_refused(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask, other = enrolled(), study_ask(), study_ask(overrides=("training.batch=3",))
    site.allow(ask)
    site.allow(other)
    assert isinstance(site.answer(ask), Update)
    assert code(site.answer(other)) == "FR-C22"
    assert isinstance(site.answer(replace(other, run="0002-cubes")), Update)


# ---------------------------------------------------------------- permits on disk


def changed(table: dict[str, Any], **entries: Any) -> dict[str, Any]:
    return {**table, **entries}


def test_a_permit_that_was_changed_is_none(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask, rounds=1)
    file = site.home.permits / f"{ask.digest}.json"
    signed = json.loads(file.read_text())
    stranger = {name: value for name, value in signed.items() if name != "signature"}
    for table in (
        changed(signed, rounds=300),
        changed(signed, until="2999-01-01T00:00:00+00:00"),
        changed(signed, signature=""),
        sign_json(SigningKey.create(), stranger),
        [],
    ):
        file.write_text(json.dumps(table))
        assert code(site.answer(ask)) == "FR-C07"
    file.write_text(json.dumps(signed))
    assert isinstance(site.answer(ask), Update)


def test_a_yes_cannot_be_moved_to_another_study_or_turned_from_a_no(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask, other = enrolled(), study_ask(), study_ask(overrides=("training.batch=3",))
    site.allow(other)
    yes = site.home.permits / f"{other.digest}.json"
    (site.home.permits / f"{ask.digest}.json").write_bytes(yes.read_bytes())
    assert code(site.answer(ask)) == "FR-C07"
    no = json.loads(yes.read_text()) | {"allowed": False}
    yes.write_text(json.dumps(no))
    with pytest.raises(RefusedError, match="FR-C07"):
        heard(site.home, "A", other.digest)


def test_a_permit_holds_the_journal_before_it_in_place(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.answer(ask)
    site.allow(ask)
    assert verify_permits(site.home, read(site.home.journal)) == 1
    # somebody with the site's account writes the whole chain anew, without the line that says who asked
    lines = [(line["event"], line["facts"]) for line in read(site.home.journal)[1:]]
    site.home.journal.unlink()
    from fedrounds_common.chain import append

    for event, facts in lines:
        append(site.home.journal, event, facts)
    verify(site.home.journal)
    with pytest.raises(RunFileError, match="FR-F40"):
        verify_permits(site.home, read(site.home.journal))


# ---------------------------------------------------------------- waiting


def test_few_studies_wait_and_small_ones(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    asks = [study_ask(overrides=(f"seed={number}",), arrays={}) for number in range(MOST + 2)]
    assert {code(site.answer(ask)) for ask in asks} == {"FR-C02"}
    assert len(list(waiting(site.home))) == MOST
    site.answer(asks[0])
    assert find(site.home, asks[0].digest[:8]).times == 2


def test_a_study_too_large_to_read_is_not_kept(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask(arrays={})
    text = ask.study + " " * LARGEST
    assert code(site.answer(replace(ask, study=text, digest=digest_of_text(text)))) == "FR-C02"
    assert list(waiting(site.home)) == []


def test_what_is_no_study_waits_for_nobody(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    answer = site.answer(replace(ask, study="{}", digest=digest_of_text("{}")))
    assert isinstance(answer, Refusal)
    assert answer.code == "FR-S01"
    assert list(waiting(site.home)) == []


def test_a_study_is_found_by_the_beginning_of_its_digest(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.answer(ask)
    assert find(site.home, ask.digest[:6]).study == ask.digest
    for start in ("", "zz", ask.digest + "0"):
        with pytest.raises(UsageError, match="FR-C24"):
            find(site.home, start)


def test_a_coordinator_that_keeps_asking_fills_no_journal(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    for _ in range(5):
        site.answer(ask)
    assert [line["event"] for line in site.journal()] == ["asked"]
    site.home.paused.touch()
    for _ in range(5):
        site.answer(ask)
    assert [line["event"] for line in site.journal()] == ["asked", "refused"]


def test_now_is_asked_of_the_clock_with_its_zone(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    from fedrounds_client.enrolled import open_enrolled

    site, ask = enrolled(), study_ask()
    site.allow(ask, days=1)
    open_enrolled(site.home, ask, datetime.now(UTC))
    with pytest.raises(RefusedError, match="FR-C09"):
        open_enrolled(site.home, ask, datetime(2999, 1, 1, tzinfo=UTC))
