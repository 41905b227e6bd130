"""Epsilon is what others compute for the same noise, and never below what the privacy loss itself integrates to."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from opacus.accountants import RDPAccountant
from scipy.integrate import quad

from fedrounds_common.dp import accounting

# multiplier, rate, steps, delta; epsilon by dp-accounting 0.4.4's RdpAccountant at the orders 2 to 256, computed once:
# it wants NumPy below 2 and cannot be installed beside ours. At orders between whole numbers it adds up the absolute
# values of a series whose signs alternate, and claims a little more than the integral is.
SETTINGS = [
    (0.5, 0.01, 100, 1e-5, 10.661181), (0.6, 0.02, 200, 1e-5, 9.777041), (0.7, 0.2, 50, 1e-3, 17.388598),
    (0.8, 0.001, 5000, 1e-6, 1.631586), (0.9, 0.05, 300, 1e-5, 8.11178), (1.0, 0.01, 1000, 1e-5, 2.107753),
    (1.0, 1.0, 5, 1e-5, 12.301691), (1.0, 0.1, 100, 1e-5, 7.972922), (1.1, 0.01, 10000, 1e-5, 5.654308),
    (1.3, 0.05, 600, 1e-6, 6.378293), (1.5, 0.5, 20, 1e-4, 8.091277), (2.0, 0.02, 2000, 1e-5, 2.113174),
    (2.0, 1.0, 30, 1e-5, 16.051691), (2.5, 0.1, 500, 1e-5, 4.532308), (3.0, 0.05, 4000, 1e-6, 5.817922),
    (4.0, 0.1, 1000, 1e-6, 4.149802), (5.0, 0.2, 400, 1e-5, 3.772329), (8.0, 1.0, 100, 1e-5, 6.158978),
    (10.0, 0.1, 2000, 1e-7, 2.369042), (20.0, 0.05, 300, 1e-5, 0.152883),
]  # fmt: skip


@pytest.mark.parametrize(("multiplier", "rate", "steps", "delta", "theirs"), SETTINGS)
def test_epsilon_is_that_of_opacus(multiplier: float, rate: float, steps: int, delta: float, theirs: float) -> None:
    opacus = RDPAccountant()
    opacus.history = [(multiplier, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best order is the last one
        wanted = opacus.get_epsilon(delta, alphas=list(accounting.ORDERS))
    assert accounting.epsilon("rdp", multiplier, rate, steps, delta) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize(("multiplier", "rate", "steps", "delta", "theirs"), SETTINGS)
def test_epsilon_is_that_of_dp_accounting(
    multiplier: float, rate: float, steps: int, delta: float, theirs: float
) -> None:
    whole = [float(order) for order in range(2, 257)]
    ours = accounting.epsilon_of(steps * accounting.divergence(multiplier, rate, whole), delta, whole)
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("order", [1.1, 1.7, 2.5, 9.3])
def test_between_whole_orders_it_is_the_integral(order: float) -> None:
    def integrand(x: float) -> float:
        density = math.exp(-(x**2) / (2 * 0.49)) / math.sqrt(2 * math.pi * 0.49)
        return density * (0.8 + 0.2 * math.exp((2 * x - 1) / (2 * 0.49))) ** order

    whole, _ = quad(integrand, -10, 20, epsabs=1e-14, limit=500)
    (found,) = accounting.divergence(0.7, 0.2, [order])
    assert found == pytest.approx(math.log(whole) / (order - 1), rel=1e-9)


def test_of_hardly_any_divergence_no_digit_is_lost() -> None:
    # order 2: log(1 + q^2 (exp(1/s^2) - 1)), here 1e-12 or so
    (found,) = accounting.divergence(5.0, 5e-6, [2.0])
    assert found == pytest.approx(math.log1p(25e-12 * math.expm1(1 / 25)), rel=1e-6)


def tight(multiplier: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon from the privacy loss itself, on a grid, rounded up: independent of any Rényi divergence.

    Its distribution when the patient is there, and when not, convolved with itself `steps` times by Fourier's transform.
    """
    return max(_tight(multiplier, rate, steps, delta, there) for there in (True, False))


def _tight(multiplier: float, rate: float, steps: int, delta: float, there: bool) -> float:
    width, size = 2e-4, 2**19
    x = np.linspace(-12 * multiplier, 12 * multiplier + 1, 400_001)
    cell = x[1] - x[0]

    def density(centre: float) -> NDArray[np.float64]:
        return np.exp(-(((x - centre) / multiplier) ** 2) / 2) / (multiplier * math.sqrt(2 * math.pi)) * cell

    mixed = (1 - rate) * density(0) + rate * density(1)
    loss = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * multiplier**2))
    loss, mass = (loss, mixed) if there else (-loss, density(0))
    places = np.ceil(loss / width).astype(int)
    grid = np.bincount(places % size, mass, size)
    total = np.fft.irfft(np.fft.rfft(grid) ** steps, size)
    losses = width * np.where(np.arange(size) < size // 2, np.arange(size), np.arange(size) - size)
    order = np.argsort(losses)
    losses, total = losses[order], np.maximum(total[order], 0)

    def delta_of(epsilon: float) -> float:
        above = losses > epsilon
        return float((total[above] * -np.expm1(epsilon - losses[above])).sum())

    low, high = 0.0, 50.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(middle) <= delta else (middle, high)
    return high


@pytest.mark.parametrize(
    ("multiplier", "rate", "steps", "delta"), [(1.0, 0.05, 100, 1e-5), (2.0, 0.1, 200, 1e-5), (0.8, 0.02, 50, 1e-4)]
)
def test_no_bound_is_below_the_integrated_privacy_loss(
    multiplier: float, rate: float, steps: int, delta: float
) -> None:
    truth = tight(multiplier, rate, steps, delta)
    prv = accounting.epsilon("prv", multiplier, rate, steps, delta)
    rdp = accounting.epsilon("rdp", multiplier, rate, steps, delta)
    assert prv == pytest.approx(truth, abs=0.03)
    assert prv < rdp
    assert truth - 0.03 < rdp < 1.5 * truth


@pytest.mark.parametrize(("target", "rate", "steps"), [(8.0, 0.05, 500), (1.0, 0.01, 1000), (3.0, 1.0, 20)])
def test_the_noise_found_is_the_least_that_suffices(target: float, rate: float, steps: int) -> None:
    found = accounting.noise_multiplier("rdp", target, rate, steps, 1e-5)
    assert accounting.epsilon("rdp", found, rate, steps, 1e-5) <= target
    assert accounting.epsilon("rdp", found - 0.001, rate, steps, 1e-5) > target


def test_what_no_noise_can_keep_is_said() -> None:
    with pytest.raises(ValueError, match="no noise keeps 1000000000 steps at rate 1 within epsilon 0.01"):
        accounting.noise_multiplier("rdp", 0.01, 1.0, 10**9, 1e-5)


def test_rounds_add_up_as_steps_do_and_none_costs_nothing() -> None:
    assert accounting.epsilon("rdp", 1.0, 0.1, 0, 1e-5) == 0
    # a step more can only cost more
    spent = [accounting.epsilon("rdp", 1.0, 0.1, steps, 1e-5) for steps in (1, 10, 100, 1000)]
    assert spent == sorted(spent)


def test_a_site_accounts_without_waiting_for_torch() -> None:
    code = "import sys; from fedrounds_common.dp.accounting import epsilon; epsilon('rdp', 1, .1, 9, 1e-5); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
