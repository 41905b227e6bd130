"""Tallies of classes: those of the sites add to the table of all cases, and its numbers are those of the cases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fedrounds_common.metrics import classes, curves, summary
from fedrounds_common.task import CaseScore, Metric, add_tallies

NAMES = ("a", "b", "c")


def scores(cases: int, *, exclusive: bool, seed: int = 0, classes_: int = 3) -> list[CaseScore]:
    draws = np.random.default_rng(seed)
    found = []
    for number in range(cases):
        odds = draws.normal(0, 1.5, classes_)
        if exclusive:
            p = np.exp(odds) / np.exp(odds).sum()
            truth = np.eye(classes_)[draws.choice(classes_, p=p)]
            decided = np.eye(classes_)[p.argmax()]
        else:
            p = 1 / (1 + np.exp(-odds))
            truth, decided = (draws.random(classes_) < p).astype(float), (p >= 0.5).astype(float)
        plain = np.clip(p**2 / (p**2).sum(), 0, 1) if exclusive else p**2
        arrays = {"probabilities": p, "plain": plain, "truth": truth, "decided": decided}
        found.append(CaseScore(f"c{number}", f"p{number // 2}", {}, {}, arrays))
    return found


def table_of(
    parts: Sequence[Sequence[CaseScore]], *, exclusive: bool, bins: int = 1000, resamples: int = 20
) -> dict[tuple[str, str], Metric]:
    tallies = [classes.tally(part, 3, bins, resamples, 5, exclusive=exclusive) for part in parts]
    return {(row.region, row.metric): row for row in classes.table(add_tallies(tallies), NAMES, exclusive=exclusive)}


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_tallies_of_sites_add_to_that_of_all_cases(exclusive: bool) -> None:
    every = scores(60, exclusive=exclusive)
    parts = [every[:10], every[10:12], every[12:], []]
    tallies = [classes.tally(part, 3, 1000, 20, 5, exclusive=exclusive) for part in parts]
    total, whole = add_tallies(tallies), classes.tally(every, 3, 1000, 20, 5, exclusive=exclusive)
    assert set(total) == set(whole)
    for name, array in whole.items():
        assert array.dtype == np.float64
        if name == "replicate_ranked":  # of pairs within a site: fewer than those of all cases
            assert (total[name] <= array).all()
            continue
        np.testing.assert_allclose(total[name], array, rtol=0, atol=1e-9, err_msg=name)
        if name in ("cases", "patients", "confusion", "histogram", "matrix"):
            np.testing.assert_array_equal(total[name], array)
    assert [manifest.shape for manifest in tallies[-1].values()] == [array.shape for array in whole.values()]


@pytest.mark.parametrize("metric", ["auc", "accuracy", "mcc", "log_loss_scaled"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_a_replicate_is_the_table_of_patients_who_count_as_often_as_they_were_drawn(
    metric: str, exclusive: bool
) -> None:
    every, resamples = scores(40, exclusive=exclusive), 6
    found = classes.replicates(
        classes.tally(every, 3, 1000, resamples, 5, exclusive=exclusive), NAMES, metric, exclusive=exclusive
    )
    weights = summary.patient_weights([score.patient for score in every], resamples, 5)
    for draw in range(resamples):
        # each case as often as its patient was drawn, and the numbers of that
        again = [score for score, often in zip(every, weights[:, draw], strict=True) for _ in range(int(often))]
        total = classes.tally(again, 3, 1000, 2, 5, exclusive=exclusive)
        wanted = {
            row.region: row.value for row in classes.table(total, NAMES, exclusive=exclusive) if row.metric == metric
        }
        for region in (*NAMES, "mean"):
            assert found[region][draw] == pytest.approx(wanted[region], nan_ok=True), region


def test_what_is_not_resampled_has_no_replicates_and_neither_has_one_patient() -> None:
    total = classes.tally(scores(40, exclusive=True), 3, 1000, 6, 5, exclusive=True)
    assert classes.replicates(total, NAMES, "ap", exclusive=True) == {}
    alone = classes.tally(scores(2, exclusive=True), 3, 1000, 6, 5, exclusive=True)
    assert classes.replicates(alone, NAMES, "auc", exclusive=True) == {}


def test_every_number_of_the_table_is_that_of_the_cases() -> None:
    every = scores(80, exclusive=True)
    table = table_of([every[:30], every[30:]], exclusive=True, bins=10_000)
    p, plain, truth, decided = (np.array([s.arrays[name] for s in every]) for name in ("probabilities", "plain", "truth", "decided"))  # fmt: skip
    right = (truth * decided).sum(1)
    assert table["mean", "accuracy"].value == pytest.approx(right.mean())
    assert table["b", "tp"].value == (truth * decided)[:, 1].sum()
    assert table["b", "positives"].value == truth[:, 1].sum()
    assert table["mean", "log_loss"].value == pytest.approx(-np.log((plain * truth).sum(1)).mean())
    assert table["mean", "log_loss_scaled"].value == pytest.approx(-np.log((p * truth).sum(1)).mean())
    assert table["mean", "brier"].value == pytest.approx(((p - truth) ** 2).sum(1).mean())
    assert table["c", "brier"].value == pytest.approx(((p - truth) ** 2)[:, 2].mean())
    for place, name in enumerate(NAMES):
        counts = curves.histogram(p[:, place], truth[:, place], 10_000)
        assert table[name, "auc"].value == pytest.approx(curves.auc(counts), abs=1e-12)
        positive, negative = p[truth[:, place] == 1, place], p[truth[:, place] == 0, place]
        exact = float((positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2)
        assert abs(table[name, "auc"].value - exact) <= table[name, "auc_bound"].value + 1e-12
    assert table["mean", "auc"].value == pytest.approx(np.mean([table[name, "auc"].value for name in NAMES]))
    sure, best = p.max(1), p.argmax(1)
    bins = np.minimum((sure * 15).astype(int), 14)
    gaps = [abs((sure - truth[np.arange(80), best])[bins == b].sum()) for b in range(15)]
    assert table["mean", "ece_scaled"].value == pytest.approx(sum(gaps) / 80)
    assert table["mean", "ece"].value != table["mean", "ece_scaled"].value


def test_beside_every_number_stand_cases_and_true_negatives_misses_and_false_alarms() -> None:
    row = table_of([scores(40, exclusive=True)], exclusive=True)
    for name in NAMES:
        counted = [row[name, metric].value for metric in ("tn", "fn", "fp")]
        of_row = row[name, "auc"]
        assert [of_row.empty, of_row.missed, of_row.spurious] == counted
        assert of_row.n == 40 == sum(counted) + row[name, "tp"].value
    assert row["mean", "accuracy"].missed == sum(row[name, "fn"].value for name in NAMES)


@pytest.mark.parametrize("exclusive", [True, False])
def test_intervals_hold_their_value_and_narrow_with_patients(exclusive: bool) -> None:
    few, many = (table_of([scores(n, exclusive=exclusive)], exclusive=exclusive, resamples=200) for n in (40, 640))
    for key in [
        ("mean", "accuracy"),
        ("mean", "auc"),
        ("a", "auc"),
        ("a", "ap"),
        ("a", "sensitivity"),
        ("mean", "log_loss"),
    ]:
        for table in (few, many):
            assert table[key].low <= table[key].value <= table[key].high, key
        assert many[key].high - many[key].low < few[key].high - few[key].low, key
    # resampling finds more miscalibration than there is, as it finds other noise: only its order is asked for
    assert 0 <= many["mean", "ece"].low <= many["mean", "ece"].high


def test_of_one_patient_or_of_none_nothing_is_said_beyond_the_value() -> None:
    two_of_one = scores(2, exclusive=True)
    table = table_of([two_of_one], exclusive=True)
    assert all(math.isnan(row.low) and math.isnan(row.high) for row in table.values())
    assert not math.isnan(table["mean", "accuracy"].value)
    nothing = table_of([[]], exclusive=True)
    assert all(
        math.isnan(row.value) or (row.value == 0 and row.metric in ("tp", "fp", "tn", "fn", "positives"))
        for row in nothing.values()
    )
    assert all(row.n == 0 for row in nothing.values())


def test_a_class_nobody_has_is_nan_and_leaves_the_mean_to_the_others() -> None:
    every = [score for score in scores(60, exclusive=True) if score.arrays["truth"][2] == 0]
    table = table_of([every], exclusive=True)
    assert all(math.isnan(table["c", metric].value) for metric in ("auc", "ap", "sensitivity", "auc_bound"))
    assert table["mean", "auc"].value == pytest.approx((table["a", "auc"].value + table["b", "auc"].value) / 2)


def test_what_leaves_of_six_classes_is_small() -> None:
    found = classes.tally(scores(10, exclusive=True, classes_=6), 6, 10_000, 200, 0, exclusive=True)
    assert sum(array.nbytes for array in found.values()) < 1_200_000
