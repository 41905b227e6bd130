"""DP-SGD at a site: the sum by hand, patients as the unit, noise where nobody was drawn, and nothing that a seed decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrounds_client.private import Lost, Own, PatientSteps, by_patient
from fedrounds_client.several import pace
from fedrounds_client.training import Piece, Result, train
from fedrounds_common.arrays import Arrays, of_module
from fedrounds_common.case import Case, CaseRef
from fedrounds_common.dp.noise import Secret
from fedrounds_common.errors import CaseError, RefusedError, UsageError
from fedrounds_common.privacy import NoisySteps
from fedrounds_common.strategies.fedprox import FedProx
from fedrounds_common.study.tables import CaseForm, Training
from fedrounds_common.task import Batch, Example, Task

FORM = CaseForm()
PLAIN = Training(
    batch=4, local_steps=1, optimiser="sgd", momentum=0.0, weight_decay=0.0, schedule="constant", warmup=0.0,
    gradient_norm=None, learning_rate=0.5,
)  # fmt: skip
# everybody in every step and no noise: what is left can be done by hand
BARE = NoisySteps(rate=1.0, clip=1e9, multiplier=0.0, batch=4)


def never(*_: object) -> NoReturn:
    raise AssertionError("local training does not judge")


@dataclass(frozen=True)
class Least(Task):
    """Least squares of what lies in a case's image: its last number is the target."""

    def network(self, network: Any, form: Any) -> nn.Module:
        never()

    def draw(self, cases: Any, form: Any, training: Any, rng: np.random.Generator) -> Example:
        image = cases[int(rng.integers(len(cases)))].image.ravel()
        if len(image) == 0:
            raise CaseError("FR-D40", "nothing in it")
        return Example(image[:-1], image[-1:])

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        return ((network(batch.image) - batch.target) ** 2).mean(1)

    def predict(self, *_: Any) -> Any:
        never()

    decide = score = tally = table = picture = predict


def cases_of(*patients: Sequence[Sequence[float]]) -> list[Case]:
    return [
        Case(CaseRef(f"{patient}-{number}", f"p{patient}"), np.array([values], np.float32), None, np.eye(4))
        for patient, own in enumerate(patients)
        for number, values in enumerate(own)
    ]


def random_cases(patients: int = 6, each: int = 1, seed: int = 0) -> list[Case]:
    rng = np.random.default_rng(seed)
    return cases_of(*[[list(rng.normal(size=4)) for _ in range(each)] for _ in range(patients)])


def linear(seed: int = 0) -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def trained(
    cases: Sequence[Case], noisy: NoisySteps | None = BARE, network: nn.Module | None = None, steps: int = 1,
    training: Training = PLAIN, start: Arrays | None = None, **more: Any,
) -> Result:  # fmt: skip
    network = network or linear()
    piece = Piece(steps, 0, steps, 7, ("test",))
    return train(
        network, Least(), cases, FORM, training, piece, start or of_module(network), noisy=noisy, **more
    )  # fmt: skip


def moved(result: Result, start: Arrays) -> np.ndarray[Any, Any]:
    """What the one step took, back in units of the gradient."""
    return np.concatenate([((start[name] - result.arrays[name]) / 0.5).ravel() for name in start])


def naive(network: nn.Module, cases: Sequence[Case], clip: float) -> np.ndarray[Any, Any]:
    """The sum of the patients' gradients, each cut, by autograd and a loop."""
    total = np.zeros(sum(each.numel() for each in network.parameters()))
    for case in cases:
        network.zero_grad()
        image = torch.from_numpy(case.image.ravel())
        ((network(image[None, :-1]) - image[-1:]) ** 2).mean().backward()
        flat = torch.cat([each.grad.ravel() for each in network.parameters() if each.grad is not None]).double()
        total += (flat * min(1.0, clip / float(flat.norm()))).numpy()
    return total


# ---------------------------------------------------------------- the sum


@pytest.mark.parametrize("clip", [1e9, 1.0, 0.01])
def test_the_clipped_sum_is_that_of_a_naive_loop(clip: float) -> None:
    cases, network = random_cases(), linear()
    named = dict(network.named_parameters())
    images = [torch.from_numpy(case.image) for case in cases]
    batches = [Batch(image[:, :-1], image[:, -1:]) for image in images]

    def backward(batch: Batch) -> None:
        Least().loss(network, batch, "", torch.Generator()).mean().backward()

    PatientSteps.of(replace(BARE, clip=clip, batch=1), cases).gradients(named, batches, backward)
    found = np.concatenate([each.grad.numpy().ravel() for each in named.values() if each.grad is not None])
    wanted = naive(linear(), cases, clip)
    assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_it_is_divided_by_the_batch_of_the_study_and_not_by_who_was_drawn() -> None:
    # 1 w, gradient of (w x - t)^2 = 2 x (w x - t); x = 1, w = 0: -2 t; four patients' 2 + 4 + 6 + 8 = 20, by 4 and by 10
    network = nn.Linear(1, 1, bias=False)
    start = {"weight": np.zeros((1, 1), np.float32)}
    cases = cases_of(*[[[1.0, float(t)]] for t in (1, 2, 3, 4)])
    for batch, wanted in ((4, -5.0), (10, -2.0)):
        result = trained(cases, replace(BARE, batch=batch), network, start=start)
        assert moved(result, start) == pytest.approx([wanted])


def test_all_images_of_a_patient_are_cut_together() -> None:
    # gradients -2 t of the images t = 1 and t = 3 of one patient: their mean, -4, cut to 1, and not 1 each
    start = {"weight": np.zeros((1, 1), np.float32)}
    cases = cases_of([[1.0, 1.0], [1.0, 3.0]])
    noisy = replace(BARE, examples=64, batch=1)
    whole = trained(cases, noisy, nn.Linear(1, 1, bias=False), start=start)
    assert -6 < float(moved(whole, start)[0]) < -2
    cut = trained(cases, replace(noisy, clip=1.0), nn.Linear(1, 1, bias=False), start=start)
    assert moved(cut, start) == pytest.approx([-1.0], rel=1e-5)


def test_one_patient_can_move_the_sum_by_the_clip_at_most() -> None:
    cases, start = random_cases(8), of_module(linear())
    noisy = replace(BARE, clip=0.1, batch=1)
    whole = moved(trained(cases, noisy), start)
    for left_out in range(8):
        without = moved(trained([case for case in cases if case.ref.patient != f"p{left_out}"], noisy), start)
        assert np.linalg.norm(whole - without) <= 0.1 * (1 + 1e-4)


def test_a_batch_in_pieces_gives_the_same_sum() -> None:
    cases, start = random_cases(4, each=1), of_module(linear())
    noisy = replace(BARE, clip=0.3, examples=4)
    whole, pieces = (moved(trained(cases, noisy, pieces=count), start) for count in (1, 2))
    np.testing.assert_allclose(whole, pieces, rtol=1e-5, atol=1e-6)


def test_what_does_not_train_gets_no_noise() -> None:
    network = linear()
    network[0].weight.requires_grad_(False)
    start = of_module(network)
    result = trained(random_cases(), replace(BARE, multiplier=1.0, clip=1.0), network)
    changed = {name: bool((start[name] != result.arrays[name]).any()) for name in start}
    assert changed == {"0.weight": False, "0.bias": True, "2.weight": True, "2.bias": True}


# ---------------------------------------------------------------- the noise


@final
class Unused(nn.Module):
    """A layer that no loss goes through: without noise on it, it would show that there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(3, 1), nn.Linear(300, 100, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("rate", [1.0, 1e-9])
def test_noise_has_the_deviation_that_was_accounted_for_whoever_was_drawn(rate: float) -> None:
    # multiplier 3 · clip 0.5 / batch 4 = 0.375, also of a step with nobody in it
    network = Unused()
    start = of_module(network)
    result = trained(random_cases(), NoisySteps(rate, 0.5, 3.0, 4), network)
    noise = (start["idle.weight"] - result.arrays["idle.weight"]) / 0.5
    assert noise.std() == pytest.approx(0.375, rel=0.03)  # 30,000 draws: 3 % are seven deviations
    assert abs(noise.mean()) < 0.375 * 6 / math.sqrt(noise.size)


def test_two_rounds_of_one_seed_differ_and_say_so_in_every_entry() -> None:
    cases = random_cases()
    noisy = NoisySteps(0.5, 1.0, 1.0, 4)
    one, other = (trained(cases, noisy) for _ in range(2))
    for name in one.arrays:
        assert (one.arrays[name] != other.arrays[name]).all()


def test_drawing_does_not_follow_the_seed_and_keeps_the_rate() -> None:
    steps = PatientSteps.of(NoisySteps(0.3, 1.0, 1.0, 4), random_cases(50))
    batch = Batch(torch.zeros(1, 3), torch.zeros(1, 1))
    sizes = np.array([len(steps.draw(lambda own, count: batch)) for _ in range(2000)])
    # binomial of 50 patients at 0.3: mean 15, variance 10.5; 2000 draws
    assert sizes.mean() == pytest.approx(15, abs=6 * math.sqrt(10.5 / 2000))
    assert sizes.var() == pytest.approx(10.5, rel=0.25)
    assert len({steps.seed() for _ in range(10)}) == 10


def test_the_noise_is_not_the_draws_stream() -> None:
    steps = PatientSteps.of(BARE, random_cases())
    assert isinstance(steps._noise, Secret)
    assert steps._noise is not steps._draws


def test_with_a_thread_that_draws_beside_it_is_the_same_mechanism() -> None:
    cases, start = random_cases(), of_module(linear())
    alone, beside = (trained(cases, replace(BARE, clip=0.5), steps=3, beside=each) for each in (False, True))
    np.testing.assert_allclose(moved(alone, start), moved(beside, start), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- the strategy


def test_fedproxs_pull_is_neither_cut_nor_lost() -> None:
    # w0 = 0, w = 1: the pull is mu (w - w0) = 10, a hundred clips; the patients' part is at most 0.1 / 4 each
    network = nn.Linear(1, 1, bias=False)
    start = {"weight": np.ones((1, 1), np.float32)}
    consensus = {"weight": torch.zeros(1, 1)}

    def correct(gradients: Any, weights: Any) -> None:
        FedProx(mu=10.0).correct(gradients, weights, consensus, {})

    cases, noisy = cases_of([[1.0, 5.0]]), replace(BARE, clip=0.1)
    plain = moved(trained(cases, noisy, network, start=start), start)
    pulled = moved(trained(cases, noisy, network, start=start, correct=correct), start)
    assert plain == pytest.approx([-0.025], rel=1e-3)
    assert pulled - plain == pytest.approx([10.0], rel=1e-5)


def test_the_norm_of_the_whole_gradient_is_not_cut_once_more() -> None:
    cases, start = random_cases(), of_module(linear())
    free, bound = (
        moved(trained(cases, replace(BARE, clip=5.0), training=replace(PLAIN, gradient_norm=norm)), start)
        for norm in (None, 1e-3)
    )
    np.testing.assert_allclose(free, bound, rtol=1e-6)


# ---------------------------------------------------------------- what must not show


@pytest.mark.parametrize(
    ("bad", "lost"),
    [
        ([math.nan, 1.0, 1.0, 1.0], Lost(0, 1)),
        ([1.0, 1.0, 1.0, math.inf], Lost(0, 1)),
        ([1e30, 1e30, 1.0, 1.0], Lost(0, 1)),
        ([], Lost(1, 0)),
        ([1.0] * 7, Lost(1, 0)),  # of a shape that torch refuses in the network
    ],
)
def test_a_patient_whose_images_are_broken_adds_nothing_and_stops_nothing(bad: list[float], lost: Lost) -> None:
    good, start = random_cases(5), of_module(linear())
    broken = Case(CaseRef("x", "broken"), np.array([bad], np.float32), None, np.eye(4))
    noisy = replace(BARE, clip=0.5)
    network = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1)) if bad and bad[0] == 1e30 else None
    start = start if network is None else of_module(network)
    with_it = trained([*good, broken], noisy, network, start=start)
    without = trained(good, noisy, network, start=start)
    np.testing.assert_allclose(moved(with_it, start), moved(without, start), rtol=1e-5, atol=1e-6)
    assert with_it.lost == lost
    assert not without.lost


def test_no_loss_is_told_of_noisy_steps() -> None:
    assert trained(random_cases(), None).loss > 0
    assert trained(random_cases()).loss == 0


def test_too_few_patients_take_no_part_however_many_images_they_have() -> None:
    cases = random_cases(3, each=5)
    trained(cases, replace(BARE, patients=3))
    with pytest.raises(RefusedError, match=r"FR-C35 .*3 patients to train on; the 4 of"):
        trained(cases, replace(BARE, patients=4))


def test_cases_are_grouped_by_patient_and_opened_when_asked_for() -> None:
    cases = cases_of([[1.0]], [[2.0], [3.0]])
    assert by_patient([cases[1], cases[0], cases[2]]) == [[0, 2], [1]]
    own = Own(cases, [1, 2])
    assert [case.ref.name for case in own] == ["1-0", "1-1"]
    assert [case.ref.name for case in own[:1]] == ["1-0"]


def test_a_network_that_mixes_patients_is_refused_before_any_step() -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    with pytest.raises(UsageError, match=r"FR-U95 .*1 \(BatchNorm1d\)"):
        trained(random_cases(), network=network)


@final
class Counts(nn.Module):
    """Keeps how often it was asked; after the first look that is as before."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(1))
        self.looks = 0

    def forward(self, x: Tensor) -> Tensor:
        self.looks += 1
        if self.looks > 2:
            self.seen += 1
        return self.line(x)  # type: ignore[no-any-return]


def test_what_has_no_noise_comes_back_as_it_was() -> None:
    network = Counts()
    start = of_module(network)
    result = trained(random_cases(), NoisySteps(1.0, 1.0, 1.0, 4), network, steps=3)
    assert float(network.seen) > 0
    assert float(result.arrays["seen"][0]) == 0
    assert (result.arrays["line.weight"] != start["line.weight"]).all()


def test_why_patients_go_one_at_a_time_is_said_once_and_is_no_loss() -> None:
    pace.cache_clear()
    network = nn.Sequential(nn.Linear(3, 1), Sorted())
    first, second = (trained(random_cases(), network=network) for _ in range(2))
    assert first.lost.alone.startswith("RuntimeError")
    assert not first.lost
    assert second.lost.alone == ""


@final
class Sorted(nn.Module):
    """A value decides, which several patients at once cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x if bool((x.detach() > -1e9).all()) else -x


def test_where_no_patient_at_all_can_be_drawn_from_it_says_why() -> None:
    with pytest.raises(CaseError, match="FR-D40"):
        trained(cases_of([[]], [[]]))
