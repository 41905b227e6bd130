"""What crosses a site's boundary: permitted, guarded, written down first; and of an error a code, never its text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from fedrounds_client.app import client_app
from fedrounds_client.boundary import answer
from fedrounds_client.permit import Permit
from fedrounds_client.site import Site
from fedrounds_common.arrays import Arrays
from fedrounds_common.errors import CaseError, FedroundsError, RefusedError
from fedrounds_common.leaving import Ask, Hello, Leaving, Refusal, Scores, Update, from_wire
from fedrounds_common.strategies.fedavg import FedAvg
from fedrounds_common.strategy import Consensus, Strategy, Trained, Updates
from fedrounds_common.wire import from_record, to_record
from fedrounds_server.engines.inline import FIRST_SITE_NODE, SERVER_NODE, identify

NAME = "DOE^JANE"
PATH = f"/pacs/{NAME}_1961/t1.nii.gz"

MakeSite = Callable[..., Site]
MakeAsk = Callable[..., Ask]


def answered(site: Site, ask: Ask, permitted: bool = True) -> Ask | Leaving:
    return from_wire(*answer(ask, site, Permit(frozenset({ask.digest} if permitted else ()))))


def ledger(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (site.folder / "outbox.jsonl").read_text("utf-8").splitlines()]


def holding(folder: Path, text: str) -> list[str]:
    """The files below that hold the text."""
    return sorted(
        str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and text.encode() in f.read_bytes()
    )


@final
@dataclass(frozen=True)
class Sends(Strategy):
    """FedAvg whose site goes wrong when it comes to sending."""

    what: Arrays | BaseException

    def send(self, trained: Trained, consensus: Consensus, kept: Arrays) -> tuple[Arrays, Arrays]:
        if isinstance(self.what, BaseException):
            raise self.what
        return {**super().send(trained, consensus, kept)[0], **self.what}, kept

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        return FedAvg().aggregate(consensus, updates)


def sending(site: Site, what: Arrays | BaseException) -> Site:
    return replace(site, parts=replace(site.parts, strategy=Sends(what)))


def first_tensor(site: Site, value: float) -> Arrays:
    name, array = next(iter(sorted((n, p.detach().numpy()) for n, p in site.parts.module().named_parameters())))
    return {name: np.full_like(array, value)}


# ---------------------------------------------------------------- permit


def test_each_request_is_answered_in_kind(hospital_site: MakeSite, ask_of: MakeAsk) -> None:
    site = hospital_site()
    hello = answered(site, ask_of(site, "hello"))
    assert isinstance(hello, Hello)
    assert (hello.site, hello.training_cases + hello.validation_cases, hello.held_out_cases) == ("A", 6, 0)
    assert isinstance(answered(site, ask_of(site)), Update)
    scores = answered(site, ask_of(site, "score", cohort="local-val"))
    assert isinstance(scores, Scores)
    assert (scores.cases, scores.cohort) == (hello.validation_cases, "local-val")
    assert [line["kind"] for line in ledger(site)] == ["hello", "update", "scores"]


@pytest.mark.parametrize("kind", ["hello", "train", "score", "statistics"])
def test_a_study_that_nobody_here_said_yes_to_is_refused_before_a_case_is_opened(
    kind: str, hospital_site: MakeSite, ask_of: MakeAsk
) -> None:
    site = hospital_site(raises="A")
    refusal = answered(site, ask_of(site, kind), permitted=False)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.refused) == ("FR-C02", True)
    assert not (site.folder / "cache").exists()
    assert not (site.folder / "state").exists()


def test_another_text_under_a_permitted_digest_is_refused(hospital_site: MakeSite, ask_of: MakeAsk) -> None:
    site = hospital_site()
    ask = ask_of(site)
    refusal = answered(site, replace(ask, study=ask.study.replace('"rounds":3', '"rounds":300')))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.refused) == ("FR-C01", True)


def test_a_permit_names_digests_and_nothing_else(ask_of: MakeAsk, hospital_site: MakeSite) -> None:
    ask = ask_of(hospital_site())
    Permit(frozenset({ask.digest})).check(ask)
    for listed in (set(), {ask.digest[:12]}, {"*"}, {ask.digest.upper()}):
        with pytest.raises(RefusedError, match="FR-C02"):
            Permit(frozenset(listed)).check(ask)


# ---------------------------------------------------------------- no text of an error leaves

ERRORS: dict[str, tuple[BaseException, str]] = {
    "a file": (FileNotFoundError(2, "No such file", PATH), "FR-R01"),
    "a key": (KeyError(NAME), "FR-R01"),
    "one of ours": (CaseError("FR-D12", f"{PATH} cannot be opened", case=NAME, wanted="a whole file"), "FR-D12"),
    "a code that is none": (FedroundsError(f"X {NAME}", "a plug-in's own"), "FR-R01"),
    "no text at all": (RuntimeError(), "FR-R01"),
    "text that is no text": (ValueError(f"\udcff{NAME}"), "FR-R01"),
    "out of memory": (MemoryError(NAME), "FR-R01"),
    "a plug-in that ends the program": (SystemExit(NAME), "FR-H20"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_of_an_error_a_code_and_a_reference_cross_and_the_text_stays_in_the_sites_log(
    kind: str, hospital_site: MakeSite, ask_of: MakeAsk
) -> None:
    error, code = ERRORS[kind]
    site = sending(hospital_site(), error)
    ask = ask_of(site)
    header, buffer = answer(ask, site, Permit(frozenset({ask.digest})))
    refusal = from_wire(header, buffer)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.refused, refusal.site) == (code, False, "A")
    assert (refusal.run, refusal.round, refusal.nonce) == (ask.run, ask.round, ask.nonce)
    assert NAME not in header
    assert NAME.encode() not in buffer
    log = (site.folder / "log").read_text("utf-8", "replace")
    assert refusal.reference in log
    assert type(error).__name__ in log
    assert holding(site.folder, NAME) == (["log"] if NAME in str(error) + repr(error.args) else [])


def test_a_reader_that_names_a_patient_in_its_error_tells_it_to_nobody(
    hospital_site: MakeSite, ask_of: MakeAsk
) -> None:
    site = hospital_site(raises="A")
    for kind in ("hello", "train", "score"):
        message = answered(site, ask_of(site, kind, cohort="local-val"))
        assert isinstance(message, Refusal)
        assert message.code == "FR-R01"
    assert holding(site.folder, NAME) == ["log"]


def test_each_refusal_has_a_reference_of_its_own(hospital_site: MakeSite, ask_of: MakeAsk) -> None:
    site = sending(hospital_site(), RuntimeError("one"))
    found = [answered(site, ask_of(site, round_=round_)) for round_ in (1, 2, 2)]
    references = [message.reference for message in found if isinstance(message, Refusal)]
    assert len(set(references)) == 2  # the same request has the same one
    log = (site.folder / "log").read_text("utf-8")
    assert [log.count(reference) for reference in references] == [1, 2, 2]


def called(open_site: Callable[[Context, Ask], tuple[Site, Permit]], ask: Ask) -> Message:
    identify(SERVER_NODE)
    message = Message(to_record(ask), dst_node_id=FIRST_SITE_NODE, message_type="train")
    return client_app(open_site)(message, Context(1, FIRST_SITE_NODE, {}, RecordDict(), {}))


def test_a_site_that_cannot_even_be_opened_says_no_more_than_a_code(hospital_site: MakeSite, ask_of: MakeAsk) -> None:
    # Flower sends the text of whatever a ClientApp raises to the coordinator
    ask = ask_of(hospital_site())

    def cannot(context: Context, ask: Ask) -> tuple[Site, Permit]:
        raise FileNotFoundError(2, "No such file", PATH)

    with pytest.raises(FedroundsError) as caught:
        called(cannot, ask)
    assert caught.value.code == "FR-R01"
    assert NAME not in str(caught.value)
    assert "/pacs" not in str(caught.value)


def test_a_site_that_cannot_write_its_ledger_sends_nothing_and_says_no_more_than_a_code(
    hospital_site: MakeSite, ask_of: MakeAsk
) -> None:
    site = hospital_site()
    ask = ask_of(site)
    (site.folder / "outbox.jsonl").mkdir(parents=True)
    with pytest.raises(FedroundsError) as caught:
        called(lambda context, _: (site, Permit(frozenset({ask.digest}))), ask)
    assert caught.value.code == "FR-R01"
    assert str(site.folder) not in str(caught.value)


def test_a_message_that_asks_nothing_is_refused_before_a_site_is_opened(hospital_site: MakeSite) -> None:
    def never(context: Context, ask: Ask) -> tuple[Site, Permit]:
        raise AssertionError("opened")

    identify(SERVER_NODE)
    for content in (RecordDict(), to_record(Refusal("A", "r", 1, "n", "FR-D12", "0"))):
        message = Message(content, dst_node_id=FIRST_SITE_NODE, message_type="train")
        with pytest.raises(FedroundsError, match="FR-R10"):
            client_app(never)(message, Context(1, FIRST_SITE_NODE, {}, RecordDict(), {}))


@pytest.mark.parametrize("message_type", ["train", "evaluate", "query"])
def test_all_three_kinds_of_flowers_messages_are_answered(
    message_type: str, hospital_site: MakeSite, ask_of: MakeAsk
) -> None:
    site = hospital_site()
    ask = ask_of(site, "hello")
    identify(SERVER_NODE)
    message = Message(to_record(ask), dst_node_id=FIRST_SITE_NODE, message_type=message_type)
    app = client_app(lambda context, _: (site, Permit(frozenset({ask.digest}))))
    reply = app(message, Context(1, FIRST_SITE_NODE, {}, RecordDict(), {}))
    assert isinstance(from_record(reply.content), Hello)


# ---------------------------------------------------------------- the site's own guard


@pytest.mark.parametrize(("value", "code"), [(np.nan, "FR-R12"), (np.inf, "FR-R12"), (1e9, "FR-R13")])
def test_an_update_that_must_not_be_averaged_does_not_even_leave(
    value: float, code: str, hospital_site: MakeSite, ask_of: MakeAsk
) -> None:
    site = hospital_site()
    site = sending(site, first_tensor(site, value))
    refusal = answered(site, ask_of(site))
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert [line["kind"] for line in ledger(site)] == ["refusal"]


def test_tensors_that_were_not_asked_for_do_not_leave(hospital_site: MakeSite, ask_of: MakeAsk) -> None:
    site = sending(hospital_site(), {"pixels": np.zeros(3, np.float32)})
    refusal = answered(site, ask_of(site))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FR-R11"


def test_what_a_refused_update_was_made_with_is_not_where_the_next_round_begins(
    hospital_site: MakeSite, ask_of: MakeAsk
) -> None:
    site = hospital_site()
    broken = sending(site, first_tensor(site, np.nan))
    assert isinstance(answered(broken, ask_of(site)), Refusal)
    assert not list((site.folder / "state").glob("*.safetensors"))
    # asked again when it is well, the site does what one does that was always well
    well = hospital_site(folder="well")
    again, first = answered(site, ask_of(site, round_=2)), answered(well, ask_of(well, round_=2))
    assert isinstance(again, Update)
    assert isinstance(first, Update)
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_the_norm_is_held_against_the_sites_own_bound(hospital_site: MakeSite, ask_of: MakeAsk) -> None:
    site = hospital_site(max_norm=1e-6)
    refusal = answered(site, ask_of(site))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FR-R13"


# ---------------------------------------------------------------- the ledger


def test_the_ledger_holds_the_digest_and_the_size_of_exactly_what_left(
    hospital_site: MakeSite, ask_of: MakeAsk
) -> None:
    site = hospital_site()
    sent = []
    for kind, round_ in (("hello", 0), ("train", 1), ("train", 2), ("score", 2)):
        ask = ask_of(site, kind, round_=round_, cohort="local-val")
        sent.append(answer(ask, site, Permit(frozenset({ask.digest}))))
    lines = ledger(site)
    for line, (header, buffer) in zip(lines, sent, strict=True):
        assert line["sha256"] == hashlib.sha256(header.encode() + buffer).hexdigest()
        assert line["bytes"] == len(header.encode()) + len(buffer)
        assert line["format"] == 1
    assert [line["purpose"] for line in lines] == [
        "round 0: hello",
        "round 1: train",
        "round 2: train",
        "round 2: score",
    ]


def test_a_ledger_line_tells_the_scalars_and_holds_no_array(hospital_site: MakeSite, ask_of: MakeAsk) -> None:
    site = hospital_site()
    answered(site, ask_of(site))
    answered(site, ask_of(site, "score", cohort="local-val"))
    update, scores = ledger(site)
    assert update["says"]["site"] == "A"
    assert update["says"]["cases"] == len(site.hospital.open_all().training)
    assert not {"arrays", "tally"} & {*update["says"], *scores["says"]}
    assert all(len(json.dumps(line)) < 1500 for line in (update, scores))


def test_a_refusal_is_in_the_ledger_too(hospital_site: MakeSite, ask_of: MakeAsk) -> None:
    site = hospital_site(raises="A")
    refusal = answered(site, ask_of(site))
    assert isinstance(refusal, Refusal)
    (line,) = ledger(site)
    assert (line["kind"], line["says"]["code"], line["says"]["reference"]) == ("refusal", "FR-R01", refusal.reference)
