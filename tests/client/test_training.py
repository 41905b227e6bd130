"""Local training: the schedule by hand, the same bits for the same labels, moments that stay, and what stops it."""

from __future__ import annotations

import gc
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NoReturn, final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrounds_client.ahead import each_made, spare_core
from fedrounds_client.training import Piece, Result, learning_rate, steps_per_round, train
from fedrounds_common.arrays import Arrays, digest, of_module
from fedrounds_common.case import Case, CaseRef
from fedrounds_common.errors import RoundError
from fedrounds_common.neighbours import VARIABLE
from fedrounds_common.study.tables import CaseForm, Training
from fedrounds_common.task import Batch, Example, Task

FORM = CaseForm()
CASES = [Case(CaseRef("c", "p"), np.zeros((1, 2), np.float32), None, np.eye(4))]
# one rate, nothing clipped, nothing decayed: every step can be done by hand
PLAIN = Training(
    batch=2, optimiser="sgd", momentum=0.0, weight_decay=0.0, schedule="constant", warmup=0.0, gradient_norm=None,
    learning_rate=0.5,
)  # fmt: skip


def never(*_: object) -> NoReturn:
    raise AssertionError("local training does not judge")


@dataclass(frozen=True)
class Unjudged(Task):
    """A task that is only ever trained: what `train` needs and no more."""

    random: bool = False
    drawn: list[int] = field(default_factory=list)

    def network(self, network: Any, form: CaseForm) -> nn.Module:
        never()

    def draw(self, cases: Any, form: Any, training: Any, rng: np.random.Generator) -> Example:
        self.drawn.append(len(self.drawn))
        x = rng.normal(size=3) if self.random else np.arange(3.0)
        return Example(x.astype(np.float32), np.array([1.0], np.float32))

    def predict(self, *_: Any) -> Any:
        never()

    decide = score = tally = table = picture = predict


@final
@dataclass(frozen=True)
class Downhill(Unjudged):
    """The loss is the weight itself times `slope`: its gradient is `slope` wherever the weight is."""

    slope: float = 1.0

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        (weight,) = network.parameters()
        return self.slope * weight.expand(len(batch.image))


@final
@dataclass(frozen=True)
class Fit(Unjudged):
    """Least squares of a small network; what it draws may be random, and dropout is."""

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        return ((network(batch.image) - batch.target) ** 2).mean(1)


class Weight(nn.Module):
    """One weight, 10 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(10.0))


def small(dropout: float = 0.0) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def run(network: nn.Module, task: Task, training: Training, steps: int = 3, **more: Any) -> Result:
    piece = more.pop("piece", Piece(steps, 0, steps, 7, ("round", 1, "A")))
    return train(network, task, CASES, FORM, training, piece, more.pop("start", of_module(network)), **more)


# ---------------------------------------------------------------- how much, how fast


@pytest.mark.parametrize(
    ("fields", "cases", "steps"),
    [
        ({"local_steps": 7}, 100, 7),
        ({"batch": 2}, 9, 5),  # one pass: 9 / 2, rounded up
        ({"batch": 2, "local_epochs": 2.0}, 9, 9),
        ({"batch": 4, "local_epochs": 0.5}, 9, 2),  # 4.5 cases
        ({"batch": 8, "local_epochs": 0.01}, 3, 1),  # never none
        ({"batch": 100}, 1, 1),
    ],
)
def test_steps_of_a_round(fields: dict[str, Any], cases: int, steps: int) -> None:
    assert steps_per_round(Training(**fields), cases) == steps


def test_the_rate_warms_up_and_then_falls_as_a_cosine_to_nothing() -> None:
    training = Training(learning_rate=0.3, warmup=0.25, schedule="cosine")
    # 2 of 8 steps warm: 0.3 * 1/3, 0.3 * 2/3; then 0.15 * (1 + cos(pi * 0 .. 5/6)); at the end 0
    wanted = [0.1, 0.2] + [0.15 * (1 + math.cos(math.pi * k / 6)) for k in range(7)]
    assert [learning_rate(training, step, 8) for step in range(9)] == pytest.approx(wanted, abs=1e-12)
    assert learning_rate(training, 8, 8) == pytest.approx(0, abs=1e-12)


def test_the_rate_falls_on_a_line_or_stays() -> None:
    linear = Training(learning_rate=0.4, warmup=0.0, schedule="linear")
    assert [learning_rate(linear, step, 4) for step in range(5)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    constant = replace(linear, schedule="constant")
    assert {learning_rate(constant, step, 4) for step in range(5)} == {0.4}


@settings(max_examples=100, deadline=None)
@given(
    total=st.integers(1, 300),
    warmup=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_no_step_has_a_rate_below_nothing_or_above_the_studys(total: int, warmup: float, schedule: Any) -> None:
    training = Training(learning_rate=0.01, warmup=warmup, schedule=schedule)
    rates = [learning_rate(training, step, total) for step in range(total)]
    assert all(0 <= rate <= 0.01 * (1 + 1e-12) for rate in rates)
    peak = rates.index(max(rates))
    assert all(a <= b + 1e-15 for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b - 1e-15 for a, b in pairwise(rates[peak:]))


def test_each_step_is_taken_at_its_place_in_the_whole_schedule() -> None:
    training = replace(PLAIN, learning_rate=0.4, schedule="linear")
    # steps 5, 6 and 7 of 8 have rates 0.4 * 3/8, 2/8 and 1/8; the gradient is 1: 10 - 0.4 * 6/8 = 9.7
    result = run(Weight(), Downhill(), training, piece=Piece(3, 5, 8, 0, ("round", 2)))
    np.testing.assert_allclose(result.arrays["w"], 9.7, rtol=1e-6)
    # losses are those before each step: 10, 9.85, 9.75
    assert result.loss == pytest.approx((10 + 9.85 + 9.75) / 3, rel=1e-6)


def test_a_step_takes_a_batch_of_examples() -> None:
    task = Downhill()
    run(Weight(), task, replace(PLAIN, batch=3), steps=4)
    assert len(task.drawn) == 12


# ---------------------------------------------------------------- the same bits


def test_the_same_labels_give_the_same_bits_and_others_do_not() -> None:
    training = Training(batch=2, learning_rate=0.01)

    def weights(*labels: str | int, seed: int = 7) -> str:
        network = small(dropout=0.5)
        return digest(run(network, Fit(random=True), training, piece=Piece(5, 0, 5, seed, labels)).arrays)

    assert weights("round", 1, "A") == weights("round", 1, "A")
    assert (
        len({weights("round", 1, "A"), weights("round", 2, "A"), weights("round", 1, "B"), weights("A", seed=8)}) == 4
    )


def test_what_ran_before_in_the_process_changes_nothing_and_nothing_is_left_behind() -> None:
    network = small(dropout=0.5)
    start = of_module(network)

    def weights() -> str:
        return digest(run(network, Fit(random=True), Training(batch=2), steps=4, start=start).arrays)

    torch.manual_seed(1)
    first = weights()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert weights() == first
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_begins_at_the_weights_it_is_given_and_leaves_them_alone() -> None:
    start = {"w": np.array(4.0, np.float32)}
    result = run(Weight(), Downhill(), PLAIN, steps=2, start=start)
    # 4 - 2 * 0.5
    np.testing.assert_array_equal(result.arrays["w"], 3.0)
    np.testing.assert_array_equal(start["w"], 4.0)


# ---------------------------------------------------------------- moments


def twice(training: Training, keep: bool) -> Arrays:
    """Two pieces of four steps of one schedule over eight; the second begins where the first ended."""
    network = small()
    first = run(network, Fit(), training, piece=Piece(4, 0, 8, 7, ("round", 1)))
    moments = first.moments if keep else {}
    second = run(
        small(), Fit(), training, piece=Piece(4, 4, 8, 7, ("round", 2)), start=first.arrays, moments=moments
    )  # fmt: skip
    return second.arrays


OPTIMISERS = {
    "adamw": Training(optimiser="adamw", learning_rate=0.05),
    "adam": Training(optimiser="adam", learning_rate=0.05),
    "sgd": Training(optimiser="sgd", learning_rate=0.05, momentum=0.9),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_two_pieces_with_kept_moments_are_one_piece_to_the_bit(optimiser: str) -> None:
    training = OPTIMISERS[optimiser]
    whole = run(small(), Fit(), training, piece=Piece(8, 0, 8, 7, ("round", 1)))
    assert digest(twice(training, keep=True)) == digest(whole.arrays)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_fresh_moments_go_another_way(optimiser: str) -> None:
    training = OPTIMISERS[optimiser]
    assert digest(twice(training, keep=False)) != digest(twice(training, keep=True))


def test_weights_are_averaged_after_the_steps_that_are_named_and_after_no_other() -> None:
    training, task = replace(PLAIN, learning_rate=1.0), Downhill()
    after = [run(Weight(), task, training, piece=Piece(n, 0, 4, 7, ("baseline",))).arrays["w"] for n in (1, 2, 3, 4)]
    assert len({float(w) for w in after}) == 4
    mean = run(Weight(), task, training, piece=Piece(4, 0, 4, 7, ("baseline",)), averaged=frozenset({2, 4}))
    assert mean.arrays["w"] == np.float32((float(after[1]) + float(after[3])) / 2)


def test_moments_are_named_by_turn_entry_and_tensor_and_are_copies() -> None:
    network = small()
    result = run(network, Fit(), OPTIMISERS["adamw"])
    assert sorted(result.moments) == sorted(
        f"/{entry}/{name}" for entry in ("step", "exp_avg", "exp_avg_sq") for name, _ in network.named_parameters()
    )
    assert float(result.moments["/step/0.weight"]) == 3
    held = digest(result.moments)
    run(network, Fit(), OPTIMISERS["adamw"], moments=result.moments)
    assert digest(result.moments) == held


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_of_the_first_moment_as_much_is_kept_as_the_study_says(optimiser: Any) -> None:
    training = replace(PLAIN, optimiser=optimiser, momentum=0.3)
    (moment,) = (value for name, value in run(Weight(), Downhill(slope=2.0), training, steps=2).moments.items()
                 if name == "/exp_avg/w")  # fmt: skip
    np.testing.assert_allclose(moment, 0.3 * (0.7 * 2) + 0.7 * 2, rtol=1e-6)


def test_plain_gradient_descent_has_no_moments() -> None:
    assert run(small(), Fit(), replace(OPTIMISERS["sgd"], momentum=0.0)).moments == {}


def test_what_is_frozen_does_not_move_and_has_no_moments() -> None:
    network = small()
    next(iter(network.children())).requires_grad_(False)
    start = of_module(network)
    result = run(network, Fit(), OPTIMISERS["adamw"])
    np.testing.assert_array_equal(result.arrays["0.weight"], start["0.weight"])
    assert not np.array_equal(result.arrays["3.weight"], start["3.weight"])
    assert not any(name.endswith(("/0.weight", "/0.bias")) for name in result.moments)


@final
@dataclass(frozen=True)
class TwoTurns(Unjudged):
    """Two losses, one after the other, each with an optimiser of its own."""

    turns = ("down", "up")

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        (weight,) = network.parameters()
        return (1.0 if turn == "down" else -3.0) * weight.expand(len(batch.image))


def test_each_turn_has_an_optimiser_of_its_own() -> None:
    training = replace(PLAIN, momentum=0.5)
    first = run(Weight(), TwoTurns(), training, steps=2)
    # velocities: down 1, 1.5; up -3, -4.5; the rate is 0.5: 10 - 0.5 * (1 - 3 + 1.5 - 4.5) = 12.5
    np.testing.assert_allclose(first.arrays["w"], 12.5)
    assert {name: float(array) for name, array in first.moments.items()} == {
        "down/momentum_buffer/w": 1.5,
        "up/momentum_buffer/w": -4.5,
    }


@final
@dataclass(frozen=True)
class HalfEach(Unjudged):
    """Each turn trains one of two layers, though the loss of both runs through the whole network."""

    turns = ("first", "second")

    def parameters(self, network: nn.Module, turn: str) -> list[nn.Parameter]:
        return list(network.get_submodule("0" if turn == "first" else "3").parameters())

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        return ((network(batch.image) - batch.target) ** 2).mean(1)


def test_a_turn_whose_weights_are_all_frozen_is_passed_over() -> None:
    network = small()
    network.get_submodule("3").requires_grad_(False)
    start = of_module(network)
    result = run(network, HalfEach(), PLAIN, steps=2)
    moved = {name for name in start if not np.array_equal(start[name], result.arrays[name])}
    assert moved == {"0.weight", "0.bias"}


# ---------------------------------------------------------------- what is done to a gradient, and what stops a round


def test_the_strategys_correction_comes_after_the_clipping() -> None:
    seen: list[tuple[float, float]] = []

    def correct(gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        seen.append((float(gradients["w"]), float(weights["w"])))
        gradients["w"].add_(5)

    training = replace(PLAIN, gradient_norm=1.0, learning_rate=1.0)
    result = run(Weight(), Downhill(slope=100), training, steps=2, correct=correct)
    # 100 is clipped to 1 and 5 are added: 10 - 6 - 6. Clipped afterwards it would have been 10 - 1 - 1
    np.testing.assert_allclose(result.arrays["w"], -2.0, atol=1e-4)
    assert seen == [pytest.approx((1.0, 10.0), abs=1e-4), pytest.approx((1.0, 4.0), abs=1e-4)]


def test_without_a_bound_nothing_is_clipped() -> None:
    result = run(Weight(), Downhill(slope=100), replace(PLAIN, gradient_norm=None, learning_rate=1.0), steps=1)
    np.testing.assert_allclose(result.arrays["w"], -90.0)


@pytest.mark.parametrize("slope", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_no_number_ends_the_round(slope: float) -> None:
    with pytest.raises(RoundError, match=r"FR-R30 the loss became (nan|inf|-inf)"):
        run(Weight(), Downhill(slope=slope), PLAIN)


@final
@dataclass(frozen=True)
class Diverging(Unjudged):
    """Finite for two steps."""

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        (weight,) = network.parameters()
        return (weight / (0.0 if len(self.drawn) > 4 else 1.0)).expand(len(batch.image))


def test_a_loss_that_is_no_number_in_a_later_step_ends_the_round_too() -> None:
    with pytest.raises(RoundError, match="FR-R30"):
        run(Weight(), Diverging(), PLAIN, steps=3)


def test_with_bf16_the_weights_stay_float32_and_the_loss_falls() -> None:
    training = replace(OPTIMISERS["adam"], amp="bf16")
    first, last = (run(small(), Fit(), training, steps=steps) for steps in (1, 40))
    dtypes: Sequence[np.dtype[Any]] = [array.dtype for array in last.arrays.values()]
    assert set(dtypes) == {np.dtype(np.float32)}
    assert last.loss < first.loss


# ---------------------------------------------------------------- drawn beside the step


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_batches_drawn_beside_the_steps_give_the_same_bits(steps: int) -> None:
    training = replace(PLAIN, optimiser="adamw", learning_rate=0.01)
    found = [run(small(0.3), Fit(random=True), training, steps, beside=beside) for beside in (False, True)]
    assert digest(found[0].arrays) == digest(found[1].arrays)
    assert digest(found[0].moments) == digest(found[1].moments)
    assert found[0].loss == found[1].loss


@pytest.mark.parametrize("beside", [False, True])
def test_no_more_examples_are_drawn_than_the_steps_take(beside: bool) -> None:
    task = Fit()
    run(small(), task, PLAIN, 5, beside=beside)
    assert len(task.drawn) == 5 * PLAIN.batch


@pytest.mark.parametrize("beside", [False, True])
def test_what_goes_wrong_in_drawing_is_raised_at_its_step(beside: bool) -> None:
    made: list[int] = []

    def make() -> int:
        if len(made) == 3:
            raise RoundError("FR-R30", "the fourth")
        made.append(len(made))
        return made[-1]

    used: list[int] = []
    with pytest.raises(RoundError, match="the fourth"):
        used.extend(number for number, _ in each_made(make, 9, beside=beside))
    assert used == [0, 1, 2]


def test_who_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    for number, _ in each_made(lambda: 1, 9, beside=True):
        if number:
            break
    gc.collect()
    assert threading.active_count() == before


def test_a_core_is_spare_where_not_all_are_kept_busy() -> None:
    cores = len(os.sched_getaffinity(0))
    assert spare_core(1, cores - 1) == (cores > 1)
    assert not spare_core(1, cores)
    assert not spare_core(cores)


def test_a_worker_that_is_told_how_many_are_here_believes_that_and_not_the_study(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setenv(VARIABLE, str(cores))  # on Ray, where the study's 0 means as many as fit
    assert not spare_core(1, 0)
    monkeypatch.setenv(VARIABLE, "1")  # of a hundred on a cluster, one here
    assert spare_core(1, 100) == (cores > 1)
