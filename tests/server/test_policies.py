"""Quorum by cases, spares, parts of a line and the coordinator's keys: each small enough to check by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedrounds_common.errors import NetworkError, TooFewSites, UpdateError
from fedrounds_common.leaving import signed_bytes
from fedrounds_common.signing import SigningKey
from fedrounds_common.strategy import SiteUpdate
from fedrounds_common.study.tables import Cohort
from fedrounds_server.app import coordinator_keys
from fedrounds_server.cohort import choose, need_cases, ranked, spares
from fedrounds_server.history import RoundLine, SiteLine, append, read
from fedrounds_server.updates import UpdateStore

KNOWN = {"a": 10, "b": 30, "c": 60}


@pytest.mark.parametrize(("there", "enough"), [("c", True), ("ab", False), ("bc", True), ("abc", True)])
def test_half_of_the_cases_is_not_had_without_the_largest_hospital(there: str, enough: bool) -> None:
    # 60 of 100 without a and b, 40 of 100 without c
    cohort, cases = Cohort(minimum_cases_share=0.5), {name: KNOWN[name] for name in there}
    if enough:
        need_cases(cases, KNOWN, cohort, 1, 1)
        return
    with pytest.raises(TooFewSites, match=r"FR-R55 .* 40 of 100 cases; at least 50% .*missing: c \(60\)"):
        need_cases(cases, KNOWN, cohort, 1, 1)


def test_by_default_no_share_of_the_cases_is_wanted() -> None:
    need_cases({"a": 1}, KNOWN, Cohort(), 1, 1)


def test_with_a_few_a_round_the_share_is_of_those_that_would_have_been_drawn() -> None:
    cohort = Cohort(per_round=1, minimum_cases_share=1.0)
    for round_ in range(1, 8):
        (drawn,) = choose(sorted(KNOWN), cohort, 3, round_)
        need_cases({drawn: KNOWN[drawn]}, KNOWN, cohort, 3, round_)
        with pytest.raises(TooFewSites):
            need_cases({drawn: KNOWN[drawn] - 1}, KNOWN, cohort, 3, round_)


def test_the_sites_of_a_round_are_the_first_of_its_order() -> None:
    names, cohort = [f"s{number}" for number in range(9)], Cohort(per_round=4, over_select=0.3)
    for round_ in range(1, 6):
        assert tuple(sorted(ranked(names, cohort, 5, round_)[:4])) == choose(names, cohort, 5, round_)
    assert spares(cohort) == 2  # 4 * 0.3 = 1.2, and a third of a site cannot be asked
    assert spares(Cohort(per_round=4)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"over_select": 0.5}, {"minimum_cases_share": 1.5}, {"late": "sometimes"}, {"late_factor": 0.0}, {"wait_s": -1.0},
    ],
)  # fmt: skip
def test_a_policy_that_means_nothing_is_a_fault_of_the_study(wrong: dict[str, object]) -> None:
    with pytest.raises((ValidationError, ValueError)):
        TypeAdapter(Cohort).validate_python(wrong)


def test_a_spare_that_answered_is_ok_and_not_of_the_round(tmp_path: Path) -> None:
    sites = SiteLine("a", "ok", 3), SiteLine("b", "ok", 4, part="spare"), SiteLine("c", "absent", part="idle")
    append(tmp_path / "h", RoundLine(1, 1.0, "ab", sites))
    (line,) = read(tmp_path / "h")
    assert [site.site for site in line.ok] == ["a"]
    assert [site.failed for site in line.sites] == [False, False, False]
    assert SiteLine("d", "absent").failed
    assert SiteLine("d", "late", part="round-1").failed


def test_a_line_of_a_version_before_or_after_this_one_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "h"
    older = {"site": "a", "state": "ok", "cases": 3}
    newer = {**older, "part": "", "colour": "green"}
    lines = [{"round": n, "seconds": 1.0, "digest": "ab", "sites": [site]} for n, site in enumerate((older, newer), 1)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert [line.sites for line in read(file)] == [(SiteLine("a", "ok", 3),)] * 2


@pytest.mark.parametrize("budget", [0, 2**20])
def test_what_is_dropped_from_the_store_is_neither_read_nor_left(budget: int, tmp_path: Path) -> None:
    store = UpdateStore(tmp_path / "updates", budget)
    for number, site in enumerate("ab"):
        store.put(SiteUpdate(site, {"w": np.full(3, number, np.float32)}, 5))
    store.drop("a")
    assert [update.site for update in store] == ["b"]
    assert store.cases == {"b": 5}
    assert not (tmp_path / "updates" / "a.safetensors").exists()
    store.put(SiteUpdate("a", {"w": np.zeros(3, np.float32)}, 6))


def test_a_simulation_has_no_keys_and_a_coordinators_folder_has() -> None:
    assert coordinator_keys("") is None


def test_the_register_is_read_anew_for_every_answer(tmp_path: Path) -> None:
    own, site = SigningKey.create(), SigningKey.create()
    own.save(tmp_path / "keys" / "signing.key")
    entry = {
        "format": 1, "site": "A", "signing_key": site.public.text, "node_key": "", "cases": 7, "node_id": 4,
        "since": "", "revoked": False, "earlier": [],
    }  # fmt: skip
    (tmp_path / "sites").mkdir()
    file = tmp_path / "sites" / "A.json"
    file.write_text(json.dumps(entry), "utf-8")
    keys = coordinator_keys(str(tmp_path))
    assert keys is not None
    assert (keys.enrolled(), keys.site_at(4), keys.site_at(5)) == ({"A": 7}, "A", "")
    header, buffer = '{"site": "A"}', b"arrays"
    signature = site.sign(signed_bytes(header, buffer))
    assert keys.check(header, buffer, signature, node=4) == "A"
    assert own.public.holds(signed_bytes(header, buffer), keys.sign(header, buffer))
    file.write_text(json.dumps({**entry, "revoked": True}), "utf-8")
    with pytest.raises(UpdateError, match="FR-R52"):
        keys.check(header, buffer, signature, node=4)
    assert keys.enrolled() == {}
    (tmp_path / "keys" / "signing.key").chmod(0o644)
    with pytest.raises(NetworkError, match="others may open this private key"):
        coordinator_keys(str(tmp_path))
