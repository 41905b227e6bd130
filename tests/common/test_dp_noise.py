"""The noise has the law it claims, comes from the operating system, and from nothing that anybody outside knows."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from fedrounds_common import rng
from fedrounds_common.dp.noise import BLOCK, Secret

DRAWS = 10**6


def test_a_million_draws_are_normal() -> None:
    drawn = Secret().normal(DRAWS)
    assert stats.kstest(drawn, "norm").pvalue > 1e-6
    assert abs(drawn.std() - 1) < 0.005
    # of a million, the largest is beyond 4 in all but one case in 10^13
    assert np.abs(drawn).max() > 4


def test_a_million_draws_are_uniform_and_never_0() -> None:
    drawn = Secret().uniform(DRAWS)
    assert stats.kstest(drawn, "uniform").pvalue > 1e-6
    assert drawn.min() > 0
    assert drawn.max() <= 1


def test_pairs_of_one_angle_are_independent() -> None:
    drawn = Secret().normal(DRAWS)
    # Box and Muller's two numbers of one radius lie half the draws apart; sd of a correlation of n pairs is 1/sqrt(n)
    half = DRAWS // 2
    for one, other in ((drawn[:half], drawn[half:]), (drawn[:half] ** 2, drawn[half:] ** 2), (drawn[1:], drawn[:-1])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 6 / np.sqrt(half)


def test_two_streams_of_rounds_or_sites_have_nothing_in_common() -> None:
    one, other = Secret().normal(DRAWS), Secret().normal(DRAWS)
    assert not np.any(one == other)
    assert abs(np.corrcoef(one, other)[0, 1]) < 6 / np.sqrt(DRAWS)


def test_the_seed_changes_nothing_of_it() -> None:
    seen = set()
    for _ in range(3):
        with rng.seeded(1):
            np.random.seed(1)  # noqa: NPY002  (what a library could seed)
            seen.add(Secret().normal(4).tobytes())
    assert len(seen) == 3


def _first(pipe: object, secret: Secret) -> None:
    pipe.send(secret.normal(4).tolist())  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_a_stream_of_its_own() -> None:
    secret = Secret()
    here, there = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=_first, args=(there, secret))
    child.start()
    theirs = here.recv()
    child.join()
    assert theirs != secret.normal(4).tolist()


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_can_be_neither_copied_nor_written_down(take: object) -> None:
    with pytest.raises(TypeError, match="stays in its process"):
        take(Secret())  # type: ignore[operator]


def test_it_is_in_no_log_and_shows_no_key(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        secret = Secret()
        secret.normal(8)
    assert caplog.records == []
    assert repr(secret) == "Secret()"
    assert not [value for value in vars(secret).values() if isinstance(value, bytes)]


def test_noise_is_added_to_every_entry_past_one_block() -> None:
    tensor = torch.full((BLOCK + 1000, 3), 5.0)
    Secret().add_to(tensor, 2.0)
    assert len(np.unique((tensor - 5).numpy())) > 0.99 * tensor.numel()
    assert abs(float((tensor - 5).std()) - 2) < 0.03
