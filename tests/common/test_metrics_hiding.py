"""Replicates that leave a real hospital give no patient's score back, and their intervals are as wide as before."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import numpy as np
import pytest

from fedrounds_common.case import F64
from fedrounds_common.metrics import classes, hiding, summary
from fedrounds_common.metrics.rules import METRICS
from fedrounds_common.rng import derive, generator
from fedrounds_common.task import CaseScore, Tally, add_tallies

REGIONS = ("ET", "WT")
SECRET = bytes(range(32))
SEED = derive(7, "bootstrap", "A")  # of a study of seed 7 at a site A: the coordinator knows both


def scored(values: F64) -> list[CaseScore]:
    """Cases called as a reader would, with the numbers (N, R, M) of their own regions and of "mean"."""
    rows = (*REGIONS, summary.MEAN)
    return [
        CaseScore(f"case_{n:04d}", f"case_{n:04d}",
                  {row: dict(zip(METRICS, map(float, value[r]), strict=True)) for r, row in enumerate(rows)},
                  dict.fromkeys(REGIONS, "scored"))
        for n, value in enumerate(values)
    ]  # fmt: skip


def values_of(patients: int) -> F64:
    return generator(0, "scores", patients).normal(0.8, 0.1, (patients, 3, len(METRICS))).clip(0, 1)


def tallied(scores: Sequence[CaseScore], seed: int) -> Tally:
    return summary.tally(scores, REGIONS, 200, seed)


def solved(total: Tally, patients: int) -> F64:
    """What a coordinator makes of the sums with the study's seed and names that it guesses: (patients, columns)."""
    weights = summary.patient_weights([f"case_{n:04d}" for n in range(patients)], 200, SEED).T
    found: F64 = np.linalg.lstsq(weights, total["replicate_sum"].reshape(200, -1), rcond=None)[0]
    return found


def test_guessed_names_and_the_studys_seed_give_no_score_back() -> None:
    values = values_of(60)
    scores, truth = scored(values), values.reshape(60, -1)
    # where the draws are of the study's seed, every score of every patient comes back: the attack is a real one
    np.testing.assert_allclose(solved(tallied(scores, SEED), 60), truth, rtol=0, atol=1e-10)
    found = solved(hiding.in_secret(tallied, scores, SECRET, "A"), 60)
    told = np.corrcoef(found.ravel(), truth.ravel())[0, 1]
    assert abs(told) < 0.2, "of 900 scores that say nothing of each other 0.2 would be six standard errors"
    assert np.abs(found - truth).mean() > truth.std(), "further off than the mean of all"


def nearest(total: Tally, truth: F64) -> float:
    """How far the scores of any patient are from the difference of any two replicates, in the worst of their columns."""
    sums = total["replicate_sum"].reshape(200, -1)
    differences = (sums[:, None] - sums[None]).reshape(-1, sums.shape[1])
    return float(min(np.abs(differences - one).max(axis=-1).min() for one in truth))


def test_whole_numbers_that_nobody_knows_would_still_give_scores_away_and_turned_ones_do_not() -> None:
    values = values_of(10)
    scores, truth = scored(values), values.reshape(10, -1)
    assert nearest(tallied(scores, 12345678901234567890), truth) < 1e-12, "two replicates differ by one patient"
    # the mean of all patients lies nearer than any difference of replicates
    assert nearest(hiding.in_secret(tallied, scores, SECRET, "A"), truth) > 0.2
    assert np.abs(truth - truth.mean(axis=0)).max(axis=1).min() < 0.2


def test_a_turn_keeps_means_and_products_and_nothing_else() -> None:
    plain = generator(1, "replicates").poisson(1.0, (200, 7)).astype(np.float64)
    turned = hiding.turned(plain, SECRET)
    np.testing.assert_allclose(turned.mean(axis=0), plain.mean(axis=0))
    np.testing.assert_allclose(turned.T @ turned, plain.T @ plain)
    assert not np.isclose(np.sort(turned, axis=0), np.sort(plain, axis=0)).all(axis=0).any()
    # what has the same means and products before may have been what was turned: here the replicates in another order
    other = hiding.turned(plain[::-1], SECRET)
    np.testing.assert_allclose(other.T @ other, turned.T @ turned)
    assert hiding.turned(np.zeros((0, 3)), SECRET).shape == (0, 3)
    np.testing.assert_allclose(hiding.turned(plain[:1], SECRET), plain[:1])  # of one replicate there is its mean only


def test_a_turn_is_drawn_evenly_and_long_ones_in_blocks() -> None:
    axis = np.zeros((20, 1))
    axis[0] = 1.0
    away = np.stack([hiding.turned(axis, bytes([k]) * 32) for k in range(200)]) - 1 / 20
    # an even direction among 19 dimensions, of length 19/20 squared: each entry has variance 19 / 400 and no mean but 0,
    # but for the first, of which the turn knows nothing either
    np.testing.assert_allclose((away**2).sum(axis=1), 19 / 20)
    np.testing.assert_allclose(away.mean(axis=0), 0, atol=4 * (19 / 400 / 200) ** 0.5)
    np.testing.assert_allclose((away**2).mean(axis=0), 19 / 400, rtol=0.5)
    long = np.zeros((2 * hiding.BLOCK, 1))
    long[[0, hiding.BLOCK]] = 1.0
    first, second = np.split(hiding.turned(long, SECRET), 2)
    assert (first**2).sum() == pytest.approx(1.0)
    assert not np.allclose(first, second)


def test_the_same_secret_turns_every_model_alike_so_differences_are_paired() -> None:
    first = values_of(40)
    second = first - 0.03 + generator(2, "noise").normal(0, 0.01, first.shape)
    found = [hiding.in_secret(tallied, scored(values), SECRET, "A") for values in (first, second)]
    ours, theirs = (summary.replicate_means(total, 2, 0) for total in found)
    error = (first - second)[:, 2, 0].std() / 40**0.5
    assert (ours - theirs).std() == pytest.approx(error, rel=0.2), "and not as wide as two unpaired means"
    assert ours.std() > 5 * error
    again = hiding.in_secret(tallied, scored(first), SECRET, "A")
    np.testing.assert_array_equal(again["replicate_sum"], found[0]["replicate_sum"])
    others = [hiding.in_secret(tallied, scored(first), *who) for who in ((SECRET, "B"), (SECRET[::-1], "A"))]
    assert not any(np.allclose(other["replicate_sum"], found[0]["replicate_sum"]) for other in others)


def test_intervals_are_as_wide_as_the_standard_error_says() -> None:
    values = values_of(100)
    total = hiding.in_secret(tallied, scored(values), SECRET, "A")
    one = values[:, 0, 0]
    low, high = summary.interval(total, 0, 0)
    assert (high - low) / 2 == pytest.approx(1.96 * one.std() / 10, rel=0.15)
    plain = tallied(scored(values), SEED)
    for name in ("cases", "sum", "count", "patients", "state"):
        np.testing.assert_array_equal(total[name], plain[name])


def test_a_hospital_of_few_patients_is_resampled_as_one() -> None:
    few = [hiding.in_secret(tallied, scored(values_of(n)), SECRET, site) for n, site in ((9, "A"), (8, "B"), (7, "C"))]
    for total in few:
        flat = np.column_stack([total[f"replicate_{name}"].reshape(200, -1) for name in ("sum", "count")])
        whole = np.concatenate([total["sum"].ravel(), total["count"].ravel()])
        np.testing.assert_allclose(
            flat, np.outer(flat[:, -1] / whole[-1], whole), err_msg="multiples of the plain sums"
        )
        row = summary.table(total, REGIONS)[0]
        assert isnan(row.low)
        assert not summary.replicates(total, REGIONS, 0)
    together = summary.table(add_tallies(few), REGIONS)[0]
    assert together.low < together.value < together.high, "hospitals come and go, and all together have an interval"
    assert not isnan(summary.table(hiding.in_secret(tallied, scored(values_of(10)), SECRET, "A"), REGIONS)[0].low)


def test_a_tally_without_replicates_is_left_as_it_is() -> None:
    def counted(scores: Sequence[CaseScore], seed: int) -> Tally:
        return {"patients": np.array([len({score.patient for score in scores})], np.float64)}

    assert hiding.in_secret(counted, scored(values_of(3)), SECRET, "A")["patients"] == [3]


def found_or_not(patients: int, positives: int) -> list[CaseScore]:
    draws, made = generator(3, "findings"), []
    for n in range(patients):
        truth = float(n < positives)
        sure = np.array([np.clip(draws.normal(0.3 + 0.4 * truth, 0.2), 0.01, 0.99)])
        arrays = {
            "probabilities": sure,
            "plain": sure,
            "truth": np.array([truth]),
            "decided": (sure > 0.5).astype(float),
        }
        made.append(CaseScore(f"case_{n}", f"case_{n}", {}, {}, arrays))
    return made


@pytest.mark.parametrize("positives", [2, 20])
def test_rates_of_turned_counts_stay_rates_however_few_are_positive(positives: int) -> None:
    def judged(scores: Sequence[CaseScore], seed: int) -> Tally:
        return classes.tally(scores, 1, 1000, 200, seed, exclusive=False)

    total = hiding.in_secret(judged, found_or_not(40, positives), SECRET, "A")
    if positives == 2:
        assert (total["replicate_confusion"] < 0).any(), "the case that this is about"
    for metric in ("sensitivity", "specificity", "accuracy", "f1", "ppv", "auc"):
        values = classes.replicates(total, ("finding",), metric, exclusive=False)["finding"]
        assert np.nanmin(values) >= 0
        assert np.nanmax(values) <= 1
        assert np.isfinite(values).mean() > 0.9
    for row in classes.table(total, ("finding",), exclusive=False):
        if row.metric in ("accuracy", "specificity", "log_loss", "brier"):
            assert row.low < row.value < row.high
