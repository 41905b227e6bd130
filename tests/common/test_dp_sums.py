"""Sums over hospitals: what one hospital can change of them, what the noise on them is, and how the clip follows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedrounds_common.arrays import Array, Arrays, norm
from fedrounds_common.codecs.float16 import Float16
from fedrounds_common.dp.accounting import epsilon, left_beside_a_count
from fedrounds_common.dp.noise import Secret
from fedrounds_common.dp.sums import CLIP, bounded_part, cut, next_clip, noisy_mean, released, with_clip
from fedrounds_common.errors import UpdateError, UsageError
from fedrounds_common.privacy import NoisySum, Spent
from fedrounds_common.privacy.hospital_dp import HospitalDP
from fedrounds_common.study.tables import Cohort, Training

PLAIN = NoisySum(clip=2.0, multiplier=1.0, whole=1.0, sites=4.0)
SHARED = replace(PLAIN, hand="sites", shares=4)
TRAINED = {"conv.weight", "bias"}
TRAINING, COHORT = Training(rounds=10, local_steps=5), Cohort(per_round=40)


def update(seed: int, length: float = 10.0) -> dict[str, Array]:
    """An update of this norm over its weights, with a counter and a frozen layer beside them."""
    draws = np.random.default_rng(seed)
    arrays = {"conv.weight": draws.normal(size=(30, 7)), "bias": draws.normal(size=5)}
    size = norm(arrays)
    found: dict[str, Array] = {name: (array * length / size).astype(np.float32) for name, array in arrays.items()}
    return {**found, "frozen": np.zeros(3, np.float32), "num_batches_tracked": np.array(200, np.int64)}


def sent(difference: Arrays, how: NoisySum = PLAIN, cases: int = 9) -> Arrays:
    return released(difference, TRAINED, how, how.clip, cases, Secret()).arrays


def total(updates: list[Arrays]) -> dict[str, Array]:
    return {name: sum((each[name].astype(np.float64) for each in updates), np.zeros(1)) for name in updates[0]}


def test_one_hospital_more_changes_the_sum_by_the_clip_and_never_by_more() -> None:
    for seed, length in enumerate([0.5, 2.0, 2.0001, 40.0, 1e6]):
        others = [sent(update(number)) for number in range(100, 103)]
        with_it, without = total([*others, sent(update(seed, length))]), total(others)
        changed = norm({name: with_it[name] - without[name] for name in with_it})
        assert changed <= 2.0
        assert changed == pytest.approx(min(length, 2.0), rel=2e-6)


def test_of_a_hospital_only_the_weights_that_train_leave() -> None:
    # Flower's norm over all arrays: a counter of 200 shrinks an update of norm 0.1 two hundred times, and stays as it is
    short = sent(update(1, 0.1))
    assert norm({name: short[name] for name in TRAINED}) == pytest.approx(0.1, rel=1e-6)
    assert not short["num_batches_tracked"]
    assert short["num_batches_tracked"].dtype == np.int64
    assert not short["frozen"].any()


def test_running_statistics_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"FR-U96 frozen changed in training and is no weight that trains"):
        sent({**update(1), "frozen": np.full(3, 0.1, np.float32)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_before_anything_is_cut(bad: float) -> None:
    spoilt = update(1)
    spoilt["bias"][2] = bad
    with pytest.raises(UpdateError, match="FR-R12"):
        sent(spoilt)


def test_an_update_of_nothing_is_one() -> None:
    nothing = {name: np.zeros_like(array) for name, array in update(1).items()}
    assert norm(sent(nothing)) == 0


def test_a_hospital_with_few_cases_counts_in_proportion_and_none_for_more_than_once() -> None:
    by_cases = replace(PLAIN, cases=20)
    sizes = [norm(sent(update(1), by_cases, cases)) for cases in (5, 20, 5000)]
    np.testing.assert_allclose(sizes, [0.5, 2.0, 2.0], rtol=2e-6)


def test_what_a_codec_made_longer_the_coordinator_cuts_again() -> None:
    leaving = {name: array for name, array in sent(update(3)).items() if name in TRAINED}
    coded, _ = Float16().encode({name: array * np.float32(1.01) for name, array in leaving.items()}, {}, 0)
    came = Float16().decode(coded, leaving)
    assert norm(came) > 2.0
    assert 2.0 - 1e-5 < norm(cut(came, TRAINED, 2.0)) <= 2.0
    assert cut(leaving, TRAINED, 2.0) is leaving
    # and a site that sends what it must not is not believed
    assert not cut({**leaving, "num_batches_tracked": np.array(7)}, TRAINED, 2.0)["num_batches_tracked"]


def is_normal(values: Array, deviation: float) -> None:
    assert stats.kstest(values / deviation, "norm").pvalue > 1e-6
    assert values.std() == pytest.approx(deviation, rel=0.02)


def test_the_coordinators_noise_is_so_many_clips_over_what_the_sum_is_divided_by() -> None:
    like = {"conv.weight": np.zeros((300, 100), np.float32), "bias": np.zeros((), np.float32), "n": np.array(3)}
    mean = noisy_mean({}, like, TRAINED, replace(PLAIN, multiplier=3.0), 2.0, Secret())
    is_normal(mean["conv.weight"].ravel(), 3.0 * 2.0 / 4)
    assert mean["bias"].shape == ()
    assert mean["bias"] != 0
    assert mean["n"] == 0


def test_as_many_shares_as_the_study_wants_sites_at_least_hold_the_whole_noise() -> None:
    nothing = {"conv.weight": np.zeros(30_000, np.float32)}
    shares = [released(nothing, TRAINED, SHARED, 2.0, 9, Secret()).arrays["conv.weight"] for _ in range(4)]
    is_normal(shares[0].astype(np.float64), 2.0 / math.sqrt(4))
    is_normal(np.asarray(np.sum(shares, axis=0, dtype=np.float64)), 2.0)
    # independent of one another
    assert abs(np.corrcoef(shares)[0, 1:]).max() < 0.04
    # and the coordinator adds none of its own
    still = noisy_mean({"conv.weight": np.ones(3)}, {"conv.weight": np.zeros(3)}, TRAINED, SHARED, 2.0, Secret())
    np.testing.assert_array_equal(still["conv.weight"], np.full(3, 0.25))


def test_a_count_beside_the_sum_leaves_the_whole_as_it_was() -> None:
    # of two Gaussians the squares of sensitivity over deviation add: 1 / z_d² + (½ / s_b)² = 1 / z²
    left = left_beside_a_count(1.5, 4.0)
    assert left**-2 + (0.5 / 4.0) ** 2 == pytest.approx(1.5**-2)
    with pytest.raises(ValueError, match="tells more than"):
        left_beside_a_count(8.0, 4.0)


def test_the_clip_goes_where_the_wanted_share_of_hospitals_is_below_it() -> None:
    how, clip = replace(PLAIN, quantile=0.5, pace=0.2, count_noise=1e-9, sites=9.0), 0.1
    for _ in range(200):
        below = [0.5 if size <= clip else -0.5 for size in range(1, 10)]
        clip = next_clip(clip, below, how, Secret())
    assert 4.5 < clip < 5.5
    assert next_clip(1.0, [], PLAIN, Secret()) == 1.0


def test_however_loud_the_count_is_the_clip_moves_by_its_pace_at_most() -> None:
    how = replace(PLAIN, quantile=0.5, pace=0.2, count_noise=1e6)
    moved = {round(abs(math.log(next_clip(1.0, [0.5] * 4, how, Secret()))), 9) for _ in range(20)}
    assert moved == {0.1}


def test_a_site_says_half_a_count_and_what_it_says_beyond_that_counts_as_half() -> None:
    how = replace(PLAIN, quantile=0.5, count_noise=1.0)
    assert [released(update(1, size), TRAINED, how, 2.0, 9, Secret()).below for size in (1.9, 2.1)] == [0.5, -0.5]
    assert released(update(1), TRAINED, PLAIN, 2.0, 9, Secret()).below == 0
    assert [bounded_part(said, how) for said in (0.5, 1e9, -3.0, math.nan)] == [0.5, 0.5, -0.5, 0.0]
    assert with_clip({}, how, 3.0)[CLIP] == 3.0
    assert with_clip({}, PLAIN) == {}


# ---------------------------------------------------------------- the study's table


def measure(**table: Any) -> HospitalDP:
    return HospitalDP(**table)


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_all_rounds_together_stay_just_within_epsilon(accountant: Any) -> None:
    hidden = measure(epsilon=3.0, accountant=accountant)
    spent = hidden.spent(TRAINING, [5] * 10)
    assert spent == Spent(spent.epsilon, 1e-5, "hospital", accountant)
    assert 0.98 * 3.0 < spent.epsilon <= 3.0


def test_a_cohort_that_the_seed_draws_makes_nothing_better() -> None:
    # anybody who has the study can draw it again: each hospital counts as if it were in every round
    hidden = measure(epsilon=None, noise_multiplier=4.0)
    assert hidden.spent(TRAINING, [3, 1, 40]).epsilon == epsilon("rdp", 4.0, 1.0, 3, 1e-5)


def test_the_noise_is_split_between_weights_and_count() -> None:
    fixed = measure(epsilon=None, noise_multiplier=4.0).sum(TRAINING, COHORT)
    assert (fixed.multiplier, fixed.whole, fixed.sites, fixed.shares) == (4.0, 4.0, 40, 1)
    adaptive = measure(epsilon=None, noise_multiplier=4.0, quantile=0.5).sum(TRAINING, COHORT)
    # the larger of 40 / 20 and 2 · 4
    assert adaptive.count_noise == 8.0
    assert adaptive.multiplier == pytest.approx(left_beside_a_count(4.0, 8.0))
    assert adaptive.multiplier / adaptive.whole < 1.04
    by_sites = measure(noise="sites").sum(TRAINING, Cohort(sites=tuple("abcdef"), minimum=3))
    assert (by_sites.hand, by_sites.shares, by_sites.sites) == ("sites", 3, 6)


def test_only_what_the_system_draws_makes_it_better() -> None:
    drawn = measure(epsilon=None, noise_multiplier=4.0, sampling_rate=0.25)
    assert drawn.spent(TRAINING, [1] * 10).epsilon == epsilon("rdp", 4.0, 0.25, 10, 1e-5)
    how = drawn.sum(TRAINING, Cohort(sites=tuple("abcdefgh")))
    assert (how.rate, how.sites) == (0.25, 2.0)


DRAWN = "0.5: each hospital is drawn by itself, and"


@pytest.mark.parametrize(
    ("table", "cohort", "said"),
    [
        ({}, {}, (".sites", "must be given, where neither cohort.sites nor cohort.per_round says how many there are")),
        ({"delta": 0.01}, {"per_round": 200}, (".delta", "0.01: below 1 / hospitals = 0.005: to give one of them away whole would be within it")),
        ({"delta": 0.01, "sampling_rate": 0.25, "sites": 50.0}, {}, (".delta", "0.01: below 1 / hospitals = 0.005: to give one of them away whole would be within it")),
        ({"sampling_rate": 0.5, "noise": "sites", "sites": 3.0}, {}, (".sampling_rate", f"{DRAWN} of those in a round the shares of noise may be too few")),
        ({"sampling_rate": 0.5}, {"per_round": 5}, (".sampling_rate", f"{DRAWN} cohort.per_round draws as many as it says: keep one of the two")),
        ({"sampling_rate": 0.5, "sites": 3.0}, {"late": "next"}, (".sampling_rate", f'{DRAWN} cohort.late = "next" lets one count in a round it was not drawn for')),
        ({"sampling_rate": 0.5, "sites": 3.0}, {"minimum_cases_share": 0.5}, (".sampling_rate", f"{DRAWN} cohort.minimum_cases_share would end a round by who was drawn")),
        ({"epsilon": 1e-9}, {"per_round": 5}, (".epsilon", "1e-09: no noise keeps 10 steps at rate 1 within epsilon 1e-09")),
        ({"epsilon": None, "noise_multiplier": 4.0, "quantile": 0.5, "count_noise": 2.0}, {"per_round": 5}, (".count_noise", "2: above 2, or the count alone tells more than all may")),
    ],
)  # fmt: skip
def test_a_table_that_promises_nothing_that_holds_is_refused(
    table: dict[str, Any], cohort: dict[str, Any], said: tuple[str, str]
) -> None:
    assert measure(**table).around(TRAINING, Cohort(**cohort)) == (said,)
