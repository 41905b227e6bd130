"""A real site's work: the same as a rehearsal's, in its own books, without who withdrew and without a name."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from fedrounds_client.boundary import answer, answer_enrolled, refuse_enrolled
from fedrounds_client.lineage import sights, uses
from fedrounds_client.permit import Permit
from fedrounds_client.settings import Policy
from fedrounds_client.verifying import verify_books
from fedrounds_common.arrays import digest
from fedrounds_common.disk import SystemSteps, through
from fedrounds_common.errors import MachineError, RefusedError
from fedrounds_common.leaving import Ask, Hello, Leaving, Refusal, Scores, Update, from_wire, signed_bytes, to_wire
from fedrounds_common.metrics.hiding import PREFIX
from fedrounds_common.wire import from_record, parts_of, record_of, signature_of

MARKER = "DOE^JANE"
MakeSite = Callable[..., Any]
MakeAsk = Callable[..., Ask]


def outbox(site: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in site.home.outbox.read_text("utf-8").splitlines()]


def update(said: Leaving) -> Update:
    assert isinstance(said, Update), said
    return said


# ---------------------------------------------------------------- the same as a rehearsal


def without_replicates(scores: Scores) -> Scores:
    return replace(scores, tally={name: sums for name, sums in scores.tally.items() if not name.startswith(PREFIX)})


def test_a_site_sends_what_it_sends_in_the_simulation_of_the_same_study(
    enrolled: MakeSite, study_ask: MakeAsk, hospital_site: MakeSite
) -> None:
    site, rehearsed = enrolled(), hospital_site()
    site.allow(study_ask())
    for round_ in (1, 2, 3):
        ask = study_ask(round_=round_)
        there = from_wire(*answer(ask, rehearsed, Permit(frozenset({ask.digest}))))
        here = site.answer(ask)
        assert digest(update(here).arrays) == digest(update(there).arrays)  # type: ignore[arg-type]
    ask = study_ask("score", round_=3, cohort="local-val")
    there, here = from_wire(*answer(ask, rehearsed, Permit(frozenset({ask.digest})))), site.answer(ask)
    assert isinstance(there, Scores)
    assert isinstance(here, Scores)
    assert to_wire(without_replicates(there)) == to_wire(without_replicates(here))
    drawn = [name for name in here.tally if name.startswith(PREFIX)]
    assert not all(np.array_equal(here.tally[name], there.tally[name]) for name in drawn), "of a secret of the site's"


def test_a_round_asked_twice_gives_the_same_update(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.allow(study_ask())
    first = [digest(update(site.answer(study_ask(round_=round_))).arrays) for round_ in (1, 2)]
    again = [digest(update(site.answer(study_ask(round_=round_, nonce="again"))).arrays) for round_ in (1, 2)]
    assert first == again
    assert first[0] != first[1]


def packed(site: Any, ask: Ask) -> tuple[str, bytes, bytes]:
    header, buffer = to_wire(ask)
    return answer_enrolled(header, buffer, site.coordinator.sign(signed_bytes(header, buffer)), site.home.folder)


@pytest.mark.parametrize("kind", ["train", "score"])
def test_the_very_same_request_gets_the_very_same_bytes_and_is_no_new_round(
    kind: str, enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site, ask = enrolled(), study_ask(kind, cohort="" if kind == "train" else "local-val")
    site.allow(ask, rounds=1)
    first, again = packed(site, ask), packed(site, ask)
    assert first == again  # `seconds` too: it was not trained twice
    lines = outbox(site)
    assert [line["purpose"] for line in lines] == [f"round 1: {kind}", f"round 1: {kind} again"]
    assert lines[0]["sha256"] == lines[1]["sha256"]
    done = "trained" if kind == "train" else "judged"
    assert [line["event"] for line in site.journal()] == ["permitted", done, "sent again"]
    assert len(uses(site.home, ask.digest, done)) == 1
    assert verify_books(site.home).payloads == 2
    kept = list((site.home.runs / "0001-cubes" / "replies").iterdir())
    assert [file.stat().st_mode & 0o777 for file in kept] == [0o600]


def test_a_reply_that_was_kept_leaves_under_the_permit_of_today(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    sent = packed(site, ask)
    site.home.paused.touch()
    refusal = site.answer(ask)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FR-C05"
    site.home.paused.unlink()
    site.home.withdrawn.write_text("patient\nA_p1\n")  # who withdrew since is not in what leaves
    assert packed(site, ask) != sent


def test_a_kept_reply_that_was_changed_is_made_again_and_only_the_last_few_are_kept(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    sent = packed(site, ask)
    folder = site.home.runs / "0001-cubes" / "replies"
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for changed in (whole[:-1], b"", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        file.write_bytes(changed)
        made = packed(site, ask)
        assert made != changed
        assert digest(update(from_wire(*made[:2])).arrays) == digest(update(from_wire(*sent[:2])).arrays)  # type: ignore[arg-type]
    for round_ in (2, 3):
        packed(site, study_ask(round_=round_))
        packed(site, study_ask("score", round_=round_, cohort="local-val"))
    assert sorted(file.name[:4] for file in folder.iterdir()) == ["0002", "0002", "0003", "0003"]


def test_new_images_change_no_run_that_has_begun(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.allow(study_ask(), rounds=9)
    hello = site.answer(study_ask("hello", 0))
    listed = site.home.runs / "0001-cubes" / "cases.json"
    before = json.loads(listed.read_text())
    assert len(before["cases"]) == 6
    # one case fewer on the list stands for one more in the folder
    listed.write_text(json.dumps({**before, "cases": before["cases"][1:]}))
    fewer = site.answer(study_ask("hello", 0))
    assert isinstance(hello, Hello)
    assert isinstance(fewer, Hello)
    assert fewer.training_cases + fewer.validation_cases == 5
    # a site.toml that says something else of the data means to look again
    site.set("data.cases_a_site=8")
    more = site.answer(study_ask("hello", 0))
    assert isinstance(more, Hello)
    assert more.training_cases + more.validation_cases == 8


def test_a_site_that_the_study_holds_out_trains_nothing(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask(overrides=('cohort.held_out=["A"]',))
    site.allow(ask)
    hello = site.answer(replace(ask, kind="hello"))
    assert isinstance(hello, Hello)
    assert (hello.training_cases, hello.held_out_cases) == (0, 6)
    refusal = site.answer(ask)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FR-H01"


# ---------------------------------------------------------------- what is believed


def called(content: RecordDict, home: Path, run_config: dict[str, Any]) -> Message:
    from fedrounds_client.app import app
    from fedrounds_server.engines.inline import FIRST_SITE_NODE, SERVER_NODE, identify

    identify(SERVER_NODE)
    message = Message(content, dst_node_id=FIRST_SITE_NODE, message_type="query")
    return app(message, Context(1, FIRST_SITE_NODE, {"home": str(home)}, RecordDict(), run_config))


@pytest.mark.slow
def test_nothing_of_the_coordinators_run_configuration_is_believed(
    enrolled: MakeSite, study_ask: MakeAsk, tmp_path: Path
) -> None:
    site, ask = enrolled(), study_ask("hello", 0)
    site.allow(ask)
    header, buffer = to_wire(ask)
    record = record_of(header, buffer, site.coordinator.sign(signed_bytes(header, buffer)))
    theirs = {"simulation": str(tmp_path / "rehearsal.json"), "plugins": str(tmp_path), "home": "/", "run": "/"}
    reply = called(record, site.home.folder, theirs)
    assert site.home.key.public.holds(signed_bytes(*parts_of(reply.content)), signature_of(reply.content))
    hello = from_record(reply.content)
    assert isinstance(hello, Hello)
    assert hello.site == "A"


# ---------------------------------------------------------------- books


def test_journal_outbox_and_what_left_agree_by_digest(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    from fedrounds_client.ledger import payload_digest

    site, ask = enrolled(), study_ask()
    site.answer(ask)
    site.allow(ask)
    header, buffer = to_wire(ask)
    signed = answer_enrolled(header, buffer, site.coordinator.sign(signed_bytes(header, buffer)), site.home.folder)
    sent = payload_digest(*signed[:2])
    assert [line["event"] for line in site.journal()] == ["asked", "permitted", "trained"]
    trained = site.journal("trained")[0]["facts"]
    assert trained["sent"] == outbox(site)[-1]["sha256"] == sent
    said = from_wire(*signed[:2])
    assert trained["update"] == digest(update(said).arrays)  # type: ignore[arg-type]
    assert (trained["run"], trained["round"], trained["cases"]) == ("0001-cubes", 1, update(said).cases)  # type: ignore[arg-type]


def test_a_site_that_cannot_keep_its_journal_sends_nothing(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    from fedrounds_common.errors import RunFileError

    site, ask = enrolled(), study_ask()
    site.allow(ask)
    text = site.home.journal.read_text()
    site.home.journal.write_text(text.replace('"ada"', '"eve"'))
    with pytest.raises(RunFileError, match="FR-F40"):
        site.answer(ask)


class NoRoom:
    """The system's own steps, but for the files of a site's state, for which there is no room."""

    def __getattr__(self, name: str) -> Any:
        return getattr(SystemSteps(), name)

    def open(self, file: Path, flags: int, mode: int) -> int:
        if file.parent.name == "state":
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return SystemSteps().open(file, flags, mode)


def test_a_full_disk_is_named_as_one_and_the_round_is_made_once_there_is_room(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    with through(NoRoom()):
        said = site.answer(ask)
    assert isinstance(said, Refusal)
    assert (said.code, said.refused) == ("FR-E01", False)
    assert isinstance(site.answer(ask), Update)


def test_an_answer_that_was_stopped_from_outside_is_refused_with_its_code(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site, ask = enrolled(), study_ask(round_=2)
    header, buffer, signature = refuse_enrolled(
        to_wire(ask)[0], site.home.folder, MachineError("FR-E40", f"no answer, {MARKER}")
    )
    said = from_wire(header, buffer)
    assert isinstance(said, Refusal)
    assert (said.code, said.refused, said.round, said.nonce) == ("FR-E40", False, 2, "nonce-2")
    assert site.home.key.public.holds(signed_bytes(header, buffer), signature)
    assert MARKER in site.home.log.read_text()
    assert MARKER not in header + site.home.outbox.read_text() + site.home.journal.read_text()


def test_a_refusal_needs_no_torch() -> None:
    import subprocess
    import sys

    program = (
        "import sys, fedrounds_client.boundary, fedrounds_client.enrolled; "
        "print([m for m in ('torch', 'monai', 'flwr') if m in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


MEANWHILE = {
    "paused": (lambda site, ask: site.home.paused.touch(), "FR-C05"),
    "left": (lambda site, ask: site.home.left.touch(), "FR-C06"),
    "refused": (lambda site, ask: site.allow(ask, allowed=False), "FR-C21"),
    "the policy changed": (lambda site, ask: site.set("policy.minimum_cases=2"), "FR-C08"),
    "used up elsewhere": (lambda site, ask: see_another(site, ask), "FR-C10"),
}


def see_another(site: Any, ask: Ask) -> None:
    from datetime import UTC, datetime

    from fedrounds_client.lineage import see

    see(site.home, replace(ask, run="0002-cubes"), ["A0"], datetime.now(UTC))


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_changed_while_it_trained_holds_before_the_update_leaves(
    what: str, enrolled: MakeSite, study_ask: MakeAsk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedrounds_client import rounds

    site, ask = enrolled(), study_ask()
    site.allow(ask, rounds=1)
    happens, code = MEANWHILE[what]
    train = rounds.train

    def train_and_then(*arguments: Any, **named: Any) -> Any:
        result = train(*arguments, **named)
        happens(site, ask)
        return result

    monkeypatch.setattr(rounds, "train", train_and_then)
    said = site.answer(ask)
    assert isinstance(said, Refusal)
    assert said.code == code
    assert [line["kind"] for line in outbox(site)] == ["refusal"]
    assert site.journal("trained") == []


# ---------------------------------------------------------------- who withdrew


def test_patients_who_withdraw_are_left_out_from_the_next_round_on_and_counted(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site = enrolled()
    site.allow(study_ask(), rounds=9)
    before = site.answer(study_ask("hello", 0))
    first = update(site.answer(study_ask(round_=1)))
    site.home.withdrawn.write_text("patient\nA1\n A3 \n\nsomebody else\n")
    after = site.answer(study_ask("hello", 0))
    assert isinstance(before, Hello)
    assert isinstance(after, Hello)
    assert before.left_out == {}
    assert after.left_out == {"FR-C20": 2}
    assert after.training_cases + after.validation_cases == 4
    second = update(site.answer(study_ask(round_=2)))
    assert second.cases < first.cases
    (line,) = site.journal("withdrawn")
    assert line["facts"] == {"patients": 3, "before": 0, "files_deleted": 2}


def test_images_kept_between_runs_are_private_counted_and_go_with_who_withdraws_or_leaves(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    from fedrounds_client.deciding import leave
    from fedrounds_client.policy import check_disk
    from fedrounds_sites.cache import CaseStore

    site = enrolled()
    site.set("machine.cache=kept")
    site.allow(study_ask(), rounds=9)
    before = site.answer(study_ask("hello", 0))
    again = site.answer(study_ask("hello", 0, run="0002-cubes"))
    assert isinstance(before, Hello)
    assert isinstance(again, Hello)
    assert again.training_cases == before.training_cases
    store = CaseStore(site.home.folder / "kept")
    assert len(list(store.refs())) == 6 + 6  # its reader cannot tell whether files change: made anew for each run
    assert not list(site.home.runs.rglob("*.case"))
    assert {file.stat().st_mode & 0o077 for file in (store.folder, *store.folder.iterdir())} == {0}
    with pytest.raises(RefusedError, match="FR-C18"):
        check_disk(Policy(disk_gb=store.bytes / 2e9), site.home.runs, store.folder)
    site.home.withdrawn.write_text("patient\nA1\n")
    site.answer(study_ask("hello", 0, run="0002-cubes"))
    assert {ref.patient for _, ref in store.refs() if ref is not None} == {"A0", "A2", "A3", "A4", "A5"}
    assert site.journal("withdrawn")[-1]["facts"]["files_deleted"] == 2
    assert leave(site.home) > store.bytes
    assert list(store.refs()) == []


def test_the_prepared_images_and_pictures_of_who_withdrew_are_deleted(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    from fedrounds_sites.cache import CaseStore

    site = enrolled()
    site.allow(study_ask(), rounds=9)
    site.answer(study_ask("hello", 0))
    site.answer(study_ask("score", cohort="local-val"))
    run = site.home.runs / "0001-cubes"
    pictures = [json.loads(file.read_text())["case"] for file in (run / "pictures").glob("*.json")]
    assert len(list((run / "cache").glob("*.case"))) == 6
    assert len(pictures) == 1
    site.home.withdrawn.write_text(f"{pictures[0]}\n")
    site.answer(study_ask("hello", 0))
    assert len(list((run / "cache").glob("*.case"))) == 5
    assert list((run / "pictures").iterdir()) == []
    assert CaseStore(run / "cache").forget({"A0", "A1", "A2", "A3", "A4", "A5"}) == 5


def test_a_patient_may_be_named_without_the_group_that_the_reader_puts_before() -> None:
    from fedrounds_common.case import CaseRef
    from fedrounds_sites.own import called

    refs = (CaseRef("a_p1", "a_p1", "a"), CaseRef("a_p10", "a_p10", "a"), CaseRef("p2", "p2"))
    assert called(refs, ["p1"]) == called(refs, ["a_p1"]) == {"a_p1"}
    assert called(refs, ["p2", "a"]) == {"p2"}
    assert called(refs, []) == called(refs, ["p", "1"]) == frozenset()


def test_a_list_that_cannot_be_read_stops_the_site(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    site.home.withdrawn.write_bytes(b"patient\nM\xfcller\n")
    refusal = site.answer(ask)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FR-C27"


# ---------------------------------------------------------------- lineage


def test_lineage_says_which_rounds_and_models_saw_a_patient(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.allow(study_ask(), rounds=9)
    asks = [study_ask(round_=1), study_ask(round_=2), study_ask(round_=2), study_ask("score", 2, cohort="local-val")]
    for ask in asks:
        site.answer(ask)
    seen = {f"A{number}": [(s.event, s.round) for s in sights(site.home, f"A{number}")] for number in range(6)}
    trained = [patient for patient, found in seen.items() if found == [("trained", 1), ("trained", 2)]]
    judged = [patient for patient, found in seen.items() if found == [("judged", 2)]]
    split = json.loads((site.home.runs / "0001-cubes" / "splits.json").read_text())["patients"]
    assert trained == sorted(p for p, part in split.items() if part == "train")
    assert judged == sorted(p for p, part in split.items() if part == "validation")
    assert sights(site.home, trained[0])[0].received == digest(asks[0].arrays)
    assert sights(site.home, "B0") == ()


def test_the_lineage_file_tells_nobody_without_the_key_who_was_here(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, other = enrolled(), enrolled("other")
    for each in (site, other):
        each.allow(study_ask())
        each.answer(study_ask())
    line, elsewhere = (json.loads(each.home.lineage.read_text()) for each in (site, other))
    assert not {"A0", "A1", "A2", "A3", "A4", "A5"} & set(line["patients"])
    assert not set(line["patients"]) & set(elsewhere["patients"])  # the same patients, another site's key


# ---------------------------------------------------------------- no name leaves


def test_a_patients_name_is_in_nothing_that_leaves_and_in_no_book_of_the_site(
    enrolled: MakeSite, study_ask: MakeAsk
) -> None:
    site = enrolled(raises="A")  # its reader fails with a name in the path
    site.allow(study_ask())
    for kind in ("hello", "train", "score"):
        header, buffer = to_wire(study_ask(kind, cohort="local-val"))
        signature = site.coordinator.sign(signed_bytes(header, buffer))
        signed = answer_enrolled(header, buffer, signature, site.home.folder)
        said = from_wire(*signed[:2])
        assert isinstance(said, Refusal)
        assert said.code == "FR-R01"
        assert MARKER.encode() not in b"".join((signed[0].encode(), *signed[1:]))
    holding = [
        file.relative_to(site.home.folder).as_posix()
        for file in site.home.folder.rglob("*")
        if file.is_file() and MARKER.encode() in file.read_bytes()
    ]
    assert holding == ["log"]


def test_pseudonyms_stand_in_no_journal_and_no_outbox(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.allow(study_ask(), rounds=9)
    site.home.withdrawn.write_text("A2\n")
    for kind in ("hello", "train", "score"):
        site.answer(study_ask(kind, cohort="local-val"))
    books = site.home.journal.read_text() + site.home.outbox.read_text() + site.home.lineage.read_text()
    assert [name for name in ("A0", "A1", "A2", "A3", "A4", "A5") if f'"{name}"' in books] == []


def test_everything_in_a_sites_folder_is_its_accounts_alone(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site = enrolled()
    site.answer(study_ask())  # which sets what is made from here on
    site.allow(study_ask())
    site.answer(study_ask())
    site.answer(study_ask("score", cohort="local-val"))
    made = [*site.home.folder.rglob("*"), site.home.folder]
    by_test = {site.home.invitation}
    assert [file for file in made if file not in by_test and file.stat().st_mode & 0o077] == []
    assert np.all([file.stat().st_mode & 0o777 == 0o600 for file in (site.home.signing_key, site.home.site_toml)])
