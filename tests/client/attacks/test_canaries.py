"""The canary audit: its bound is the paper's, its coins are the system's, and it catches what is broken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from fedrounds_client.attacks.canaries import LONGER, Claim, audit, claims, look_for
from fedrounds_client.attacks.evidence import area, between, epsilon_at_least, p_value, rate_at
from fedrounds_client.attacks.guessing import Guesses, power_of
from fedrounds_common.dp.accounting import epsilon
from fedrounds_common.dp.shuffling import shuffled_epsilon
from fedrounds_common.privacy import NoisySteps
from fedrounds_common.privacy.dp_sgd import DPSGD
from fedrounds_common.study.tables import Training

BARE = NoisySteps(rate=1.0, clip=0.5, multiplier=0.0, batch=10)


def test_the_bound_is_the_one_the_paper_prints() -> None:
    # Steinke et al. 2023, appendix D: 75 right of 100 guesses, 1,000 canaries, delta 1e-4, 95 %
    assert epsilon_at_least(1000, 100, 75, 1e-4) == pytest.approx(0.673, abs=5e-4)


def test_without_delta_it_is_the_tail_of_a_binomial() -> None:
    # epsilon 0: a fair coin for each guess
    assert p_value(1000, 10, 9, 0.0, 0.0) == pytest.approx(11 / 1024)
    assert p_value(1000, 10, 9, np.log(3), 0.0) == pytest.approx(float(binom.sf(8, 10, 0.75)))


def test_of_guesses_that_keep_to_epsilon_one_in_twenty_is_refuted_at_most() -> None:
    # randomised response at epsilon 1, which is the hardest case: each guess is right with probability e / (1 + e)
    rng = np.random.default_rng(1)
    right = rng.binomial(200, np.e / (1 + np.e), 4000)
    refuted = np.mean([epsilon_at_least(200, 200, int(each), 0.0) > 1 for each in right])
    assert 0.02 < refuted < 0.055


@pytest.mark.parametrize("patients", [1, 10_000])
def test_a_canary_moves_its_own_weight_by_the_clip_and_no_other(patients: int) -> None:
    # however many patients the study wants at a site: how many canaries come is left to coins
    bare = replace(BARE, patients=patients)
    put_in = np.zeros(500, bool)
    put_in[[3, 77]] = True
    alone = look_for(put_in, bare, 1, 0.5) - look_for(np.zeros(500, bool), bare, 1, 0.5)
    np.testing.assert_allclose(alone[put_in], 1.0, atol=1e-3)
    np.testing.assert_allclose(alone[~put_in], 0.0, atol=1e-3)


def test_without_a_clip_it_is_moved_by_the_whole_gradient() -> None:
    put_in = np.ones(50, bool)
    seen = look_for(put_in, replace(BARE, clip=1e6), 1, 0.5)
    assert float(np.median(seen)) == pytest.approx(LONGER, rel=0.05)


def test_noise_of_so_many_clips_is_found_in_the_weights() -> None:
    seen = look_for(np.zeros(1000, bool), replace(BARE, multiplier=3.0), 4, 0.5)
    # four steps of standard deviation 3
    assert float(seen.std()) == pytest.approx(6.0, rel=0.1)


def test_a_claim_is_what_the_studys_own_measure_says() -> None:
    training = Training(rounds=3, local_steps=4, batch=10)
    found = claims([DPSGD(epsilon=2.0)], training)
    assert [each.number for each in found] == [12]
    assert 1.9 < found[0].epsilon <= 2.0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["real", "noise left out", "clipping left out"])
def test_the_real_mechanism_passes_and_a_broken_one_is_caught(what: str) -> None:
    # one Gaussian sum at multiplier 4.05: epsilon 1 at delta 1e-5
    claim = Claim(1.0, 1e-5, NoisySteps(1.0, 1.0, 4.05, 100), 1)
    uncut = replace(claim.steps, clip=1e6, multiplier=4.05e-6)
    done = {"real": claim.steps, "noise left out": replace(claim.steps, multiplier=0.0), "clipping left out": uncut}
    found = audit(claim, 400, done[what])
    assert found.refuted == (what != "real")
    assert 140 < found.put_in < 260
    assert "power: 19 of 20" in found.text()


@pytest.mark.slow
def test_the_power_says_from_which_epsilon_on_an_audit_refutes() -> None:
    steps = NoisySteps(1.0, 1.0, 4.05, 100)
    power = power_of(steps, 1, 1.0, 1e-5, 1000)
    assert power.smallest is not None
    assert power.multiplier is not None
    # a noise of a third: 3.36; the audit sees little above it, and more canaries see more
    assert 2.5 < power.smallest < 6
    few = power_of(steps, 1, 1.0, 1e-5, 100)
    assert few.multiplier is None or few.multiplier < power.multiplier


def test_an_audit_of_too_few_canaries_says_that_it_could_have_found_nothing() -> None:
    power = power_of(NoisySteps(1.0, 1.0, 1.5, 100), 1, 3.0, 1e-5, 40)
    assert power.multiplier is None
    assert power.text().startswith("none")


def test_guesses_are_counted_on_both_sides() -> None:
    seen = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    put_in = np.array([True, False, True, False, True, False])
    # said to be in: the first two, of which one is; said to be out: the last two, of which one is
    assert Guesses(2, 2).right(seen, put_in) == 2
    assert Guesses(2, 0).right(seen, put_in) == 1


# ---------------------------------------------------------------- shuffled batches


def test_shuffled_batches_cost_more_than_an_account_of_poisson_samples_says() -> None:
    least, poisson = shuffled_epsilon(1.0, 100, 1e-5), epsilon("rdp", 1.0, 0.01, 100, 1e-5)
    assert poisson < 1.3 < 4 < least


def test_of_a_single_batch_it_is_at_most_what_a_gaussian_sum_costs() -> None:
    # nothing is shuffled: everybody is in the one batch, and the sum differs by 1
    assert 0.9 < shuffled_epsilon(2.0, 1, 1e-5) / epsilon("rdp", 2.0, 1.0, 1, 1e-5) <= 1


# ---------------------------------------------------------------- counts


def test_true_positives_are_those_above_all_but_so_many_others() -> None:
    others = np.arange(200.0)
    # 1 % of 200: two may lie above, 199 and 198; found is what lies above 197
    found = rate_at(np.array([197.0, 197.5, 250.0]), others, 0.01)
    assert (found.allowed, found.hits) == (2, 2)


def test_a_rate_below_what_so_few_can_show_is_called_so() -> None:
    assert not rate_at(np.ones(5), np.zeros(50), 0.01).measurable
    assert rate_at(np.ones(5), np.zeros(100), 0.01).measurable


def test_members_found_by_chance_refute_nothing_and_all_of_them_do() -> None:
    rng = np.random.default_rng(0)
    chance = rate_at(rng.random(1000), rng.random(1000), 0.01)
    assert chance.epsilon == 0
    every = rate_at(np.full(1000, 2.0), rng.random(1000), 0.01)
    assert every.epsilon > 3.9
    assert 0.01 < every.needed < 0.04


def test_an_interval_holds_its_share() -> None:
    # by hand: 0 of 10: 1 - 0.025 ** (1 / 10)
    assert between(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert between(10, 10) == (pytest.approx(0.025**0.1), 1.0)


def test_the_area_is_one_where_every_member_lies_above_and_a_half_of_equals() -> None:
    assert area(np.array([3.0, 4.0]), np.array([1.0, 2.0]))[0] == 1
    assert area(np.ones(4), np.ones(5))[0] == 0.5
