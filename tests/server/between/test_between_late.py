"""Rounds between hospitals: who is late, who is enough, and what a site's policy withholds."""

from __future__ import annotations

import numpy as np
import pytest
from village import (
    KEYS,
    NODES,
    SITES,
    Entry,
    Made,
    Make,
    Says,
    both,
    by_hand,
    changed,
    keys,
    only,
    refusal,
    slow,
    trained,
    well,
)

from fedrounds_common.arrays import digest
from fedrounds_common.errors import TooFewSites
from fedrounds_common.leaving import (
    Ask,
)
from fedrounds_server.keys import Keys
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.words import withheld
from fedrounds_server.tables import read_metrics

# ---------------------------------------------------------------- who is late, who is enough


def test_a_late_update_is_dropped_by_default(made: Make) -> None:
    run = made()
    run.run(run.village(takes=slow("B", 1, 32.0)))
    assert run.states == [{"A": "ok", "B": "late", "C": "ok"}, *[{"A": "ok", "B": "ok", "C": "ok"}] * 2]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC", "ABC", "ABC"]))


def test_a_late_update_stands_in_in_the_next_round_and_counts_for_less(made: Make) -> None:
    run = made('cohort.late="next"', "cohort.late_factor=0.25")
    run.run(run.village(takes=both(slow("B", 1, 40.0), slow("B", 2, 500.0))))
    assert [each["B"] for each in run.states] == ["late", "late", "ok"]
    stood_in = run.lines[1].sites[1]
    assert (stood_in.part, stood_in.cases, stood_in.bytes_up > 0) == ("round-1", 3, True)
    np.testing.assert_allclose(run.consensus["w"], by_hand(["AC", "AC", "ABC"], {2: ("B", 0.25)}), rtol=1e-6)
    assert not np.array_equal(run.consensus["w"], by_hand(["AC", "AC", "ABC"]))


def test_a_late_update_is_not_needed_where_the_site_sends_one_in_time(made: Make) -> None:
    run = made('cohort.late="next"')
    run.run(run.village(takes=slow("B", 1, 31.0)))
    assert [each["B"] for each in run.states] == ["late", "ok", "ok"]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC", "ABC", "ABC"]))


def test_a_late_update_is_checked_against_its_own_round(made: Make) -> None:
    run = made('cohort.late="next"')
    grid = run.village(
        {"B": only("train", 1, changed(nonce="another"))}, takes=both(slow("B", 1, 40.0), slow("B", 2, 500.0))
    )
    run.run(grid)
    assert run.lines[1].sites[1].part == ""
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AC", "AC", "ABC"]))
    assert any("FR-R18" in line for line in run.status["warnings"])


def drawn_order(run: Made, round_: int) -> list[str]:
    from fedrounds_server.cohort import ranked

    return list(ranked("ABCD", run.plan.study.cohort, run.plan.study.seed, round_))


@pytest.fixture
def four() -> Keys:
    return keys(D=Entry(KEYS["D"].public, SITES["D"][0], NODES["D"]))


def test_spares_take_the_place_of_the_drawn_that_fail_whoever_answers_first(made: Make, four: Keys) -> None:
    found = set()
    for number, quick in enumerate("ABCD"):
        run = made("cohort.per_round=2", "cohort.over_select=0.5", rounds=1, keys=four, name=f"{number}")
        first, second, spare, idle = drawn_order(run, 1)
        grid = run.village(
            {first: only("train", 1, refusal("FR-D12"))},
            "ABCD",
            takes=lambda site, ask, q=quick: 1.0 if site == q else 3.0,
        )
        run.run(grid)
        assert trained(grid, 1) == sorted([first, second, spare])
        line = {site.site: (site.state, site.part) for site in run.lines[0].sites}
        assert line == {first: ("error:FR-D12", ""), second: ("ok", ""), spare: ("ok", ""), idle: ("absent", "idle")}
        found.add(digest(run.consensus))
    assert len(found) == 1


def test_a_spare_that_is_quicker_than_the_drawn_is_not_averaged(made: Make, four: Keys) -> None:
    run = made("cohort.per_round=2", "cohort.over_select=0.5", rounds=1, keys=four)
    first, second, spare, _ = drawn_order(run, 1)
    run.run(run.village(sites="ABCD", takes=lambda site, ask: 1.0 if site == spare else 5.0))
    np.testing.assert_array_equal(run.consensus["w"], by_hand([sorted([first, second])]))
    line = {site.site: (site.state, site.part) for site in run.lines[0].sites}
    assert line[spare] == ("ok", "spare")
    assert [site.site for site in run.lines[0].ok] == sorted([first, second])
    assert run.status["exit"] == 0


def test_a_spare_that_is_not_needed_is_not_waited_for_and_has_not_failed(made: Make, four: Keys) -> None:
    run = made("cohort.per_round=2", "cohort.over_select=0.5", rounds=1, keys=four)
    _, _, spare, _ = drawn_order(run, 1)
    run.run(run.village(sites="ABCD", takes=slow(spare, 1, 29.0)))
    assert run.lines[0].seconds < 10
    assert {site.site: (site.state, site.part) for site in run.lines[0].sites}[spare] == ("absent", "spare")
    assert (run.status["exit"], run.status["failed"]) == (0, {})


def test_without_the_largest_hospital_there_is_no_round_where_the_study_says_so(made: Make) -> None:
    # A and B have 4 of 8 cases
    run = made("cohort.minimum_cases_share=0.6", "cohort.wait_s=60")
    with pytest.raises(
        TooFewSites, match=r"FR-R55 .*round 2 stand for 4 of 8 cases; at least 60%.*missing: C \(4\).*on disk.*A, B"
    ):
        run.run(run.village({"C": only("train", 2, refusal("FR-D12"))}))
    assert len(run.states) == 1
    run.run(run.village(), resume=True)
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


def test_a_round_short_of_sites_waits_for_them_and_asks_nobody_twice(made: Make) -> None:
    run = made("cohort.minimum=3", rounds=2)
    away: list[float] = []

    def online(site: str, t: float) -> bool:
        return site != "B" or not away or not away[0] < t < away[0] + 120

    def go(site: str, ask: Ask) -> Says:
        away.append(run.time.t)
        return well(site, ask)

    grid = run.village({"A": only("train", 2, go)}, online=online, takes=slow("B", 2, 5.0))
    run.run(grid)
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}] * 2
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 2))
    asked = trained(grid, 2)
    assert (asked.count("A"), asked.count("C")) == (1, 1)


def test_who_has_not_answered_in_a_round_short_of_sites_is_not_asked_again_if_its_data_are_broken(made: Make) -> None:
    run = made("cohort.minimum=3", rounds=2)
    grid = run.village({"B": only("train", 1, refusal("FR-D12"))})
    with pytest.raises(TooFewSites):
        run.run(grid)
    assert trained(grid, 1) == ["A", "B", "C"]
    assert run.time.t < 1100


# ---------------------------------------------------------------- what a site's policy withholds


def few_cases(site: str, ask: Ask) -> Says:
    return refusal("FR-C19", refused=True)(site, ask) if ask.kind == "score" else well(site, ask)


def test_a_site_that_withholds_its_scores_is_named_and_has_not_failed(made: Make) -> None:
    run = made()
    run.run(run.village({"B": few_cases}))
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}] * 3
    assert (run.status["exit"], run.status["failed"], run.status["finished"]) == (0, {}, 3)
    assert run.status["withheld"] == {"B": "too few cases"}
    assert {row.site for row in read_metrics(run.folder.metrics)} == {"A", "C", "all"}
    shown = withheld(read_run(run.folder.path, with_sites=False))
    assert shown == ("Not in the scores, by their own policy: B (withheld: too few cases).",)


def test_what_was_withheld_is_not_asked_for_again_and_still_named_after_a_crash(made: Make) -> None:
    run = made()
    run.run(run.village({"B": few_cases}))
    run.folder.status.unlink()
    grid = run.village()
    run.run(grid, resume=True)
    assert [name for name, ask, _ in grid.asked if ask.kind == "score"] == []
    assert run.status["withheld"] == {"B": "too few cases"}


def test_a_run_whose_sites_all_withhold_their_scores_has_a_consensus_and_no_table(made: Make) -> None:
    run = made()
    run.run(run.village(dict.fromkeys("ABC", few_cases)))
    assert (run.status["exit"], sorted(run.status["withheld"])) == (0, ["A", "B", "C"])
    assert read_metrics(run.folder.metrics) == ()
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


def test_too_few_cases_to_train_on_is_still_a_refusal(made: Make) -> None:
    run = made()
    run.run(run.village({"B": only("train", 2, refusal("FR-C19", refused=True))}))
    assert run.status["failed"] == {"B": "refused:FR-C19"}
    assert "withheld" not in run.status
