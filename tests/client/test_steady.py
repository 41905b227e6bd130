"""A consensus that updates cannot have made is refused: altered weights, which would let one image show, do not pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedrounds_client.attacks.inversion import gradients_of
from fedrounds_client.attacks.rebuilding import HEAD, altered
from fedrounds_client.steady import FILE, Steady, rates, sketch
from fedrounds_common.arrays import into_module, of_module
from fedrounds_common.errors import RefusedError
from fedrounds_common.leaving import Ask, Refusal, Update
from fedrounds_common.networks.tiny_cnn import TinyCNN
from fedrounds_common.rng import seeded
from fedrounds_common.study.tables import CaseForm, Training
from fedrounds_common.task import Batch, Example
from fedrounds_common.tasks.classification import Classification


def arrays_of(seed: int, scale: float = 1.0) -> dict[str, Any]:
    draws = np.random.default_rng(seed)
    return {
        name: (scale * draws.normal(size=shape)).astype(np.float32) for name, shape in (("a", (40, 50)), ("b", (7,)))
    }


def test_two_sketches_are_as_far_from_each_other_as_the_tensors_are() -> None:
    one, other = (np.random.default_rng(seed).normal(size=3000).astype(np.float32) for seed in (1, 2))
    found = np.linalg.norm(sketch("w", one) - sketch("w", other))
    assert found == pytest.approx(np.linalg.norm(one - other), rel=0.25)


def plus(one: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    return {name: one[name] + step[name] for name in one}


def test_a_consensus_that_moves_as_updates_do_passes_also_after_rounds_without_this_site(tmp_path: Path) -> None:
    start, step = arrays_of(1), arrays_of(2, 0.01)
    Steady(tmp_path).keep(1, start, step)
    Steady(tmp_path).check(2, plus(start, arrays_of(3, 0.03)))
    # thirty times as far, in five rounds
    far = plus(start, arrays_of(3, 0.3))
    Steady(tmp_path).check(6, far)
    with pytest.raises(RefusedError, match="FR-C38 a has moved by"):
        Steady(tmp_path).check(2, far)


def test_a_consensus_that_grew_with_the_learning_rate_is_no_attack(tmp_path: Path) -> None:
    training = Training(rounds=100, warmup=0.5)
    start, (slow, peak) = arrays_of(1), rates(training, 1)
    Steady(tmp_path).keep(1, start, arrays_of(2, 0.01 * slow), slow)
    far = plus(start, arrays_of(3, 0.05))  # five times as far as this site's rate would carry it at its highest
    assert 10 * 0.01 * peak < 0.05  # and more than ten times as far as it did in round 1
    Steady(tmp_path).check(2, far, rates(training, 50)[1])
    with pytest.raises(RefusedError, match="FR-C38"):
        Steady(tmp_path).check(2, far, peak)


def test_a_tensor_that_hardly_moves_here_may_move_as_the_others_do(tmp_path: Path) -> None:
    start, step = arrays_of(1), arrays_of(2, 0.01)
    Steady(tmp_path).keep(1, start, {**step, "b": step["b"] / 1000})
    Steady(tmp_path).check(2, plus(start, arrays_of(3, 0.03)))
    with pytest.raises(RefusedError, match="FR-C38 b has moved by"):
        Steady(tmp_path).check(2, {**start, "b": start["b"] + 30})


def test_one_tensor_that_was_altered_is_named(tmp_path: Path) -> None:
    start = arrays_of(1)
    Steady(tmp_path).keep(1, start, arrays_of(2, 0.01))
    with pytest.raises(RefusedError, match="FR-C38 b has moved by") as refused:
        Steady(tmp_path).check(2, {**start, "b": start["b"] + 30})
    assert refused.value.exit_status == 7


def test_without_its_file_it_begins_to_look_anew(tmp_path: Path) -> None:
    Steady(tmp_path).keep(1, arrays_of(1), arrays_of(2, 0.01))
    (tmp_path / FILE).write_bytes(b"damaged")
    Steady(tmp_path).check(2, arrays_of(5, 100))


def test_a_real_site_refuses_altered_weights_and_takes_the_honest_ones(
    enrolled: Callable[..., Any], study_ask: Callable[..., Ask]
) -> None:
    site, first = enrolled(), study_ask()
    site.allow(first)
    update = site.answer(first)
    assert isinstance(update, Update)
    honest = {name: first.arrays[name] + update.arrays[name] for name in first.arrays}
    name = next(name for name in honest if name.endswith("weight"))
    trap = {**honest, name: honest[name] + np.float32(50)}
    refused = site.answer(study_ask(round_=2, arrays=trap))
    assert isinstance(refused, Refusal)
    assert refused.code == "FR-C38"
    assert refused.refused
    # with the look off it trains from whatever it is sent
    (site.home.runs / first.run / FILE).unlink()
    assert isinstance(site.answer(replace(study_ask(round_=2, arrays=trap), nonce="off")), Update)


def test_a_layer_that_the_network_has_not_is_refused(
    enrolled: Callable[..., Any], study_ask: Callable[..., Ask]
) -> None:
    # an imprint module before the network, as Fowl et al. 2021 (arXiv:2110.13057) send: networks come from the wheel
    site, ask = enrolled(), study_ask()
    site.allow(ask)
    refused = site.answer(replace(ask, arrays={"imprint.weight": np.ones((4, 8), np.float32), **ask.arrays}))
    assert isinstance(refused, Refusal)


def test_altered_weights_let_one_image_through_alone() -> None:
    task, form = Classification(temperature=False), CaseForm(dims=2, classes=("well", "ill"))
    with seeded(1):
        network = task.network(TinyCNN(channels=(4, 8)), form)
    start, draws = of_module(network), np.random.default_rng(1)
    images = torch.from_numpy(draws.normal(size=(4, 1, 12, 12)).astype(np.float32))
    targets = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])

    def share_of_the_first() -> float:
        """Cosine of the batch's gradient with that of its first image."""
        flat = [
            torch.cat([each.ravel() for each in gradients_of(network, task, Batch(images[:n], targets[:n])).values()])
            for n in (1, 4)
        ]
        return float(torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0))

    assert share_of_the_first() < 0.9
    trap = altered(start, Example(images[0].numpy(), targets[0].numpy()))
    assert trap is not None
    assert float(np.abs(trap[HEAD] - start[HEAD]).max()) == pytest.approx(30)
    into_module(network, trap)
    assert share_of_the_first() > 0.9999
