"""Real sites in a secure sum: each in its own folder, asked step by step, with everything in its own books."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrounds_client.review import review
from fedrounds_client.verifying import verify_books
from fedrounds_client.waiting import find
from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.leaving import Ask, Refusal, Share, to_wire
from fedrounds_common.masking.field import FIRST
from fedrounds_common.masking.site import session_of
from fedrounds_common.signing import SigningKey
from fedrounds_server.unmasking import Unmasking

MakeSite = Callable[..., Any]
MakeAsk = Callable[..., Ask]
SECURE = ('wire.channel.name="secure_sum"', "training.local_steps=1")


class Hospitals:
    """Three enrolled sites and a coordinator that is a test: `ask` is what it asked them to train."""

    def __init__(self, enrolled: MakeSite, ask: Ask) -> None:
        self.sites, self.ask, coordinator = {}, ask, SigningKey.create()
        for name in "ABC":
            site = enrolled(f"site-{name}")
            site.set(f'name="{name}"', f'data.only="{name}"')
            self.sites[name] = replace(site, coordinator=coordinator)
            write_invitation(self.sites[name])
            self.sites[name].allow(ask, rounds=5)
        self.begin(ask)

    def begin(self, ask: Ask) -> None:
        self.ask, channel = ask, SecureSum()
        count = FIRST + sum(array.size for array in ask.arrays.values())
        session = session_of(ask.digest, ask.run, ask.round, ask.nonce)
        self.unmasking = Unmasking(channel.rules(1), session, count)

    def keys(self) -> None:
        for name in self.sites:
            self.unmasking.hear(name, self.said(name, self.ask)["notice"])
        self.unmasking.close_keys()

    def step(self, name: str, phase: str, blobs: Mapping[str, bytes]) -> Any:
        arrays = {key: np.frombuffer(data, np.uint8) for key, data in blobs.items()}
        nonce = f"{self.ask.nonce}.{phase}"
        return self.sites[name].answer(replace(self.ask, kind="mask", purpose=phase, nonce=nonce, arrays=arrays))

    def said(self, name: str, ask: Ask) -> dict[str, bytes]:
        return blobs_of(self.sites[name].answer(ask))

    def until_masked(self) -> None:
        self.keys()
        for name in self.sites:
            self.unmasking.take_sealed(name, blobs_of(self.step(name, "shares", self.unmasking.notices)))
        for name in self.sites:
            came = self.step(name, "masked", self.unmasking.sealed_for(name))
            self.unmasking.add(name, came.arrays["numbers"])

    def lists(self, *survivors: str) -> dict[str, bytes]:
        return {"list": json.dumps({"shared": sorted(self.sites), "survivors": survivors}).encode()}

    def to_the_end(self) -> Any:
        for name in self.sites:
            self.unmasking.signatures[name] = blobs_of(self.step(name, "agree", self.lists(*"ABC")))["signature"]
        for name in self.sites:
            self.unmasking.take_given(name, blobs_of(self.step(name, "unmask", self.unmasking.signatures)))
        return self.unmasking.sum()


def write_invitation(site: Any) -> None:
    from fedrounds_common.disk import write_json
    from fedrounds_common.signing import sign_json

    table = {"format": 1, "kind": "invitation", "site": "A", "coordinator": site.coordinator.public.text}
    write_json(site.home.invitation, sign_json(site.coordinator, table))


def blobs_of(said: Any) -> dict[str, bytes]:
    assert isinstance(said, Share), said
    return {name: array.tobytes() for name, array in said.arrays.items()}


@pytest.fixture
def hospitals(enrolled: MakeSite, study_ask: MakeAsk) -> Hospitals:
    return Hospitals(enrolled, study_ask(overrides=SECURE))


@pytest.mark.slow
def test_real_sites_come_to_a_sum_with_every_step_in_their_books(hospitals: Hospitals) -> None:
    hospitals.until_masked()
    total = hospitals.to_the_end()
    weight = SecureSum().numbers.weights(total)
    assert weight == sum(cases_of(site) for site in hospitals.sites.values())
    assert np.abs(total[1:]).max() > 0
    for site in hospitals.sites.values():
        verify_books(site.home)
        steps = [line["facts"].get("step", "") for line in site.journal("trained") + site.journal("masked")]
        assert steps == ["keys", "shares", "masked", "agree", "unmask"]
        kinds = [json.loads(line)["kind"] for line in site.home.outbox.read_text("utf-8").splitlines()]
        assert kinds == ["share"] * 5
        kept = site.home.runs / "0001-cubes" / "masks"
        assert [file.stat().st_mode & 0o077 for file in kept.iterdir()] == [0]
        # what is left of the round's secrets is what was given out
        left = json.loads((kept / "round.json").read_text("utf-8"))
        state = json.loads(left["state"])
        assert (state["box"], state["mask"], state["seed"], state["sealed"]) == ("", "", "", {})


def cases_of(site: Any) -> int:
    """How many it trained on, as its first answer says."""
    said = json.loads(site.home.outbox.read_text("utf-8").splitlines()[0])["says"]
    return int(said["cases"])


@pytest.mark.slow
def test_what_review_says_leaves_are_the_numbers_that_leave(hospitals: Hospitals) -> None:
    site, other = (
        hospitals.sites["A"],
        replace(hospitals.ask, study=hospitals.ask.study.replace('"seed":5', '"seed":6')),
    )
    other = replace(other, digest=hashlib.sha256(other.study.encode()).hexdigest())
    site.answer(other)  # which nobody allowed: it waits for somebody to look at it
    found = review(site.home, site.home.read_settings(), find(site.home, other.digest))
    hospitals.keys()
    for name in hospitals.sites:
        hospitals.unmasking.take_sealed(name, blobs_of(hospitals.step(name, "shares", hospitals.unmasking.notices)))
    sent = hospitals.step("A", "masked", hospitals.unmasking.sealed_for("A"))
    assert [(each.name, each.shape) for each in found.leaves.tensors] == [("numbers", sent.arrays["numbers"].shape)]
    assert found.leaves.update_bytes == pytest.approx(sum(map(len, to_wire(sent))), abs=120)


@pytest.mark.slow
def test_the_same_update_is_in_no_second_sum_with_others_in_whatever_run(hospitals: Hospitals) -> None:
    hospitals.until_masked()
    hospitals.to_the_end()
    # another run of the same study, from the same weights: the same updates; and a coordinator for whom C is lost
    hospitals.begin(replace(hospitals.ask, run="0002-cubes", nonce="second"))
    hospitals.until_masked()
    said = hospitals.step("A", "agree", hospitals.lists("A", "B"))
    assert isinstance(said, Refusal)
    assert (said.code, said.refused) == ("FR-C77", True)
    # with the same sites it says nothing new
    assert isinstance(hospitals.step("A", "agree", hospitals.lists(*"ABC")), Share)
    # nor from weights one bit apart, which it trains from to nearly the same update
    name, array = next(iter(hospitals.ask.arrays.items()))
    near = {**hospitals.ask.arrays, name: np.nextafter(array, np.float32(9))}
    hospitals.begin(replace(hospitals.ask, run="0003-cubes", nonce="third", arrays=near, holds=""))
    hospitals.until_masked()
    assert isinstance(hospitals.step("A", "agree", hospitals.lists("A", "B")), Refusal)


@pytest.mark.slow
def test_a_step_of_another_round_or_out_of_its_turn_is_refused(hospitals: Hospitals) -> None:
    hospitals.keys()
    said = hospitals.step("A", "agree", hospitals.lists(*"ABC"))
    assert isinstance(said, Refusal)
    assert (said.code, said.refused) == ("FR-C77", True)
    said = hospitals.step("A", "masked", {"B": bytes(94)})
    assert isinstance(said, Refusal)
    assert said.code == "FR-C77"
    other = replace(hospitals.ask, kind="mask", purpose="shares", nonce="other.shares", arrays={})
    said = hospitals.sites["A"].answer(other)
    assert isinstance(said, Refusal)
    assert said.code == "FR-C77"


@pytest.mark.slow
def test_a_hospital_whose_key_changes_is_refused_by_those_who_met_it(hospitals: Hospitals) -> None:
    hospitals.keys()
    hospitals.step("A", "shares", hospitals.unmasking.notices)
    met = json.loads((hospitals.sites["A"].home.folder / "peers.json").read_text("utf-8"))
    assert met == {name: site.home.key.public.fingerprint for name, site in hospitals.sites.items()}
    # site B with a new key, in the next round
    home = hospitals.sites["B"].home
    home.signing_key.unlink()
    SigningKey.create().save(home.signing_key)
    hospitals.sites["B"] = replace(hospitals.sites["B"], home=type(home)(home.folder))
    hospitals.sites["B"].allow(hospitals.ask, rounds=5)
    hospitals.begin(replace(hospitals.ask, nonce="next"))
    hospitals.keys()
    said = hospitals.step("A", "shares", hospitals.unmasking.notices)
    assert isinstance(said, Refusal)
    assert (said.code, said.refused) == ("FR-C79", True)


@pytest.mark.slow
def test_an_update_may_leave_masked_only_where_updates_may_leave(enrolled: MakeSite, study_ask: MakeAsk) -> None:
    site, ask = enrolled(), study_ask(overrides=SECURE)
    site.set('policy.outgoing=["hello", "scores"]')
    site.allow(ask)
    said = site.answer(ask)
    assert isinstance(said, Refusal)
    assert said.code == "FR-C16"
