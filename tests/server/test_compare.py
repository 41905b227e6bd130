"""Differences are paired by hospital, intervals resample hospitals, and every number is checked by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrounds_server.compare import Comparison, compare, compare_of_runs, standings
from fedrounds_server.gap import gap, gap_of_runs
from fedrounds_server.intervals import HELD, RESAMPLES, interval, resampled, worth
from fedrounds_server.tables import MetricRow

NAN = math.nan
FIVE = ("a", "b", "c", "d", "e")


def rows(
    model: str,
    values: Mapping[str, float],
    trained_at: str = "all",
    cases: Mapping[str, int] | None = None,
    metric: str = "dice",
    region: str = "mean",
    round: int = 9,
) -> list[MetricRow]:
    """One line a hospital; the cases default to 10 each."""
    return [
        MetricRow(round, model, trained_at, site, "held-out", region, metric, value, NAN, NAN,
                  10 if cases is None else cases[site], 0, 0, 0)
        for site, value in values.items()
    ]  # fmt: skip


def at_five(*values: float) -> dict[str, float]:
    return dict(zip(FIVE, values, strict=True))


def one(found: Sequence[Comparison], label: str) -> Comparison:
    [pair] = [pair for pair in found if pair.other.label == label]
    return pair


def test_the_difference_is_the_mean_of_hospitals_differences() -> None:
    # a: 0.8 − 0.7 = 0.1, b: 0.6 − 0.3 = 0.3; mean 0.2, and of two hospitals the draws are aa, ab, ba, bb:
    # means 0.1, 0.2, 0.2, 0.3, each a quarter, so the 2.5 and 97.5 percentiles are 0.1 and 0.3
    table = rows("consensus", {"a": 0.8, "b": 0.6}) + rows("pooled", {"a": 0.7, "b": 0.3})
    [pair] = compare(table, "dice", "held-out", lower=False)
    assert pair.difference.value == pytest.approx(0.2)
    assert (pair.difference.low, pair.difference.high) == pytest.approx((0.1, 0.3))
    assert (pair.consensus.mean.value, pair.other.mean.value) == pytest.approx((0.7, 0.5))
    assert pair.better == 2


def test_hospitals_weigh_alike_in_one_mean_and_cases_in_the_other() -> None:
    # hospitals: (0.9 + 0.5) / 2 = 0.7; cases: (0.9 · 30 + 0.5 · 10) / 40 = 0.8; the other model: 0.6 and 0.6
    cases = {"a": 30, "b": 10}
    table = rows("consensus", {"a": 0.9, "b": 0.5}, cases=cases) + rows("pooled", {"a": 0.6, "b": 0.6}, cases=cases)
    [pair] = compare(table, "dice", "held-out", lower=False)
    assert pair.consensus.mean.value == pytest.approx(0.7)
    assert pair.consensus.by_cases.value == pytest.approx(0.8)
    assert pair.difference.value == pytest.approx(0.1)
    assert pair.by_cases == pytest.approx(0.2)


def test_the_interval_over_patients_is_taken_from_the_total_of_the_same_cases() -> None:
    table = rows("consensus", {"a": 0.9, "b": 0.5})
    total = replace(table[0], site="all", value=0.7, low=0.6, high=0.8, n=20)
    [standing] = standings([*table, total], "dice", "held-out", lower=False)
    assert (standing.by_cases.low, standing.by_cases.high) == (0.6, 0.8)
    # a total of other cases has another mean, and its interval does not belong to this one
    [standing] = standings([*table, replace(total, n=19)], "dice", "held-out", lower=False)
    assert math.isnan(standing.by_cases.low)


def test_five_hospitals_of_one_opinion_show_it() -> None:
    table = rows("consensus", at_five(0.8, 0.8, 0.8, 0.8, 0.8)) + rows("initial", at_five(0.7, 0.6, 0.7, 0.6, 0.7))
    [pair] = compare(table, "dice", "held-out", lower=False)
    assert pair.shown
    assert pair.verdict == "shown: better"


def test_an_interval_that_holds_zero_shows_nothing() -> None:
    # differences +0.1, +0.1, +0.1, −0.2, +0.1: the mean is 0.04, but b alone can pull a resample below 0
    table = rows("consensus", at_five(0.8, 0.8, 0.8, 0.5, 0.8)) + rows("initial", at_five(0.7, 0.7, 0.7, 0.7, 0.7))
    [pair] = compare(table, "dice", "held-out", lower=False)
    assert pair.difference.value == pytest.approx(0.04)
    assert pair.difference.low < 0 < pair.difference.high
    assert not pair.shown
    assert pair.verdict == "not shown"
    assert pair.better == 4


def test_four_hospitals_show_nothing_however_they_agree() -> None:
    sites = dict.fromkeys("abcd", 0.9)
    table = rows("consensus", sites) + rows("initial", dict.fromkeys("abcd", 0.1))
    [pair] = compare(table, "dice", "held-out", lower=False)
    assert pair.difference.excludes_zero
    assert not pair.shown
    assert pair.verdict == "too few hospitals"


def test_one_hospital_has_no_interval() -> None:
    [pair] = compare(rows("consensus", {"a": 0.8}) + rows("pooled", {"a": 0.7}), "dice", "held-out", lower=False)
    assert math.isnan(pair.difference.low)
    assert pair.verdict == "too few hospitals"


def test_of_millimetres_less_is_better() -> None:
    ours, theirs = at_five(3, 4, 3, 4, 3), at_five(6, 6, 6, 6, 2)
    table = rows("consensus", ours, metric="hd95") + rows("pooled", theirs, metric="hd95")
    [pair] = compare(table, "hd95", "held-out", lower=True)
    # −3, −2, −3, −2, +1: −9 / 5
    assert pair.difference.value == pytest.approx(-1.8)
    assert pair.better == 4
    assert pair.verdict == "shown: better"
    assert (pair.consensus.worst_site, pair.consensus.worst) == ("b", 4)


def test_the_best_local_model_is_picked_in_hindsight_and_says_so() -> None:
    # means over hospitals: x 0.5, y 0.6
    table = rows("consensus", {"a": 0.9, "b": 0.9})
    table += rows("local-only", {"a": 0.8, "b": 0.2}, "x") + rows("local-only", {"a": 0.6, "b": 0.6}, "y")
    [pair] = compare(table, "dice", "held-out", lower=False)
    assert (pair.other.label, pair.other.trained_at) == ("best local-only", "y")
    assert pair.note == "y, the best of 2, chosen in hindsight: a bound in its favour"
    assert pair.difference.value == pytest.approx(0.3)


def test_one_model_is_picked_for_all_regions() -> None:
    table = []
    for region, ours, x, y in (("mean", 0.9, 0.5, 0.6), ("ET", 0.9, 0.8, 0.3), ("WT", 0.9, 0.2, 0.9)):
        table += rows("consensus", {"a": ours}, region=region)
        table += rows("local-only", {"a": x}, "x", region=region) + rows("local-only", {"a": y}, "y", region=region)
    found = compare(table, "dice", "held-out", lower=False)
    assert {(pair.other.region, pair.other.trained_at) for pair in found} == {("mean", "y"), ("ET", "y"), ("WT", "y")}


def test_a_local_model_that_was_not_judged_everywhere_is_no_candidate() -> None:
    table = rows("consensus", {"a": 0.9, "b": 0.9})
    table += rows("local-only", {"a": 1.0}, "x") + rows("local-only", {"a": 0.6, "b": 0.6}, "y")
    [pair] = compare(table, "dice", "held-out", lower=False)
    assert (pair.other.label, pair.other.trained_at) == ("local-only", "y")


def test_each_hospitals_own_model_is_compared_at_home() -> None:
    table = rows("consensus", {"a": 0.9, "b": 0.8})
    table += rows("local-only", {"a": 0.7, "b": 0.1}, "a") + rows("local-only", {"a": 0.1, "b": 0.4}, "b")
    pair = one(compare(table, "dice", "held-out", lower=False), "own local-only")
    # a: 0.9 − 0.7, b: 0.8 − 0.4
    assert pair.difference.value == pytest.approx(0.3)
    assert pair.other.trained_at == "each"


def test_no_gain_over_random_weights_is_printed() -> None:
    table = rows("consensus", {"a": 0.9}) + rows("untrained", {"a": 0.1})
    assert compare(table, "dice", "held-out", lower=False) == ()
    assert [standing.label for standing in standings(table, "dice", "held-out", lower=False)] == [
        "untrained",
        "consensus",
    ]


def test_a_hospital_without_a_value_is_left_out_of_both_sides() -> None:
    table = rows("consensus", {"a": 0.9, "b": 0.5}) + rows("pooled", {"a": 0.8, "b": NAN})
    [pair] = compare(table, "dice", "held-out", lower=False)
    assert pair.consensus.hospitals == pair.other.hospitals == 1
    assert pair.consensus.mean.value == 0.9


def test_the_last_round_is_compared() -> None:
    table = rows("consensus", {"a": 0.99}, round=5) + rows("consensus", {"a": 0.6}, round=9)
    table += rows("pooled", {"a": 0.7})
    [pair] = compare(table, "dice", "held-out", lower=False)
    assert pair.difference.value == pytest.approx(-0.1)


def test_without_a_consensus_nothing_is_compared() -> None:
    assert compare(rows("pooled", {"a": 0.7}), "dice", "held-out", lower=False) == ()
    assert compare([], "dice", "held-out", lower=False) == ()


def test_counts_of_empties_stand_beside_the_mean() -> None:
    table = [replace(row, empty=1, missed=2, spurious=3) for row in rows("consensus", {"a": 0.9, "b": 0.5})]
    [standing] = standings(table, "dice", "held-out", lower=False)
    assert (standing.cases, standing.empty, standing.missed, standing.spurious) == (20, 2, 4, 6)
    assert (standing.worst_site, standing.worst) == ("b", 0.5)


def test_models_come_in_the_order_of_tables() -> None:
    table = [row for model in ("pooled", "floor", "consensus", "initial") for row in rows(model, {"a": 0.5})]
    assert [standing.label for standing in standings(table, "dice", "held-out", lower=False)] == [
        "floor", "initial", "consensus", "pooled",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12), st.randoms())
def test_the_order_of_lines_and_the_sign_of_the_question_change_nothing_else(
    pairs: list[tuple[float, float]], shuffler: Random
) -> None:
    ours = {f"s{index}": pair[0] for index, pair in enumerate(pairs)}
    theirs = {f"s{index}": pair[1] for index, pair in enumerate(pairs)}
    table = rows("consensus", ours) + rows("pooled", theirs)
    mixed = list(table)
    shuffler.shuffle(mixed)
    assert compare(mixed, "dice", "held-out", lower=False) == compare(table, "dice", "held-out", lower=False)
    [forth] = compare(table, "dice", "held-out", lower=False)
    [back] = compare(rows("consensus", theirs) + rows("pooled", ours), "dice", "held-out", lower=False)
    assert back.difference.value == pytest.approx(-forth.difference.value, abs=1e-12)
    assert back.difference.low == pytest.approx(-forth.difference.high, abs=1e-12)


def test_the_same_seed_and_hospitals_give_the_same_draws() -> None:
    assert resampled(FIVE, 1) is resampled(FIVE, 1)
    draws = resampled(("a", "b"), 1)
    assert draws.shape == (RESAMPLES, 2)
    np.testing.assert_allclose(draws.sum(axis=1), 1)
    assert not np.array_equal(draws, resampled(("a", "b"), 2))
    # both hospitals twice as often as one of them twice: 1/4, 1/2, 1/4
    shares = [float(np.mean(draws[:, 0] == share)) for share in (0, 0.5, 1)]
    np.testing.assert_allclose(shares, (0.25, 0.5, 0.25), atol=0.02)


def held(hospitals: int, trials: int) -> float:
    """The share of intervals that hold the true mean, 0, of normal differences."""
    draws = np.random.default_rng(7).normal(size=(trials, hospitals))
    names = [str(number) for number in range(hospitals)]
    found = [interval(values, names, seed=1) for values in draws]
    return float(np.mean([entry.low <= 0 <= entry.high for entry in found]))


def test_what_is_said_of_six_hospitals_is_so() -> None:
    # ± 3 standard deviations of a share of 1,000 trials
    assert held(6, 1000) == pytest.approx(HELD[6], abs=0.035)


@pytest.mark.slow
@pytest.mark.parametrize("hospitals", sorted(HELD))
def test_what_is_said_of_intervals_from_few_hospitals_is_so(hospitals: int) -> None:
    assert held(hospitals, 4000) == pytest.approx(HELD[hospitals], abs=0.025)


def test_what_few_hospitals_are_worth_is_said_in_words() -> None:
    assert "no interval" in worth(1)
    assert worth(3) == (
        "3 hospitals: an interval from so few holds the true mean about 75 % of the time, not 95 %; "
        "all 3 pointing one way happens by chance once in 4. Nothing is shown."
    )
    assert worth(6).endswith("about 86 % of the time, not 95 %.")
    assert "90 %" in worth(11)
    assert worth(20) == ""


def test_the_share_of_the_gap_is_the_ratio_of_means() -> None:
    # initial 0.4, consensus 0.7, pooled 0.8 in the mean: 0.3 / 0.4 = 0.75
    table = rows("initial", {"a": 0.5, "b": 0.3}) + rows("consensus", {"a": 0.8, "b": 0.6})
    table += rows("pooled", {"a": 0.9, "b": 0.7})
    found = gap(table, "dice", "held-out", lower=False)
    assert found is not None
    assert found.share.value == pytest.approx(0.75)
    # at each hospital 0.3 / 0.4, so every resample says the same
    assert (found.share.low, found.share.high) == pytest.approx((0.75, 0.75))
    assert found.whole.value == pytest.approx(0.4)
    assert found.left.value == pytest.approx(-0.1)


def test_the_gap_in_millimetres_has_the_same_sign() -> None:
    table = rows("initial", {"a": 9.0, "b": 9.0}, metric="hd95") + rows(
        "consensus", {"a": 4.0, "b": 4.0}, metric="hd95"
    )
    found = gap(table + rows("pooled", {"a": 5.0, "b": 5.0}, metric="hd95"), "hd95", "held-out", lower=True)
    assert found is not None
    # 5 of 4 mm: more than pooled
    assert found.share.value == pytest.approx(1.25)


def test_there_is_no_gap_where_pooled_is_no_better() -> None:
    table = rows("initial", {"a": 0.8, "b": 0.8}) + rows("consensus", {"a": 0.8, "b": 0.9})
    found = gap(table + rows("pooled", {"a": 0.7, "b": 0.8}), "dice", "held-out", lower=False)
    assert found is not None
    assert math.isnan(found.share.value)
    assert "no gap to close" in found.note


def test_a_share_of_a_gap_that_is_not_shown_has_no_interval() -> None:
    # pooled wins at a and loses at b: some resamples have no gap
    table = rows("initial", {"a": 0.5, "b": 0.5}) + rows("consensus", {"a": 0.6, "b": 0.5})
    found = gap(table + rows("pooled", {"a": 0.9, "b": 0.4}), "dice", "held-out", lower=False)
    assert found is not None
    # 0.05 of 0.15
    assert found.share.value == pytest.approx(1 / 3)
    assert math.isnan(found.share.low)
    assert "no interval" in found.note


def test_random_weights_have_no_gap() -> None:
    table = rows("untrained", {"a": 0.1}) + rows("consensus", {"a": 0.6}) + rows("pooled", {"a": 0.7})
    assert gap(table, "dice", "held-out", lower=False) is None


def test_over_several_runs_a_hospital_stands_for_its_mean() -> None:
    first = rows("consensus", {"a": 0.8, "b": 0.6}) + rows("pooled", {"a": 0.7, "b": 0.7})
    second = rows("consensus", {"a": 0.6, "b": 0.8}) + rows("pooled", {"a": 0.7, "b": 0.5})
    [pair] = compare_of_runs([first, second], "dice", "held-out", lower=False)
    # a: +0.1 and −0.1, b: −0.1 and +0.3; hospitals 0.0 and 0.1; runs 0.0 and 0.1
    assert pair.difference.value == pytest.approx(0.05)
    assert pair.per_run == pytest.approx((0.0, 0.1))
    assert (pair.difference.low, pair.difference.high) == pytest.approx((0.0, 0.1))
    assert pair.consensus.per_run == pytest.approx((0.7, 0.7))
    assert pair.consensus.cases == 40


def test_what_one_run_lacks_is_not_compared() -> None:
    both = rows("consensus", {"a": 0.8, "b": 0.6}) + rows("pooled", {"a": 0.7, "b": 0.7})
    more = rows("consensus", {"a": 0.8}) + rows("pooled", {"a": 0.7}) + rows("initial", {"a": 0.2})
    [pair] = compare_of_runs([both, more], "dice", "held-out", lower=False)
    assert (pair.other.label, pair.other.hospitals) == ("pooled", 1)
    assert gap_of_runs([both, more], "dice", "held-out", lower=False) is None


def test_without_rows_nobody_stands() -> None:
    assert standings([], "dice", "held-out", lower=False) == ()
